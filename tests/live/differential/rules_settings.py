"""Rules for everything that SET can say."""

from __future__ import annotations

from .grammar import Rule, Scene, in_transaction, texts, used
from .steps import AUTOCOMMIT_OFF, AUTOCOMMIT_ON, BEGIN, KEPT, PIN, Step

# Variables that a session may set, and values for them; of both servers unless named below.
VARIABLES: dict[str, tuple[str, ...]] = {
    "sql_mode": ("''", "'ANSI_QUOTES'", "'STRICT_ALL_TABLES'", "'NO_BACKSLASH_ESCAPES'", "'TRADITIONAL'", "DEFAULT"),
    "time_zone": ("'+00:00'", "'+05:30'", "'-08:00'", "'SYSTEM'", "DEFAULT"),
    "foreign_key_checks": ("0", "1", "ON", "OFF", "TRUE", "DEFAULT"),
    "unique_checks": ("0", "1", "DEFAULT"),
    "sql_safe_updates": ("0", "1", "DEFAULT"),
    "group_concat_max_len": ("4", "1000", "1024 * 2", "DEFAULT"),
    "div_precision_increment": ("2", "9", "4", "DEFAULT"),
    "lc_time_names": ("'de_DE'", "'en_US'", "'fr_FR'", "DEFAULT"),
    "sql_select_limit": ("1", "2", "100 + 1", "DEFAULT"),
    "max_sort_length": ("64", "1024", "DEFAULT"),
    "default_week_format": ("0", "3", "DEFAULT"),
    "wait_timeout": ("100", "28800", "DEFAULT"),
    "net_write_timeout": ("61", "60", "DEFAULT"),
    "sort_buffer_size": ("65536", "262144", "1", "DEFAULT"),
    "join_buffer_size": ("131072", "262144", "DEFAULT"),
    "tmp_table_size": ("65536", "16777216", "DEFAULT"),
    "max_heap_table_size": ("65536", "16777216"),
    "auto_increment_increment": ("1", "2", "10", "DEFAULT"),
    "auto_increment_offset": ("1", "2", "DEFAULT"),
    "innodb_lock_wait_timeout": ("1", "2", "3"),
    "updatable_views_with_limit": ("'NO'", "'YES'", "DEFAULT"),
    "sql_warnings": ("0", "1", "DEFAULT"),
    "sql_notes": ("0", "1", "DEFAULT"),
    "sql_quote_show_create": ("0", "1", "DEFAULT"),
    "low_priority_updates": ("0", "1", "DEFAULT"),
    "sql_auto_is_null": ("0", "1", "DEFAULT"),
    "sql_big_selects": ("0", "1", "DEFAULT"),
    "max_error_count": ("0", "2", "64", "DEFAULT"),
    "transaction_prealloc_size": ("4096", "8192", "DEFAULT"),
    "lock_wait_timeout": ("2", "3"),
    "character_set_results": ("'latin1'", "'utf8mb4'", "NULL", "DEFAULT"),
    "character_set_client": ("'latin1'", "'utf8mb4'", "utf8mb3"),
    "character_set_connection": ("'latin1'", "utf8mb4", "DEFAULT"),
    "collation_connection": ("'utf8mb4_bin'", "'latin1_swedish_ci'", "utf8mb4_general_ci", "DEFAULT"),
    "optimizer_switch": ("'index_merge=off'", "'mrr=on,mrr_cost_based=off'", "DEFAULT"),
    "optimizer_prune_level": ("0", "1", "DEFAULT"),
    "default_storage_engine": ("'InnoDB'", "InnoDB", "DEFAULT"),
    "old_alter_table": ("0", "1"),
    "eq_range_index_dive_limit": ("10", "200", "DEFAULT"),
    "long_query_time": ("10", "11.5", "DEFAULT"),
    "max_seeks_for_key": ("1", "100", "DEFAULT"),
    "completion_type": ("0", "'NO_CHAIN'", "DEFAULT"),
    "block_encryption_mode": ("'aes-256-cbc'", "'aes-128-ecb'", "DEFAULT"),
    "explicit_defaults_for_timestamp": ("1", "DEFAULT"),
}
# A wrong name, values that are refused, variables that are global or read-only.
WRONG = (
    "nosuch = 1",
    "sql_mode = 'NOSUCH'",
    "time_zone = 'No/Where'",
    "foreign_key_checks = 7",
    "character_set_client = nosuch",
    "character_set_client = utf16",
    "collation_connection = 'utf8mb4_nosuch'",
    "max_connections = 5",
    "SESSION max_connections = 5",
    "version = 'x'",
    "GLOBAL wait_timeout = 100",
    "wait_timeout = 'x'",
    "sort_buffer_size = 1.5",
    "lc_time_names = NULL",
    "sql_mode = (SELECT v FROM nosuch)",
)
_PLACES = ("", "SESSION ", "LOCAL ", "@@", "@@session.", "@@local.")


