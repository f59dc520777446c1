-- What both servers have: a table with every column type, and everything beside tables that a dump contains.

CREATE TABLE numbers (
  id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  t TINYINT, tu TINYINT UNSIGNED, s SMALLINT, su SMALLINT UNSIGNED, m MEDIUMINT, mu MEDIUMINT UNSIGNED,
  i INT, iu INT UNSIGNED, b BIGINT, bu BIGINT UNSIGNED, flag BOOLEAN,
  d DECIMAL(65,30), d5 DECIMAL(5,2) DEFAULT -1.50, f FLOAT, dbl DOUBLE, bit1 BIT(1), bit64 BIT(64),
  KEY (iu), UNIQUE KEY (b)
);
INSERT INTO numbers VALUES
  (1, -128, 0, -32768, 0, -8388608, 0, -2147483648, 0, -9223372036854775808, 0, FALSE,
   -99999999999999999999999999999999999.999999999999999999999999999999, -999.99, -3.40282e38, -1.7976931348623157e308,
   b'0', 0),
  (2, 127, 255, 32767, 65535, 8388607, 16777215, 2147483647, 4294967295, 9223372036854775807, 18446744073709551615, TRUE,
   99999999999999999999999999999999999.999999999999999999999999999999, 999.99, 3.40282e38, 1.7976931348623157e308,
   b'1', 0xFFFFFFFFFFFFFFFF),
  (3, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, NULL, 0, 0, 1.17549e-38, 2.2250738585072014e-308, b'1', 0x8000000000000001);
INSERT INTO numbers (t, d5, f, dbl) VALUES (NULL, NULL, 0.1, 0.1), (NULL, DEFAULT, NULL, NULL);

CREATE TABLE moments (
  id INT PRIMARY KEY,
  d DATE, y YEAR, t TIME, t3 TIME(3), t6 TIME(6), dt DATETIME, dt3 DATETIME(3), dt6 DATETIME(6),
  ts TIMESTAMP NULL, ts6 TIMESTAMP(6) NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6)
);
INSERT INTO moments VALUES
  (1, '1000-01-01', 1901, '-838:59:59', '-838:59:58.999', '-838:59:58.999999', '1000-01-01 00:00:00',
   '1000-01-01 00:00:00.001', '1000-01-01 00:00:00.000001', '1971-01-01 00:00:01', '1971-01-01 00:00:01.000001'),
  (2, '9999-12-31', 2155, '838:59:59', '838:59:58.999', '838:59:58.999999', '9999-12-31 23:59:59',
   '9999-12-31 23:59:59.999', '9999-12-31 23:59:59.999999', '2037-12-31 23:59:59', '2037-12-31 23:59:59.999999'),
  (3, '2024-02-29', 0, '00:00:00', '00:00:00', '00:00:00.000001', '2024-02-29 12:00:00', '2024-02-29 12:00:00.5',
   '2024-02-29 12:00:00.25', '2024-03-31 02:30:00', '2024-10-27 02:30:00.125'),
  (4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);

