"""Rules for what ties a session to its connection, and for what is done while it is tied."""

from __future__ import annotations

from .grammar import Rule, Scene, holding, texts, used
from .steps import BEGIN, END, LOCK, PIN, UNLOCK, Step

_XA = "'zqd_x$n'"


def _xa(scene: Scene) -> list[Step]:
    """A whole branch; others may come in between, not within one command."""
    ends = ("XA COMMIT {0}", "XA ROLLBACK {0}") if scene.rng.random() < 0.6 else ("XA COMMIT {0} ONE PHASE",)
    commands = ["XA START {0}", scene.rng.choice(("INSERT INTO s$n (v) VALUES ('xa')", "SELECT COUNT(*) FROM s$n"))]
    if scene.rng.random() < 0.2:
        commands.append("COMMIT")
    commands.append("XA END {0}")
    end = scene.rng.choice(ends)
    if len(ends) > 1 and scene.mariadb:
        # In one command: what a reset does to a prepared branch of MariaDB is a connection that is broken.
        commands.append("XA PREPARE {0}; " + end)
    elif len(ends) > 1:
        commands += ["XA PREPARE {0}", end]
    else:
        commands.append(end)
    return [scene.step("query", text.format(_XA), effect=PIN) for text in commands]


RULES = (
    texts(
        "get lock",
        2,
        "SELECT GET_LOCK('zqd_lock$n', 0)",
        "SELECT GET_LOCK('zqd_common', 0)",
        "DO GET_LOCK('zqd_lock$n', 0)",
        "SELECT/**/GET_LOCK('zqd_common' , 0), GET_LOCK('zqd_lock$n', 0)",
        "SELECT `get_lock`('zqd_lock$n', 0)",
        effect=PIN,
    ),
    texts(
        "release lock",
        8,
        "SELECT RELEASE_LOCK('zqd_lock$n')",
        "SELECT RELEASE_ALL_LOCKS()",
        "DO RELEASE_LOCK('zqd_common')",
        when=used("get lock"),
    ),
    texts(
        "look at locks",
        2,
        "SELECT IS_FREE_LOCK('zqd_common'), IS_FREE_LOCK('zqd_lock$n')",
        "SELECT IS_USED_LOCK('zqd_common') IS NULL, RELEASE_LOCK('zqd_common')",
        "SELECT IS_USED_LOCK('zqd_lock$n') = CONNECTION_ID()",
    ),
    texts(
        "lock tables",
        1.5,
        "LOCK TABLES s$n WRITE",
        "LOCK TABLES s$n READ, m$n WRITE",
        "LOCK TABLE nosuch READ",
        "LOCK TABLES s$n AS q WRITE",
        "FLUSH TABLES s$n WITH READ LOCK",
        effect=LOCK,
    ),
    texts(
        "while locked",
        10,
        "INSERT INTO s$n (v) VALUES ('locked')",
        "SELECT COUNT(*) FROM s$n",
        "SELECT * FROM shared",
        "INSERT INTO m$n (v) VALUES ('locked')",
        when=lambda scene: scene.model.locked,
    ),
    texts(
        "unlock tables",
        6,
        "UNLOCK TABLES",
        "unlock table",
        effect=UNLOCK | END,
        prepared=False,
        when=lambda scene: scene.model.locked,
    ),
    texts("unlock without", 0.5, "UNLOCK TABLES", effect=UNLOCK, prepared=False),
    texts("global lock", 0.5, "LOCK INSTANCE FOR BACKUP", "UNLOCK INSTANCE", "BACKUP STAGE START", effect=PIN),
    texts("handler open", 2, "HANDLER shared OPEN", "HANDLER shared OPEN AS h", "HANDLER nosuch OPEN", effect=PIN),
    texts(
        "handler",
        10,
        "HANDLER shared READ FIRST",
        "HANDLER shared READ NEXT",
        "HANDLER h READ `PRIMARY` = (2)",
        "HANDLER h READ `PRIMARY` NEXT LIMIT 2",
        "HANDLER shared CLOSE",
        "HANDLER h CLOSE",
        when=used("handler open"),
    ),
    texts("handler without", 0.7, "HANDLER shared READ NEXT", "HANDLER nosuch CLOSE"),
    texts(
        "temporary table",
        2,
        "CREATE TEMPORARY TABLE tmp (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20))",
        "CREATE TEMPORARY TABLE tmp SELECT * FROM shared",
        "CREATE TEMPORARY TABLE IF NOT EXISTS tmp AS SELECT 1 AS id, 'x' AS v",
        "CREATE TEMPORARY TABLE tmp LIKE shared",
        "CREATE TEMPORARY TABLE shared (id INT, v VARCHAR(9))",
        "CREATE TEMPORARY TABLE tmp SELECT nosuch FROM shared",
        "CREATE /* c */ TEMPORARY TABLE s$n SELECT 1 AS id, 'temporary' AS v",
        effect=PIN,
    ),
    texts(
        "on temporary table",
        14,
        "SELECT * FROM tmp ORDER BY id",
        "INSERT INTO tmp (v) VALUES ('t')",
        "UPDATE tmp SET v = '$word'",
        "SELECT COUNT(*) FROM shared",
        "DROP TEMPORARY TABLE tmp",
        "DROP TABLE IF EXISTS tmp",
        "ALTER TABLE tmp ADD COLUMN more INT",
        "TRUNCATE TABLE tmp",
        "SHOW CREATE TABLE tmp",
        when=used("temporary table"),
    ),
    texts("no temporary table", 1.5, "SELECT * FROM tmp", "INSERT INTO tmp (v) VALUES (1)", "TRUNCATE TABLE tmp"),
    texts("drop no temporary table", 0.5, "DROP TEMPORARY TABLE IF EXISTS tmp", effect=PIN),
    texts(
        "text prepare",
        1,
        "PREPARE p FROM 'SELECT ? + 1, @a'",
        "PREPARE p FROM 'INSERT INTO s$n (v) VALUES (?)'",
        "PREPARE p FROM 'SET sql_notes = ?'",
        "PREPARE p FROM 'SELEC'",
        "PREPARE p FROM 'SELECT * FROM nosuch'",
        effect=PIN,
        prepared=False,
    ),
    texts(
        "text execute",
        8,
        "EXECUTE p USING @a",
        "EXECUTE p",
        "DEALLOCATE PREPARE p",
        "DROP PREPARE p",
        when=used("text prepare"),
        effect=PIN,
        prepared=False,
    ),
    texts("text execute without", 0.7, "EXECUTE p", "DEALLOCATE PREPARE nosuch", effect=PIN, prepared=False),
    texts("execute immediate", 0.5, "EXECUTE IMMEDIATE 'SELECT 1'", effect=PIN, only="mariadb"),
    texts(
        "call",
        2,
        "CALL give($small)",
        "CALL twice($small, @a)",
        "CALL make_temporary()",
        "CALL take_lock('zqd_lock$n')",
        "CALL set_things()",
        "CALL fail($small)",
        "CALL begin_one($n)",
        "CALL nosuch()",
        effect=PIN | BEGIN,
    ),
    texts(
        "stored function",
        1,
        "SELECT plus_one($small)",
        "SELECT remember($small), @remembered",
        "SELECT zqd_one.plus_one(id) FROM shared ORDER BY id",
        effect=PIN,
    ),
    texts("compound", 0.7, "BEGIN NOT ATOMIC SELECT 1; SET @a = 5; END", effect=PIN, only="mariadb", prepared=False),
    texts(
        "sequence", 1, "SELECT NEXTVAL(seq) > 0; SELECT LASTVAL(seq) > 0", effect=PIN, only="mariadb", prepared=False
    ),
    texts("profiling", 0.4, "SET profiling = 1", "SHOW PROFILES", effect=PIN, loose=True),
    # A backend with a branch is closed by a reset, and the role with it.
    Rule("xa", 1.2, _xa, lambda scene: not scene.model.kept),
    texts("xa without", 0.7, "XA END 'zqd_nosuch'", "XA COMMIT 'zqd_nosuch'", "XA ROLLBACK 'zqd_nosuch'", effect=PIN),
    texts("xa recover", 0.4, "XA RECOVER", loose=True),
    texts(
        "opaque",
        0.7,
        "SELECT nosuch.nosuch(1)",
        "CHECKSUM TABLE shared",
        "CREATE DATABASE zqd_no",
        "GRANT SELECT ON zqd_one.* TO zq_two",
        "ALTER DATABASE nosuch CHARSET latin1",
        effect=PIN,
    ),
    texts(
        "while held",
        4,
        "SELECT @@session.autocommit, LAST_INSERT_ID()",
        "INSERT INTO s$n (v) VALUES ('held')",
        "SELECT COUNT(*) FROM s$n",
        when=holding,
    ),
)