def _assignment(scene: Scene, *, wrong: bool = False) -> str:
    rng = scene.rng
    if wrong:
        return rng.choice(WRONG)
    name = rng.choice(tuple(VARIABLES))
    value = rng.choice(VARIABLES[name])
    if rng.random() < 0.1:
        value = f"@@GLOBAL.{name}"
    if rng.random() < 0.1:
        name = f"`{name}`"
    if rng.random() < 0.1:
        name = name.upper()
    return f"{rng.choice(_PLACES)}{name}{rng.choice((' = ', '=', ' := '))}{value}"


def _set(name: str, weight: float, count: int, wrong: bool = False) -> Rule:
    def make(scene: Scene) -> list[Step]:
        items = [_assignment(scene) for _ in range(scene.rng.randint(2, 4) if count > 1 else 1)]
        if wrong:
            items[-1 if scene.rng.random() < 0.7 else 0] = _assignment(scene, wrong=True)
        text = "SET " + ", ".join(items)
        if scene.rng.random() < 0.9:
            return [scene.step("query", text)]
        return [
            scene.step("prepare", text, handle="set"),
            scene.step("execute", handle="set"),
            scene.step("execute", handle="set"),
        ]

    return Rule(name, weight, make)


def _expression(scene: Scene) -> list[Step]:
    text = scene.rng.choice(
        (
            "SET sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES')",
            "SET @@sql_mode = REPLACE(@@sql_mode, 'ANSI_QUOTES', '')",
            "SET group_concat_max_len = @@group_concat_max_len + $small",
            "SET SESSION div_precision_increment = 1 + $small",
            "SET @@session.sql_select_limit = (SELECT COUNT(*) FROM shared)",
            "SET net_write_timeout = @@session.net_read_timeout + $small, wait_timeout = 100 + $small",
            "SET time_zone = IF($small > 2, '+01:00', '-01:00')",
            "SET @@max_sort_length = 64 + $small, SESSION foreign_key_checks = $small > 2",
            "SET sql_mode = @@GLOBAL.sql_mode",
        )
    )
    return [scene.step("query", text)]


def _from_parameter(scene: Scene) -> list[Step]:
    name, kind, value = scene.rng.choice(
        (
            ("time_zone", "varstring", "+03:00"),
            ("group_concat_max_len", "long", 77),
            ("sql_mode", "string", "ANSI_QUOTES"),
            ("@@wait_timeout", "longlong", 321),
            ("SESSION foreign_key_checks", "tiny", 0),
        )
    )
    return [
        scene.step("prepare", f"SET {name} = ?", handle="setp"),
        scene.step("execute", handle="setp", values=((kind, value),)),
    ]