CREATE TABLE texts (
  id INT PRIMARY KEY,
  c CHAR(20), v VARCHAR(2000), tiny TINYTEXT, txt TEXT, med MEDIUMTEXT, lng LONGTEXT,
  latin VARCHAR(300) CHARACTER SET latin1, greek VARCHAR(50) CHARACTER SET greek, u16 VARCHAR(50) CHARACTER SET utf16,
  folded VARCHAR(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
  e ENUM('', 'a', 'ß', 'it''s', 'back\\slash', 'comma,'), st SET('x', 'y', '日本', 'z'), j JSON
) CHARACTER SET utf8mb4;
INSERT INTO texts VALUES
  (1, '', '', '', '', '', '', '', '', '', '', '', '', '{}'),
  (2, 'end spaces', 'quote '' dquote " back \\ nul \0 cr \r lf \n tab \t z \Z per % under _', 'NULL', '\\N', '-- x', '/* x */',
   'äöüßÿ', 'αβγ', '日本語', 'Straße', 'it''s', 'x,日本', '{"a": [1, 2.5, null, true, "\\u00e9 😀"], "b": {"c": ""}}'),
  (3, '日本語', '😀🏳️‍🌈', REPEAT('é', 127), REPEAT('t', 65535), REPEAT('é', 70000), REPEAT('日本', 40000), NULL, NULL, '😀', '😀',
   'back\\slash', 'x,y,日本,z', '[]'),
  (4, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);

CREATE TABLE octets (
  id INT PRIMARY KEY, b BINARY(16), vb VARBINARY(3000), tiny TINYBLOB, blb BLOB, med MEDIUMBLOB, lng LONGBLOB,
  latin VARCHAR(256) CHARACTER SET latin1
);
DELIMITER //
CREATE PROCEDURE every_octet()
BEGIN
  DECLARE n INT DEFAULT 0;
  DECLARE all_of_them VARBINARY(256) DEFAULT '';
  WHILE n < 256 DO
    SET all_of_them = CONCAT(all_of_them, UNHEX(LPAD(HEX(n), 2, '0')));
    SET n = n + 1;
  END WHILE;
  INSERT INTO octets VALUES
    (1, LEFT(all_of_them, 16), all_of_them, LEFT(all_of_them, 255), all_of_them, REPEAT(all_of_them, 300),
     REPEAT(REVERSE(all_of_them), 4200), CONVERT(all_of_them USING latin1)),
    (2, '', '', '', '', '', '', ''),
    (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (4, REPEAT('\0', 16), '\0', '\'', '\\', '\Z', '\n', ' ');
END//
DELIMITER ;
CALL every_octet();

-- longer than one packet of the protocol
CREATE TABLE giant (id INT PRIMARY KEY, content LONGBLOB);
INSERT INTO giant VALUES (1, REPEAT(0x00FF27225C0A1A80, 17 * 131072));

CREATE TABLE shapes (
  id INT PRIMARY KEY, g GEOMETRY, p POINT NOT NULL, l LINESTRING, pg POLYGON, mp MULTIPOINT, ml MULTILINESTRING,
  mpg MULTIPOLYGON, gc GEOMETRYCOLLECTION
);
INSERT INTO shapes VALUES
  (1, ST_GeomFromText('POINT(1.5 -2.5)'), ST_GeomFromText('POINT(0 0)'), ST_GeomFromText('LINESTRING(0 0,1 1,2 0)'),
   ST_GeomFromText('POLYGON((0 0,10 0,10 10,0 10,0 0),(2 2,4 2,4 4,2 4,2 2))'), ST_GeomFromText('MULTIPOINT(1 1,2 2)'),
   ST_GeomFromText('MULTILINESTRING((0 0,1 1),(2 2,3 3))'),
   ST_GeomFromText('MULTIPOLYGON(((0 0,1 0,1 1,0 0)),((5 5,6 5,6 6,5 5)))'),
   ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 1),LINESTRING(0 0,1 1))')),
  (2, NULL, ST_GeomFromText('POINT(-1e300 1e-300)'), NULL, NULL, NULL, NULL, NULL, NULL);

CREATE TABLE derived (
  id INT PRIMARY KEY, a INT NOT NULL, b INT,
  sum_virtual BIGINT GENERATED ALWAYS AS (a + COALESCE(b, 0)) VIRTUAL,
  text_stored VARCHAR(40) GENERATED ALWAYS AS (CONCAT('<', a, '>')) STORED,
  hidden INT INVISIBLE DEFAULT 7,
  CONSTRAINT a_small CHECK (a < 1000), KEY (text_stored)
);
INSERT INTO derived (id, a, b) VALUES (1, 1, 2), (2, 999, NULL);
INSERT INTO derived (id, a, b, hidden) VALUES (3, -1, -1, -1);

CREATE TABLE parent (id INT PRIMARY KEY) COMMENT='a ''quoted'' comment; -- with all of it';
CREATE TABLE child (
  id INT PRIMARY KEY, parent INT, KEY (parent),
  CONSTRAINT has_parent FOREIGN KEY (parent) REFERENCES parent (id) ON DELETE CASCADE
);
INSERT INTO parent VALUES (0), (1);
INSERT INTO child VALUES (1, 0), (2, 1), (3, NULL);

CREATE TABLE `odd ``name; DROP` (`a column` INT, `select` INT, `日本` INT);
INSERT INTO `odd ``name; DROP` VALUES (1, 2, 3);

CREATE TABLE parts (id INT, y INT, PRIMARY KEY (id, y)) PARTITION BY RANGE (y)
  (PARTITION old VALUES LESS THAN (2000), PARTITION young VALUES LESS THAN MAXVALUE);
INSERT INTO parts VALUES (1, 1999), (2, 2000), (3, 2030);

CREATE TABLE empty_table (id INT PRIMARY KEY);

CREATE VIEW sums AS SELECT id, sum_virtual FROM derived WHERE a > 0;
CREATE ALGORITHM=MERGE SQL SECURITY INVOKER VIEW sums_of_sums AS SELECT id, sum_virtual * 2 AS twice FROM sums;

DELIMITER //
CREATE TRIGGER derived_positive BEFORE INSERT ON derived FOR EACH ROW
BEGIN
  -- a comment; with a semicolon
  IF NEW.b IS NULL THEN SET NEW.b = 0; END IF;
END//
CREATE TRIGGER derived_after AFTER DELETE ON derived FOR EACH ROW INSERT INTO empty_table VALUES (OLD.id)//
CREATE FUNCTION shout(what VARCHAR(100)) RETURNS VARCHAR(101) DETERMINISTIC NO SQL COMMENT 'loud'
  RETURN CONCAT(UPPER(what), '!')//
CREATE PROCEDURE both_ways(IN a INT, INOUT b INT, OUT c INT)
BEGIN
  SET b = b + a;
  SELECT COUNT(*) INTO c FROM derived;
END//
CREATE EVENT some_day ON SCHEDULE AT '2037-01-01 00:00:00' ON COMPLETION PRESERVE DISABLE
  DO BEGIN DELETE FROM empty_table; DELETE FROM child WHERE id < 0; END//
DELIMITER ;
