"""What each kind of statement is taken for: tables first, then properties that must hold for any text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.session import pins as p
from proxy.session import verdict as k
from proxy.session.classify import Classifier
from proxy.session.lexer import ANSI_QUOTES, NO_BACKSLASH_ESCAPES, UNSAFE_CHARSET
from proxy.session.verdict import Verdict

MYSQL = Classifier(mariadb=False)
MARIADB = Classifier(mariadb=True)
BOTH = (MYSQL, MARIADB)


def of(sql: str | bytes, mariadb: bool = False, mode: int = 0) -> Verdict:
    text = sql.encode() if isinstance(sql, str) else sql
    return (MARIADB if mariadb else MYSQL).classify(text, mode)


PLAIN = """
SELECT 1
select c from sbtest1 where id=123
(SELECT 1) UNION (SELECT 2)
((select 1))
SELECT `a`.`b` FROM `a` WHERE `a`.`x` IN (1, 2) AND (`a`.`c` = 'x')
SELECT COUNT(*) FROM t
SELECT now(), concat('a', upper('b')), coalesce(a, b) FROM t
SELECT 'a@b.c'
SELECT 'it''s; GET_LOCK(1) -- no'
SELECT 'it\\'s @x := 1' FROM t
SELECT "GET_LOCK('x',1)"
SELECT 1 -- get_lock('x', 1)
SELECT 1 # @x := 1
SELECT /* @x := 1 */ 1
/* app='x', traceparent='00-0a-01' */ SELECT a FROM t WHERE b = 'c'
SELECT a FROM t WHERE b = 'c' /* controller='x',action='f (1)' */
SELECT a FROM t;
SELECT a FROM t WHERE x = 'some text (see below)'
SELECT a--1 FROM t
SELECT @x
SELECT @x, @y FROM t WHERE id = @z
SELECT @@version, @@session.sql_mode, @@global.max_connections
SELECT @@session.auto_increment_increment AS auto_increment_increment
SELECT * FROM t FOR UPDATE
SELECT * FROM t LOCK IN SHARE MODE
SELECT * INTO OUTFILE '/tmp/x' FROM t
SELECT RELEASE_LOCK('x'), IS_FREE_LOCK('x')
SELECT SLEEP(1), RAND(), UUID_SHORT()
SELECT /*+ MAX_EXECUTION_TIME(1000) */ a FROM t
SELECT /*+ SET_VAR(sort_buffer_size = 16M) */ a FROM t
WITH x (a, b) AS (SELECT 1, 2) SELECT * FROM x
WITH RECURSIVE x (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x WHERE n < 5), y(m) AS (SELECT 2) SELECT * FROM x, y
SELECT * FROM (SELECT 1) AS d (a)
SELECT a, ROW_NUMBER() OVER (PARTITION BY b ORDER BY c) FROM t WINDOW w AS (ORDER BY a)
SELECT * FROM t USE INDEX (i) FORCE KEY (j) WHERE a BETWEEN (1) AND (2)
SELECT CAST(a AS CHAR(10)), CONVERT(b, DECIMAL(10,2)), CAST(c AS UNSIGNED) FROM t
SELECT * FROM JSON_TABLE('[1]', '$[*]' COLUMNS (a INT PATH '$')) AS j
SELECT * FROM t WHERE MATCH (a) AGAINST ('x' IN BOOLEAN MODE)
SELECT DISTINCT (a), CASE (b) WHEN (1) THEN (2) ELSE (3) END FROM t
SELECT * FROM a JOIN b USING (id) LEFT JOIN (c, d) ON (a.x = c.x) WHERE EXISTS (SELECT 1) AND NOT (a)
INSERT INTO t VALUES (1)
INSERT INTO t (a, b) VALUES (1, 'x'), (2, 'y')
INSERT INTO `db`.`t` (`a`) VALUES (1) ON DUPLICATE KEY UPDATE a = VALUES(a)
INSERT IGNORE INTO db . t (a) SELECT a FROM u
INSERT INTO t (email) VALUES ('a@b.c')
INSERT INTO `my``t` (email) VALUES ('a@b.c')
INSERT INTO t (a) VALUES (1) AS new(a) ON DUPLICATE KEY UPDATE a = new.a
INSERT t SET a = 1
INSERT DELAYED INTO t (a) VALUES (1)
REPLACE INTO t (a) VALUES (1)
UPDATE t SET a = (a + 1) WHERE b IN (1)
DELETE FROM t WHERE a = 'x'
DO 1
DO SLEEP(1)
VALUES ROW(1, 2)
TABLE t
SHOW TABLES
SHOW VARIABLES LIKE 'x'
SHOW CREATE TABLE `t`
SHOW COUNT(*) WARNINGS
EXPLAIN SELECT 1
EXPLAIN ANALYZE SELECT * FROM t
DESCRIBE t
DESC t a
HELP 'select'
LOAD DATA INFILE '/x' INTO TABLE t (a, b)
LOAD DATA LOCAL INFILE '/x' INTO TABLE d.t CHARACTER SET utf8 IGNORE 1 LINES (a) SET b = 1
XA RECOVER
"""

FREE = """
CREATE TABLE t (id INT PRIMARY KEY, f VARCHAR(10) DEFAULT 'x', KEY k (f))
CREATE TABLE IF NOT EXISTS t LIKE u
CREATE TABLE t AS SELECT 1
CREATE INDEX i ON t (a)
CREATE UNIQUE INDEX i ON t (a)
CREATE DATABASE d
CREATE OR REPLACE VIEW v AS SELECT f(1)
CREATE DEFINER=`a`@`b` SQL SECURITY DEFINER VIEW v AS SELECT 1
CREATE FUNCTION f() RETURNS INT RETURN GET_LOCK('x', 1)
CREATE PROCEDURE p() BEGIN END
CREATE SEQUENCE s
ALTER TABLE t ADD COLUMN (a INT)
DROP TABLE IF EXISTS t
DROP TEMPORARY TABLE t
DROP DATABASE d
TRUNCATE TABLE t
RENAME TABLE a TO b
ANALYZE TABLE t
OPTIMIZE TABLE t
CHECK TABLE t
SET GLOBAL max_connections = 10
SET PERSIST max_connections = 10
SET @@global.max_connections = 10
SET @@PERSIST_ONLY.x = 10
SET sql_mode = 'ANSI'
SET SESSION sql_mode = ''
SET LOCAL time_zone = '+00:00'
SET @@session.time_zone = '+00:00'
SET @@local.wait_timeout = 100
SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY
SET GLOBAL TRANSACTION READ ONLY
SET transaction_isolation = 'READ-COMMITTED'
SET SESSION tx_isolation = 'READ-COMMITTED'
SET timestamp = 5
SET DEFAULT ROLE r TO u
SET NAMES utf8mb4
SET NAMES 'utf8mb4' COLLATE utf8mb4_bin
SET CHARACTER SET latin1
SET CHARSET latin1
SET autocommit = 0
SET autocommit=0, sql_mode=CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES'), NAMES utf8
USE d
USE `d`
KILL 5
KILL QUERY 5
FLUSH PRIVILEGES
FLUSH TABLES
FLUSH TABLES t
FLUSH LOGS
GRANT SELECT (a) ON t TO 'u'@'h'
REVOKE SELECT ON t FROM u@h
CREATE USER 'u'@'h' IDENTIFIED BY 'x'
ALTER USER u IDENTIFIED BY 'x'
DROP USER u
SET PASSWORD = 'x'
SET PASSWORD FOR 'u'@'h' = PASSWORD('x')
UNLOCK TABLES
UNLOCK INSTANCE
DEALLOCATE PREPARE s
DROP PREPARE s
BACKUP UNLOCK
BEGIN
BEGIN WORK
START TRANSACTION
START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY
COMMIT
COMMIT AND CHAIN
ROLLBACK WORK
ROLLBACK TO SAVEPOINT a
RELEASE SAVEPOINT a
HANDLER t READ FIRST
HANDLER t CLOSE
INSTALL PLUGIN x SONAME 'y'
SHUTDOWN
RESET MASTER
START REPLICA
CHECKSUM TABLE t
/*!40000 ALTER TABLE `t` DISABLE KEYS */
"""

PINNED = [
    ("SELECT 1 INTO @x", p.USER_VARIABLE),
    ("SELECT a FROM t LIMIT 1 INTO @x, @y", p.USER_VARIABLE),
    ("SELECT a INTO @`x y` FROM t", p.USER_VARIABLE),
    ("SELECT a INTO @'x' FROM t", p.USER_VARIABLE),
    ("SELECT a INTO/**/@x FROM t", p.USER_VARIABLE),
    ("SELECT @x := 1", p.USER_VARIABLE),
    ("SELECT @x:=@x+1 FROM t", p.USER_VARIABLE),
    ("UPDATE t SET a = (@x := a)", p.USER_VARIABLE),
    ("INSERT INTO t VALUES (@x := 1)", p.USER_VARIABLE),
    ("DO @x := 1", p.USER_VARIABLE),
    ("EXPLAIN ANALYZE SELECT @x := 1", p.USER_VARIABLE),
    ("EXPLAIN FORMAT=JSON INTO @x SELECT 1", p.USER_VARIABLE),
    ("LOAD DATA INFILE 'x' INTO TABLE t (@v) SET a = @v", p.USER_VARIABLE),
    ("CALL p(@out)", p.OPAQUE),
    ("GET DIAGNOSTICS @n = NUMBER", p.USER_VARIABLE),
    ("GET DIAGNOSTICS CONDITION 1 @m = MESSAGE_TEXT", p.USER_VARIABLE),
    ("GET CURRENT DIAGNOSTICS @n = NUMBER", p.USER_VARIABLE),
    ("SET @x = 1 + 1", p.USER_VARIABLE),
    ("SET @x := @y", p.USER_VARIABLE),
    ("SET @a.b = 1, @c = NOW()", p.USER_VARIABLE),
    ("SET @`a b` = 1", p.USER_VARIABLE),
    ("SET sql_mode = '', @x = 1", p.USER_VARIABLE),
    ("SET sql_mode = @x := 'ANSI'", p.USER_VARIABLE),
    ("SELECT GET_LOCK('x', 0)", p.NAMED_LOCK),
    ("DO GET_LOCK('x', 0)", p.NAMED_LOCK),
    ("SELECT `GET_LOCK`('x', 0)", p.NAMED_LOCK),
    ("SELECT get_lock ('x', 0)", p.NAMED_LOCK),
    ("SELECT/**/GET_LOCK('x',0)", p.NAMED_LOCK),
    ("SELECT GET_LOCK/* c */('x',0)", p.NAMED_LOCK),
    ("SELECT GET_LOCK -- now\n('x',0)", p.NAMED_LOCK),
    ("SELECT GET_LOCK # now\n('x',0)", p.NAMED_LOCK),
    ("(SELECT GET_LOCK('x',0))", p.NAMED_LOCK),
    ("INSERT INTO t (a) SELECT GET_LOCK('x',0)", p.NAMED_LOCK),
    ("SELECT 'a' 'b', GET_LOCK('x',0)", p.NAMED_LOCK),
    ("SELECT '\\\\', GET_LOCK('x',0)", p.NAMED_LOCK),
    ("SET @x = GET_LOCK('x',0)", p.NAMED_LOCK | p.USER_VARIABLE),
    ("SET sql_mode = (SELECT GET_LOCK('x',0))", p.NAMED_LOCK),
    ("CREATE TABLE t AS SELECT GET_LOCK('x',0)", p.NAMED_LOCK),
    ("CREATE TABLE t SELECT f(0)", p.OPAQUE),
    ("CREATE TEMPORARY TABLE t (a INT)", p.TEMPORARY_TABLE),
    ("CREATE TEMPORARY TABLE t LIKE u", p.TEMPORARY_TABLE),
    ("CREATE TEMPORARY TABLE t SELECT 1", p.TEMPORARY_TABLE),
    ("CREATE TEMPORARY TABLE t AS SELECT 1", p.TEMPORARY_TABLE),
    ("CREATE TEMPORARY TABLE t (a INT) SELECT 1", p.TEMPORARY_TABLE),
    ("create/* */temporary table t (a int)", p.TEMPORARY_TABLE),
    ("CREATE OR REPLACE TEMPORARY TABLE t SELECT 1", p.TEMPORARY_TABLE),
    ("CREATE TEMPORARY SEQUENCE s", p.TEMPORARY_TABLE),
    ("CREATE /*!32302 TEMPORARY */ TABLE t (a INT)", p.TEMPORARY_TABLE),
    ("CREATE /*M! TEMPORARY */ TABLE t (a INT)", p.TEMPORARY_TABLE),
    ("CREATE /*!99999 TEMPORARY */ TABLE t (a INT)", p.TEMPORARY_TABLE),
    ("HANDLER t OPEN", p.HANDLER),
    ("HANDLER `t` OPEN AS h", p.HANDLER),
    ("HANDLER d.t OPEN", p.HANDLER),
    ("LOCK TABLES t READ", p.LOCK_TABLES),
    ("LOCK TABLE t WRITE", p.LOCK_TABLES),
    ("FLUSH TABLES t WITH READ LOCK", p.LOCK_TABLES),
    ("FLUSH LOCAL TABLES t FOR EXPORT", p.LOCK_TABLES),
    ("FLUSH TABLES WITH READ LOCK", p.GLOBAL_READ_LOCK),
    ("FLUSH NO_WRITE_TO_BINLOG TABLES WITH READ LOCK", p.GLOBAL_READ_LOCK),
    ("LOCK INSTANCE FOR BACKUP", p.BACKUP_LOCK),
    ("LOCK TABLES FOR BACKUP", p.BACKUP_LOCK | p.LOCK_TABLES),
    ("BACKUP STAGE START", p.BACKUP_LOCK),
    ("BACKUP LOCK t", p.BACKUP_LOCK),
    ("SET ROLE r", p.ROLE),
    ("SET ROLE NONE", p.ROLE),
    ("SET RESOURCE GROUP g", p.RESOURCE_GROUP),
    ("PREPARE s FROM 'SELECT 1'", p.TEXT_PREPARE),
    ("EXECUTE s", p.TEXT_PREPARE | p.OPAQUE),
    ("EXECUTE IMMEDIATE 'SELECT 1'", p.TEXT_PREPARE | p.OPAQUE),
    ("CALL p()", p.OPAQUE),
    ("CALL d.p", p.OPAQUE),
    ("BEGIN NOT ATOMIC SELECT 1; END", p.OPAQUE),
    ("IF 1 THEN SELECT 1; END IF", p.OPAQUE),
    ("DECLARE x INT", p.OPAQUE),
    ("SELECT f(1)", p.OPAQUE),
    ("SELECT f (1)", p.OPAQUE),
    ("SELECT `f`(1)", p.OPAQUE),
    ("SELECT d.f(1)", p.OPAQUE),
    ("SELECT d.count(1)", p.OPAQUE),
    ("SELECT d . `f` (1)", p.OPAQUE),
    ("SELECT `d`.count(1)", p.OPAQUE),
    ("SELECT `in`(1)", p.OPAQUE),
    ("SELECT `if`(1, 2, 3)", p.OPAQUE),
    ("SELECT f/**/(1)", p.OPAQUE),
    ("SELECT f -- insert into x\n(1)", p.OPAQUE),
    ("SELECT f /* now */ (1) FROM t /* x */", p.OPAQUE),
    ("SELECT\nf\n(\n1)", p.OPAQUE),
    ("SELECT gét_lock('x', 1)", p.OPAQUE),
    ("INSERT INTO t (a) VALUES (f(1))", p.OPAQUE),
    ("INSERT INTO t VALUES ('insert into ', f(1))", p.OPAQUE),
    ("UPDATE t SET a = f(1)", p.OPAQUE),
    ("SELECT 1 FROM t WHERE a IN (1) AND x(2)", p.OPAQUE),
    ("WITH a AS (SELECT f(1)) SELECT 1", p.OPAQUE),
    ("SELECT @a, 'unterminated", p.OPAQUE),
    ("SELECT 1 /* unterminated", p.OPAQUE),
    ("SELECT @a, `unterminated", p.OPAQUE),
    ("SELECT /*!99999 ' */ GET_LOCK('x',0) -- '", p.OPAQUE),
    ("SELECT /*+ SET_VAR(sql_mode='*/') */ 1", p.OPAQUE),
    ("BINLOG 'x'", p.OPAQUE),
    ("FROBNICATE", p.OPAQUE),
    ("SELECT 1; CALL p()", p.OPAQUE),
    ("SELECT 1; FROBNICATE; SELECT 2", p.OPAQUE),
    ("SET sql_mode='ANSI_QUOTES'; SELECT 1", p.OPAQUE),
    ("SET NAMES gbk; SELECT 1", p.OPAQUE),
    ("CREATE PROCEDURE p() BEGIN SELECT 1; SELECT 2; END", p.OPAQUE),
    ("SELECT 1; SET @x = 1", p.USER_VARIABLE),
    ("SELECT ';'; SELECT GET_LOCK('x', 1)", p.NAMED_LOCK),
    ("SET NAMES utf8; SELECT 2; CREATE TEMPORARY TABLE t (a INT)", p.TEMPORARY_TABLE),
    ("SAVEPOINT a", p.SAVEPOINT),
    ("XA START 'x'", p.XA),
    ("XA BEGIN 'x'", p.XA),
    ("XA SOMETHING", p.XA),
    ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", p.NEXT_TRANSACTION),
    ("SET TRANSACTION READ ONLY", p.NEXT_TRANSACTION),
    ("SET @@transaction_isolation = 'SERIALIZABLE'", p.NEXT_TRANSACTION),
    ("SET @@tx_isolation = 'SERIALIZABLE'", p.NEXT_TRANSACTION),
    ("SET @@tx_read_only = 1", p.NEXT_TRANSACTION),
    ("SET insert_id = 5", p.ONE_SHOT),
    ("SET @@session.insert_id = 5", p.ONE_SHOT),
    ("SET last_insert_id = 5", p.ONE_SHOT),
    ("SET identity = 5", p.ONE_SHOT),
    ("SET rand_seed1 = 5, rand_seed2 = 6", p.ONE_SHOT),
    ("SET gtid_next = 'AUTOMATIC'", p.ONE_SHOT),
    ("SET SESSION gtid_seq_no = 5", p.ONE_SHOT),
    ("SET `insert_id` = 5", p.ONE_SHOT),
    ("SET GLOBAL max_connections = 5, insert_id = 5", p.ONE_SHOT),
    ("SET session_track_gtids = OWN_GTID", p.SESSION_TRACK),
    ("SET @@session.session_track_schema = OFF", p.SESSION_TRACK),
    ("SET profiling = 1", p.PROFILING),
    ("SET optimizer_trace = 'enabled=on'", p.PROFILING),
    ("SET pseudo_thread_id = 5", p.UNTRACKED_VARIABLE),
    ("SET sql_log_bin = 0", p.UNTRACKED_VARIABLE),
    ("SET debug = 'd'", p.UNTRACKED_VARIABLE),
    ("SET STATEMENT max_statement_time = 1 FOR SELECT 1", p.OPAQUE),
    ("SET x.y = 1", p.OPAQUE),
    ("SET frobnicate", p.OPAQUE),
    ("/*!50003 SET @x = 1 */", p.USER_VARIABLE),
    ("/*!40101 SET @OLD_SQL_MODE=@@SQL_MODE, SQL_MODE='NO_AUTO_VALUE_ON_ZERO' */;", p.USER_VARIABLE),
    ("/*!50003 SET timestamp = 1 */ /*!50003 CALL p() */", p.OPAQUE),
]


@pytest.mark.parametrize("sql", [line for line in PLAIN.split("\n") if line])
@pytest.mark.parametrize("mariadb", [False, True])
def test_ordinary_statements_are_plain_and_free(sql: str, mariadb: bool) -> None:
    verdict = of(sql, mariadb)
    assert p.names(verdict.pins) == []
    assert verdict.flags & k.PLAIN


@pytest.mark.parametrize("sql", [line for line in FREE.split("\n") if line])
@pytest.mark.parametrize("mariadb", [False, True])
def test_statements_that_leave_nothing_behind_are_free_but_not_plain(sql: str, mariadb: bool) -> None:
    verdict = of(sql, mariadb)
    assert p.names(verdict.pins) == []
    assert not verdict.flags & k.PLAIN


@pytest.mark.parametrize(("sql", "pins"), PINNED)
@pytest.mark.parametrize("mariadb", [False, True])
def test_statements_that_leave_something_behind_pin(sql: str, pins: int, mariadb: bool) -> None:
    verdict = of(sql, mariadb)
    assert verdict.pins & pins == pins, p.names(verdict.pins)
    assert not verdict.flags & k.PLAIN or not verdict.pins & p.OPAQUE


@pytest.mark.parametrize(
    ("sql", "pins"),
    [row for row in PINNED if not row[1] & p.OPAQUE and ";" not in row[0] and "/*" not in row[0]],
)
def test_the_reason_is_the_exact_one(sql: str, pins: int) -> None:
    assert p.names(of(sql, mariadb=True).pins) == p.names(pins)


@pytest.mark.parametrize(
    ("sql", "needs"),
    [
        ("SELECT LAST_INSERT_ID()", k.NEED_INSERT_ID),
        ("SELECT `last_insert_id` ( )", k.NEED_INSERT_ID),
        ("SELECT @@identity", k.NEED_INSERT_ID),
        ("SELECT @@session.last_insert_id", k.NEED_INSERT_ID),
        ("SELECT @@`identity`", k.NEED_INSERT_ID),
        ("INSERT INTO t (a) VALUES (LAST_INSERT_ID())", k.NEED_INSERT_ID),
        ("SET @x = LAST_INSERT_ID()", k.NEED_INSERT_ID),
        ("CALL p()", k.NEED_INSERT_ID),
        ("SELECT f(1)", k.NEED_INSERT_ID),
        ("SHOW WARNINGS", k.NEED_WARNINGS),
        ("SHOW WARNINGS LIMIT 1", k.NEED_WARNINGS),
        ("SHOW ERRORS", k.NEED_WARNINGS),
        ("SHOW COUNT(*) ERRORS", k.NEED_WARNINGS),
        ("SELECT @@warning_count", k.NEED_WARNINGS),
        ("SELECT @@session.error_count", k.NEED_WARNINGS),
        ("GET DIAGNOSTICS @n = NUMBER", k.NEED_WARNINGS),
        ("GET DIAGNOSTICS @n = ROW_COUNT", k.NEED_WARNINGS | k.NEED_ROW_COUNT),
        ("SELECT ROW_COUNT()", k.NEED_ROW_COUNT),
        ("SELECT FOUND_ROWS() AS n", k.NEED_FOUND_ROWS),
        ("SELECT a, FOUND_ROWS() FROM t", k.NEED_FOUND_ROWS),
        ("SELECT 1", 0),
        ("SELECT @@version", 0),
        ("SELECT @identity", 0),
        ("SELECT 'last_insert_id()'", 0),
    ],
)
def test_reading_soft_state_is_noticed(sql: str, needs: int) -> None:
    for mariadb in (False, True):
        assert of(sql, mariadb).needs == needs


@pytest.mark.parametrize(
    ("sql", "collation"),
    [
        ("SET NAMES utf8mb4 COLLATE utf8mb4_bin", b"utf8mb4_bin"),
        ("set  names 'utf8mb4'\n collate 'UTF8MB4_BIN' ; ", b"utf8mb4_bin"),
        ('SET NAMES "utf8mb4" COLLATE "utf8mb4_bin"', b"utf8mb4_bin"),
        ("SET NAMES utf8mb4", b""),
        ("SET NAMES 'utf8mb4' COLLATE \"utf8mb4_bin'", b""),
        ("SET NAMES utf8mb4 COLLATE utf8mb4_bin, @x = 1", b""),
        ("SET @x = 1, NAMES utf8mb4 COLLATE utf8mb4_bin", b""),
        ("SET NAMES utf8mb4 COLLATE utf8mb4_bin; SET NAMES latin1", b""),
        ("SET NAMES utf8mb4 COLLATE /*!80000 utf8mb4_bin*/", b""),
        ("SET NAMES utf8mb4 COLLATE utf8mb4_bin -- no", b""),
        ("SET NAMES utf8mb4 COLLATE DEFAULT", b"default"),
        ("SET CHARACTER SET utf8mb4", b""),
        ("SELECT 'a' COLLATE utf8mb4_bin", b""),
    ],
)
def test_the_collation_of_set_names_is_taken_from_its_text(sql: str, collation: bytes) -> None:
    for mariadb in (False, True):
        assert of(sql, mariadb).collation == collation


@pytest.mark.parametrize(
    ("sql", "flags", "absent"),
    [
        ("SELECT LAST_INSERT_ID(5)", k.SETS_INSERT_ID, 0),
        ("UPDATE t SET a = LAST_INSERT_ID(a + 1)", k.SETS_INSERT_ID, 0),
        ("SELECT LAST_INSERT_ID('5')", k.SETS_INSERT_ID, 0),
        ("SELECT LAST_INSERT_ID()", k.PLAIN, k.SETS_INSERT_ID),
        ("SET NAMES utf8", k.CHARSET, k.PLAIN),
        ("SET character_set_results = NULL", k.CHARSET, 0),
        ("SET @@collation_connection = utf8mb4_bin", k.CHARSET, 0),
        ("SHOW WARNINGS", k.KEEPS_DIAGNOSTICS, 0),
        ("SELECT 1; SHOW WARNINGS", 0, k.KEEPS_DIAGNOSTICS),
        ("SELECT SQL_CALC_FOUND_ROWS * FROM t", k.CALC_FOUND_ROWS, 0),
        ("SET autocommit = 0", k.TRANSACTION_CONTROL, 0),
        ("SET @@autocommit = 0", k.TRANSACTION_CONTROL, 0),
        ("begin;", k.TRANSACTION_CONTROL, k.PLAIN),
        ("ALTER USER u IDENTIFIED BY 'x'", k.CREDENTIALS, 0),
        ("SET PASSWORD = 'x'", k.CREDENTIALS, 0),
        ("CREATE OR REPLACE USER u", k.CREDENTIALS, 0),
        ("DROP USER IF EXISTS u", k.CREDENTIALS, 0),
        ("RENAME USER u TO v", k.CREDENTIALS, 0),
        ("RENAME TABLE user TO v", 0, 0),
        ("SELECT 1; ALTER USER u ACCOUNT LOCK", k.CREDENTIALS, 0),
        ("CREATE ROLE r", 0, 0),
        ("LOAD DATA LOCAL INFILE 'x' INTO TABLE t", k.LOCAL_INFILE, 0),
        ("LOAD DATA INFILE 'x' INTO TABLE t", 0, k.LOCAL_INFILE),
        ("SET STATEMENT a = 1 FOR SELECT 1", k.IGNORE_TRACKERS, 0),
        ("SET timestamp = DEFAULT", k.TIMESTAMP_DEFAULT, 0),
        ("SET timestamp = 0", k.TIMESTAMP_DEFAULT, 0),
        ("SET timestamp = 5", 0, k.TIMESTAMP_DEFAULT),
        ("SET @x = 1", k.PINS_ON_SUCCESS, 0),
        ("SET @x = GET_LOCK('x', 1)", 0, k.PINS_ON_SUCCESS),
        ("CREATE TEMPORARY TABLE t (a INT)", k.PINS_ON_SUCCESS, 0),
        ("SET @x = 1; SELECT GET_LOCK('x', 1)", 0, k.PINS_ON_SUCCESS),
        ("SELECT 1; SELECT 2", 0, k.PLAIN),
        ("SELECT 1; COMMIT", k.TRANSACTION_CONTROL, k.PLAIN),
        ("", k.PLAIN, 0),
        ("-- nothing", k.PLAIN, 0),
    ],
)
def test_flags(sql: str, flags: int, absent: int) -> None:
    for mariadb in (False, True):
        verdict = of(sql, mariadb)
        assert verdict.flags & flags == flags
        assert not verdict.flags & absent


@pytest.mark.parametrize(
    ("sql", "unpins"),
    [
        ("UNLOCK TABLES", p.LOCK_TABLES | p.GLOBAL_READ_LOCK),
        ("COMMIT", p.SAVEPOINT),
        ("ROLLBACK AND NO CHAIN", p.SAVEPOINT),
        ("ROLLBACK TO a", 0),
        ("START TRANSACTION READ WRITE", p.SAVEPOINT | p.LOCK_TABLES),
        ("XA COMMIT 'x'", p.XA),
        ("LOCK TABLES t READ; UNLOCK TABLES", p.LOCK_TABLES | p.GLOBAL_READ_LOCK),
        ("UNLOCK TABLES; LOCK TABLES t READ", p.GLOBAL_READ_LOCK),
        ("/*!99999 UNLOCK TABLES */", 0),
        ("DROP TEMPORARY TABLE t", 0),
    ],
)
def test_pins_end_only_where_it_is_certain(sql: str, unpins: int) -> None:
    assert p.names(of(sql).unpins) == p.names(unpins)


def test_an_xa_branch_stays_with_its_session_on_mariadb() -> None:
    assert of("XA PREPARE 'x'").unpins == p.XA
    assert of("XA PREPARE 'x'", mariadb=True).unpins == 0


@pytest.mark.parametrize(
    ("sql", "readback"),
    [
        ("SET @@sql_mode = 'ANSI'", (b"sql_mode",)),
        ("SET @@sort_buffer_size=1, @@TIME_ZONE = '+01:00', @@session.a = 1", (b"sort_buffer_size", b"time_zone")),
        ("SET @@`sql_mode` = ''", (b"sql_mode",)),
        ("SET sql_mode = ''", ()),
        ("SET @@session.sql_mode = ''", ()),
        ("SET @@global.sql_mode = ''", ()),
        ("/*!50003 SET @@sql_mode = '' */", (b"sql_mode",)),
    ],
)
def test_what_mariadb_does_not_report_is_read_back(sql: str, readback: tuple[bytes, ...]) -> None:
    assert of(sql, mariadb=True).readback == readback
    assert of(sql, mariadb=False).readback == ()


@pytest.mark.parametrize(
    ("sql", "local", "label"),
    [
        ("SHOW WARNINGS", k.SHOW_WARNINGS, b""),
        ("  show  errors ;", k.SHOW_ERRORS, b""),
        ("SHOW COUNT(*) WARNINGS", k.SHOW_COUNT_WARNINGS, b""),
        ("SHOW COUNT( * ) ERRORS", k.SHOW_COUNT_ERRORS, b""),
        ("SELECT ROW_COUNT()", k.SELECT_ROW_COUNT, b"ROW_COUNT()"),
        ("SELECT Found_Rows( )", k.SELECT_FOUND_ROWS, b"Found_Rows( )"),
        ("SELECT FOUND_ROWS() AS n", k.SELECT_FOUND_ROWS, b"n"),
        ("SELECT FOUND_ROWS() `n x`", k.SELECT_FOUND_ROWS, b"n x"),
        ("SELECT FOUND_ROWS() AS 'cnt'", k.SELECT_FOUND_ROWS, b"cnt"),
        ("SHOW WARNINGS LIMIT 1", k.LOCAL_NONE, b""),
        ("SELECT @@warning_count", k.SHOW_COUNT_WARNINGS, b"@@warning_count"),
        ("select @@SESSION.error_count AS n;", k.SHOW_COUNT_ERRORS, b"n"),
        ("SELECT @@global.warning_count", k.LOCAL_NONE, b""),
        ("SELECT @@warning_count + 1", k.LOCAL_NONE, b""),
        ("SELECT connection_id ()", k.SELECT_CONNECTION_ID, b"connection_id ()"),
        ("SELECT CONNECTION_ID() AS `my ``id`;", k.LOCAL_NONE, b""),
        ("SELECT CONNECTION_ID() AS `my id`;", k.SELECT_CONNECTION_ID, b"my id"),
        ("SELECT CONNECTION_ID() = id FROM t", k.LOCAL_NONE, b""),
        ("SELECT FOUND_ROWS() FROM t", k.LOCAL_NONE, b""),
        ("SELECT FOUND_ROWS() FROM", k.LOCAL_NONE, b""),
        ("SELECT FOUND_ROWS(), 1", k.LOCAL_NONE, b""),
        ("SELECT FOUND_ROWS(); SELECT 1", k.LOCAL_NONE, b""),
        ("SELECT 1", k.LOCAL_NONE, b""),
    ],
)
def test_statements_that_can_be_answered_here(sql: str, local: int, label: bytes) -> None:
    verdict = of(sql)
    assert (verdict.local, verdict.local_label) == (local, label)


def test_sequences_of_mariadb() -> None:
    for sql in ("SELECT LASTVAL(s)", "SELECT PREVIOUS VALUE FOR s", "SELECT previous\nvalue FOR s", "SELECT s.currval"):
        verdict = of(sql, mariadb=True)
        assert verdict.pins == p.SEQUENCE
        assert verdict.needs == k.NEED_LAST_BACKEND
    assert of("SELECT NEXTVAL(s)", mariadb=True).pins == 0
    assert of("SELECT NEXT VALUE FOR s", mariadb=True).pins == 0
    assert of("SELECT NEXTVAL(s)").pins == p.OPAQUE


def test_the_last_value_of_a_sequence_that_the_same_text_has_drawn_from_is_known_there() -> None:
    for sql in ("SELECT NEXTVAL(s); SELECT LASTVAL(s)", "SELECT NEXTVAL(s), NEXTVAL(`t`); SELECT 1; DO LASTVAL(`t`)"):
        verdict = of(sql, mariadb=True)
        assert (verdict.pins, verdict.needs) == (p.SEQUENCE, 0)
    for sql in (
        "SELECT NEXTVAL(s); SELECT LASTVAL(t)",
        "SELECT LASTVAL(s); SELECT NEXTVAL(s)",
        "SELECT NEXTVAL(a.s); SELECT LASTVAL(a.s)",
        "SELECT NEXTVAL(s); SELECT LASTVAL(s), PREVIOUS VALUE FOR t",
        "SELECT NEXTVAL(s); SELECT LASTVAL(s), @@last_gtid",
    ):
        assert of(sql, mariadb=True).needs & k.NEED_LAST_BACKEND, sql


def test_trusted_functions_are_not_opaque() -> None:
    classifier = Classifier(mariadb=True, trusted_functions=["F", "db.g"])
    for sql in (b"SELECT f(1)", b"SELECT F (1)", b"SELECT x.f(1)", b"SELECT db.g(1)", b"SELECT `f`(1)"):
        assert classifier.classify(sql, 0).pins == 0, sql
    for sql in (b"SELECT g(1)", b"SELECT x.g(1)", b"SELECT f(1), h(2)"):
        assert classifier.classify(sql, 0).pins == p.OPAQUE, sql


def test_the_lexing_mode_decides_what_is_a_literal() -> None:
    hidden = rb"SELECT '\', GET_LOCK(1,1), '\'"
    assert of(hidden, mode=NO_BACKSLASH_ESCAPES).pins == p.NAMED_LOCK
    assert of(hidden).pins == p.OPAQUE
    call = b"SELECT \"get_lock\"('x', 1), 'a@b'"
    assert of(call, mode=ANSI_QUOTES).pins == p.NAMED_LOCK
    assert of(b'SELECT "a b" FROM "t" WHERE x = \'a@b\'', mode=ANSI_QUOTES).flags & k.PLAIN
    assert of(b"INSERT INTO \"t\" (a) VALUES ('a@b')", mode=ANSI_QUOTES).flags & k.PLAIN


def test_a_charset_with_unsafe_second_bytes_is_not_lexed() -> None:
    text = "SELECT 'a@b', '\u738b'".encode("gbk")
    assert of(text, mode=UNSAFE_CHARSET).pins == p.OPAQUE
    assert of(b"SELECT 'a@b'", mode=UNSAFE_CHARSET).flags & k.PLAIN
    assert of("SELECT COUNT(*) FROM t WHERE a = '\u738b'".encode("gbk"), mode=UNSAFE_CHARSET).flags & k.PLAIN
    # a second byte that looks like the end of something before a known name
    assert of(b"SELECT \x81[sleep(1)", mode=UNSAFE_CHARSET).pins == p.OPAQUE


def test_a_verdict_is_shared_and_kept() -> None:
    classifier = Classifier(mariadb=False, cache_bytes=1000)
    first = classifier.classify(b"SET NAMES utf8", 0)
    assert classifier.classify(b"SET NAMES utf8", 0) is first
    assert classifier.hits == 1
    assert classifier.classify(b"SET NAMES latin1", 0) is first
    for number in range(100):
        classifier.classify(b"SET sort_buffer_size = %d" % number, 0)
    assert classifier.evictions > 90
    assert classifier._cache_used <= 1000


def test_long_texts_are_not_kept() -> None:
    classifier = Classifier(mariadb=False)
    text = b"INSERT INTO t VALUES ('" + b"a@" * 40_000 + b"')"
    assert classifier.classify(text, 0).flags & k.PLAIN
    assert classifier.classify(text, 0).flags & k.PLAIN
    assert classifier.hits == 0


# --- properties ------------------------------------------------------------------------------------------------------

DANGEROUS = (
    ("GET_LOCK('x', 1)", p.NAMED_LOCK),
    ("`get_lock`('x', 1)", p.NAMED_LOCK),
    ("f(1)", p.OPAQUE),
    ("d.f(1)", p.OPAQUE),
    ("`f` (1)", p.OPAQUE),
    ("@x := 1", p.USER_VARIABLE),
)
PIECES = ("1", "a", "'x'", "'it''s'", "'(now '", "\"q\"", "`b c`", "now()", "count(*)", "'a@b'", "'--'", "'/*'", "'#'",
          "(a)", "t.a", "'insert into '", "'\\''", "x'00'")  # fmt: skip
GAPS = (" ", "\n", "\t", " /* c */ ", " -- c\n", " # c\n", "/**/ ", "  ", " -- it's\n", " /* it's ` \" */ ")


@given(st.binary(max_size=200), st.integers(0, 7), st.booleans())
def test_no_bytes_make_it_raise(sql: bytes, mode: int, mariadb: bool) -> None:
    assert isinstance(BOTH[mariadb].classify(sql, mode), Verdict)


WORDS = """
( ) @ , ; . = * ' " ` # -- /* */ /*! := @@ set select into create temporary table insert values names global session
lock tables xa handler get diagnostics show warnings as with load data local last_insert_id in flush
"""
FRAGMENTS = st.lists(st.sampled_from([*PIECES, *GAPS, *WORDS.split()]), max_size=14)


@given(FRAGMENTS, st.integers(0, 7), st.booleans())
@settings(max_examples=400)
def test_no_fragments_make_it_raise(parts: list[str], mode: int, mariadb: bool) -> None:
    verdict = BOTH[mariadb].classify(" ".join(parts).encode(), mode)
    assert not (verdict.pins & p.OPAQUE and verdict.flags & k.PLAIN)


@given(
    st.lists(st.sampled_from(PIECES), max_size=6),
    st.lists(st.sampled_from(PIECES), max_size=6),
    st.sampled_from(DANGEROUS),
    st.lists(st.sampled_from(GAPS), min_size=3, max_size=3),
    st.booleans(),
)
@settings(max_examples=400)
def test_a_dangerous_fragment_outside_literals_is_always_found(
    before: list[str], after: list[str], danger: tuple[str, int], gaps: list[str], mariadb: bool
) -> None:
    fragment, pins = danger
    fragment = fragment.replace("(", gaps[0] + "(") if "(" in fragment else fragment
    text = f"SELECT{gaps[1]}{', '.join([*before, fragment, *after])}{gaps[2]}FROM t"
    assert of(text, mariadb).pins & (pins | p.OPAQUE), text


@given(
    st.sampled_from([row for row in PINNED if "--" not in row[0] and "/*" not in row[0] and "#" not in row[0]]),
    st.data(),
    st.booleans(),
)
@settings(max_examples=400)
def test_case_comments_and_white_space_never_weaken_a_verdict(
    row: tuple[str, int], data: st.DataObject, mariadb: bool
) -> None:
    sql, pins = row
    if "'" in sql or '"' in sql or "`" in sql:
        sql = sql.replace("' '", "''")
    words = sql.split(" ")
    text = words[0]
    for word in words[1:]:
        text += data.draw(st.sampled_from(GAPS)) + word
    if sql.count("'") or sql.count("`"):
        text = sql  # a gap inside a literal would be data
    text = data.draw(st.sampled_from(["", " ", "/* x */", "-- x\n", "\n# x\n"])) + data.draw(
        st.sampled_from([text, text.upper(), text.lower(), text.swapcase()])
    )
    found = of(text, mariadb).pins
    assert found & pins == pins or found & p.OPAQUE, text


def test_what_makes_the_insert_id_unknown_first_needs_it() -> None:
    for sql in ("SET NAMES latin1; SELECT 'x'", "SET sql_mode = ''; SELECT 1", "CALL p()", "SELECT f(1)"):
        verdict = of(sql)
        assert verdict.pins & p.OPAQUE
        assert verdict.needs & k.NEED_INSERT_ID


def test_set_names_is_told_from_other_ways_to_set_charsets() -> None:
    assert of("SET NAMES latin1").flags & k.RESULTS_COLLATION
    assert of("SET sql_notes = 1, NAMES utf8mb4 COLLATE utf8mb4_bin").flags & k.RESULTS_COLLATION
    assert not of("SET CHARACTER SET latin1").flags & k.RESULTS_COLLATION
    assert not of("SET collation_connection = utf8mb4_bin").flags & k.RESULTS_COLLATION
