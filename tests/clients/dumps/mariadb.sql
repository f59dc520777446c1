-- What only MariaDB has.

CREATE TABLE addresses (
  id INT PRIMARY KEY, four INET4, six INET6, u UUID, z INT(7) ZEROFILL, small TEXT COMPRESSED,
  kept INT AS (id * 2) PERSISTENT
) ENGINE=InnoDB;
INSERT INTO addresses (id, four, six, u, z, small) VALUES
  (1, '0.0.0.0', '::', '00000000-0000-0000-0000-000000000000', 42, REPEAT('squeeze ', 500)),
  (2, '255.255.255.255', 'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 0, ''),
  (3, '192.0.2.1', '::ffff:192.0.2.1', UUID(), 9999999, 'x'),
  (4, NULL, NULL, NULL, NULL, NULL);

CREATE TABLE crashed (id INT PRIMARY KEY, v VARCHAR(10)) ENGINE=Aria;
INSERT INTO crashed VALUES (1, 'aria');

CREATE SEQUENCE counter START WITH 100 INCREMENT BY 10 CACHE 5;

/*M!110701 CREATE TABLE vectors (id INT PRIMARY KEY, v VECTOR(3) NOT NULL) */;
/*M!110701 INSERT INTO vectors VALUES (1, VEC_FromText('[1,-2.5,3e10]')) */;