RULES = (
    _set("set one", 22, 1),
    _set("set list", 6, 2),
    _set("set wrong", 4, 1, wrong=True),
    _set("set list wrong", 3, 2, wrong=True),
    Rule("set expression", 5, _expression),
    Rule("set from parameter", 2, _from_parameter),
    texts(
        "set names",
        4,
        "SET NAMES latin1",
        "SET NAMES utf8mb4",
        "SET NAMES 'utf8mb3'",
        "SET NAMES DEFAULT",
        "SET NAMES binary",
        "SET NAMES gbk",
        "set names\tUTF8MB4",
    ),
    texts(
        "set names collate",
        3,
        "SET NAMES utf8mb4 COLLATE utf8mb4_unicode_ci",
        "SET NAMES latin1 COLLATE latin1_german1_ci",
        "SET NAMES 'utf8mb4' COLLATE 'utf8mb4_bin'",
        "SET NAMES latin1 COLLATE utf8mb4_bin",
    ),
    texts("set names and more", 2, "SET NAMES latin1, time_zone = '+04:00'", "SET @@sql_notes = 1, NAMES utf8mb4"),
    texts(
        "set character set",
        3,
        "SET CHARACTER SET latin1",
        "SET CHARACTER SET 'utf8mb4'",
        "SET CHARSET DEFAULT",
        "SET CHARACTER SET nosuch",
    ),
    texts(
        "set session transaction",
        3,
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
        "SET SESSION TRANSACTION READ WRITE",
        "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET LOCAL TRANSACTION ISOLATION LEVEL READ UNCOMMITTED",
    ),
    texts(
        "set next transaction",
        2,
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET TRANSACTION READ ONLY",
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED, READ WRITE",
        effect=PIN,
        prepared=False,
    ),
    texts(
        "set next isolation",
        1,
        "SET @@transaction_isolation = 'READ-COMMITTED'",
        "SET @@transaction_read_only = 1",
        "SET @@session.transaction_isolation = 'REPEATABLE-READ'",
        effect=PIN,
        only="mysql",
    ),
    texts(
        "set tx isolation",
        1,
        "SET @@tx_isolation = 'READ-COMMITTED'",
        "SET tx_isolation = 'SERIALIZABLE'",
        "SET SESSION tx_read_only = 0",
        "SET @@tx_read_only = 1",
        effect=PIN,
        only="mariadb",
    ),
    texts(
        "set timestamp",
        3,
        "SET timestamp = 1000000000",
        "SET @@timestamp = 1234567890.25",
        "SET SESSION timestamp = 1500000000",
        "SET timestamp = DEFAULT",
        "SET @@session.timestamp = 0",
    ),
    texts("set one shot", 1, "SET insert_id = $big", "SET last_insert_id = $big", "SET identity = $big", effect=PIN),
    texts("set rand", 0.5, "SET rand_seed1 = 5, rand_seed2 = 7", effect=PIN),
    texts("rand", 3, "SELECT RAND()", when=used("set rand")),
    texts(
        "set privileged",
        0.7,
        "SET sql_log_bin = 0",
        "SET SESSION sql_log_off = 1",
        "SET pseudo_thread_id = 5",
        "SET SESSION gtid_domain_id = 3",
        "SET GLOBAL sort_buffer_size = 65536",
        "SET PERSIST wait_timeout = 99",
        effect=PIN,
    ),
    texts(
        "set session track",
        0.7,
        "SET session_track_schema = 0",
        "SET session_track_state_change = 1",
        "SET session_track_system_variables = ''",
        "SET SESSION session_track_transaction_info = 'CHARACTERISTICS'",
        effect=PIN,
    ),
    texts(
        "set role",
        0.7,
        "SET ROLE zq_role",
        "SET ROLE NONE",
        "SET ROLE nosuch",
        "SET DEFAULT ROLE NONE",
        effect=PIN | KEPT,
        when=lambda scene: scene.model.rules.isdisjoint(("xa", "xa without")),
    ),
    texts(
        "set statement",
        1.5,
        "SET STATEMENT sql_select_limit = 1 FOR SELECT id FROM shared ORDER BY id",
        "SET STATEMENT group_concat_max_len = 5 FOR SELECT GROUP_CONCAT(v ORDER BY id) FROM shared",
        "SET STATEMENT nosuch = 5 FOR SELECT 1",
        effect=PIN,
        only="mariadb",
    ),
    texts(
        "set var hint",
        2,
        "SELECT /*+ SET_VAR(group_concat_max_len = 5) */ GROUP_CONCAT(v ORDER BY id) FROM shared",
        "SELECT /*+ SET_VAR(sql_select_limit = 1) */ id FROM shared ORDER BY id",
    ),
    texts(
        "set mode hint", 0.5, "SELECT /*+ SET_VAR(sql_mode = 'ANSI_QUOTES') */ id FROM shared ORDER BY id", effect=PIN
    ),
    texts(
        "executable comment",
        2,
        "/*!40101 SET NAMES utf8mb4 */",
        "/*!40014 SET FOREIGN_KEY_CHECKS=0 */",
        "/*!99999 SET sql_mode = '' */",
        "/*M!100100 SET sql_notes = 0 */",
        "/*!40000 SELECT 1 */",
    ),
    texts("set password wrong", 0.5, "SET PASSWORD FOR nobody = 'x'", "SET RESOURCE GROUP nosuch", effect=PIN),
    texts(
        "set user variable",
        2,
        "SET @$var = $literal",
        "SET @$var := '$word', @$var = $small + 1",
        "SET @$var = (SELECT COUNT(*) FROM shared), sql_notes = 1",
        "SET @`$var` = _utf8mb4'$word' COLLATE utf8mb4_bin",
        "SET @$var = nosuch",
        "SELECT @$var := $small",
        "SELECT COUNT(*), MAX(v) FROM shared INTO @a, @b",
        "SELECT id INTO @$var FROM shared WHERE id = $small",
        "DO @$var := $small",
        effect=PIN,
        prepared=False,
    ),
    texts(
        "read user variable",
        4,
        "SELECT @a, @b, @c",
        "SELECT @$var + 1, CONCAT(@$var, 'x')",
        "SET sql_select_limit = @nothing",
        prepared=False,
    ),
    texts(
        "read variables",
        5,
        "SELECT @@sql_mode, @@session.time_zone, @@character_set_client, @@collation_connection",
        "SELECT @@autocommit, @@sql_notes, @@GLOBAL.wait_timeout = @@wait_timeout, @@wait_timeout",
        "SHOW VARIABLES LIKE 'character_set%'",
        "SHOW SESSION VARIABLES LIKE 'sql\\_%'",
        "SHOW VARIABLES WHERE variable_name IN ('time_zone', 'collation_connection', 'autocommit')",
        "SELECT DATABASE(), SCHEMA(), USER() LIKE 'zq%'",
        "SELECT NOW() < '2018-01-01', @@timestamp < 1600000000",
    ),
    texts(
        "autocommit off",
        3,
        "SET autocommit = 0",
        "SET @@autocommit = OFF",
        "SET SESSION autocommit = FALSE",
        "SET autocommit=0, time_zone='+01:00'",
        effect=AUTOCOMMIT_OFF,
    ),
    texts(
        "autocommit on",
        12,
        "SET autocommit = 1",
        "SET @@session.autocommit = ON",
        "SET @@autocommit = 1",
        effect=AUTOCOMMIT_ON,
        when=in_transaction,
    ),
    texts("begin by another name", 1, "START /* c */ TRANSACTION", "/*!40000 BEGIN */", effect=BEGIN, prepared=False),
)
