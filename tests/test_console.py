"""The console's words: what can be said, what clients say of their own accord, and whether the docs tell the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxy.address import Address
from proxy.config import entries, load, split_key
from proxy.ops.console import commands, dialect, place
from proxy.ops.console.client import FIELDS
from proxy.ops.console.live import LIVE
from proxy.ops.console.values import ConsoleError, harmless
from proxy.ops.console.words import PIN_WORDS
from proxy.session import pins

DOCS = Path(__file__).parents[1] / "docs" / "console.md"
USAGES = [command.usage for command in commands.COMMANDS]


def section_of_the_docs(title: str) -> str:
    return DOCS.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def table_rows(section: str) -> list[tuple[str, str]]:
    return re.findall(r"^\| `([^`]+)` \| (.*) \|$", section, re.MULTILINE)


# --- the one table of commands ---


def test_the_docs_list_the_commands_there_are() -> None:
    said = [(command.usage, command.help) for command in commands.COMMANDS]
    assert table_rows(section_of_the_docs("Commands")) == said


@pytest.mark.parametrize("command", [one for one in commands.COMMANDS if one.columns], ids=lambda one: one.words)
def test_the_docs_tell_every_column(command: commands.Command) -> None:
    expected = [(column.name, column.help) for column in command.columns]
    if command.words == "SHOW CLIENT":
        expected += list(FIELDS)
    assert table_rows(section_of_the_docs(command.usage)) == expected


def test_the_docs_have_no_columns_of_other_commands() -> None:
    titles = set(re.findall(r"^## (SHOW .*)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE))
    assert titles <= set(USAGES)


def test_the_docs_list_the_keys_that_can_change() -> None:
    text = section_of_the_docs("SET and RELOAD").partition("These can change:")[2]
    assert re.findall(r"`([^`]+)`", text) == list(LIVE)


def test_keys_that_can_change_exist() -> None:
    of_accounts = {f'users."name".{key}' for key in ("weight", "max_connections", "max_clients")}
    known = of_accounts.union(entries(load()))
    assert set(LIVE) <= known
    assert split_key('users."name".weight') == ["users", "name", "weight"]


def test_help_is_the_same_table() -> None:
    command, argument, limit = commands.find("show help")
    rows = list(commands.rows(command, None, argument, limit))  # type: ignore[arg-type]
    assert [row[0] for row in rows] == USAGES


@pytest.mark.parametrize("command", commands.COMMANDS, ids=lambda one: one.words)
def test_every_command_is_found_however_it_is_written(command: commands.Command) -> None:
    argument = {"<id>": "17", "<key> = <value>": "queue.timeout = '3s'"}.get(command.argument, "")
    for words in (command.words, command.words.lower(), command.words.replace(" ", "  \n ")):
        text = dialect.plain(f"/* who asks */ {words} {argument} ; ")
        assert dialect.answer(text, dialect.Session(1, "me")) is None
        assert commands.find(text) == (command, argument, None)


def test_a_list_can_be_limited() -> None:
    command, _, limit = commands.find("SHOW CLIENTS limit 3")
    assert (command.words, limit) == ("SHOW CLIENTS", 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SHOW CLINTS", "did you mean SHOW CLIENT"),
        ("SHOW", "known: SHOW CLIENTS"),
        ("SHOW CLIENT", "it is SHOW CLIENT <id>; it is missing"),
        ("SHOW POOLS now", "it is SHOW POOLS; not 'SHOW POOLS now'"),
        ("SHOW CLIENT 3 LIMIT 1", "without LIMIT"),
        ("KILL 3", "KILL CLIENT <id>, KILL BACKEND <id>"),
        ("PAUSE api", "it is PAUSE; not"),
        ("DROP TABLE t", "'DROP TABLE t' is no command"),
        ("CLIENTS", "is no command"),
        ("x" * 10_000, "is no command"),
    ],
)
def test_what_is_no_command_is_told_with_what_is(text: str, words: str) -> None:
    with pytest.raises(ConsoleError, match=re.escape(words)) as caught:
        commands.find(text)
    assert caught.value.code == 1064
    assert len(str(caught.value)) < 1000


def test_every_pin_has_words() -> None:
    assert list(PIN_WORDS) == list(pins.PIN_NAMES)


# --- what clients say ---

JDBC = (
    "/* mysql-connector-j-8.3.0 (Revision: 0) */"
    "SELECT  @@session.auto_increment_increment AS auto_increment_increment, "
    "@@character_set_client AS character_set_client, @@character_set_connection AS character_set_connection, "
    "@@character_set_results AS character_set_results, @@character_set_server AS character_set_server, "
    "@@collation_server AS collation_server, @@collation_connection AS collation_connection, "
    "@@init_connect AS init_connect, @@interactive_timeout AS interactive_timeout, @@license AS license, "
    "@@lower_case_table_names AS lower_case_table_names, @@max_allowed_packet AS max_allowed_packet, "
    "@@net_write_timeout AS net_write_timeout, @@performance_schema AS performance_schema, "
    "@@sql_mode AS sql_mode, @@system_time_zone AS system_time_zone, @@time_zone AS time_zone, "
    "@@transaction_isolation AS transaction_isolation, @@wait_timeout AS wait_timeout"
)
SAID_BY_CLIENTS = [
    "SET NAMES utf8mb4 COLLATE utf8mb4_general_ci",
    "/*!40101 SET NAMES utf8 */",
    "SET AUTOCOMMIT = 0",
    "set autocommit=1",
    "SET @@session.autocommit = OFF",
    "SET character_set_results = NULL",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "SET SQL_SAFE_UPDATES=1",
    "SET sql_mode='STRICT_TRANS_TABLES', autocommit=1",
    "SET CHARACTER SET utf8",
    "SET SESSION wait_timeout = 3600",
    "select @@version_comment limit 1",
    "SELECT @@session.tx_isolation",
    "SELECT @@max_allowed_packet,@@system_time_zone,@@time_zone,@@tx_isolation AS a,@@wait_timeout",
    JDBC,
    "SELECT DATABASE()",
    "SELECT DATABASE(), USER() LIMIT 1",
    "SELECT CONNECTION_ID()",
    "SELECT current_user()",
    "SELECT VERSION() FROM dual",
    "SELECT NOW()",
    "SELECT 1",
    "SELECT 'alive', NULL AS nothing",
    "SHOW VARIABLES",
    "SHOW SESSION VARIABLES LIKE 'lower_case_table_names'",
    "SHOW GLOBAL VARIABLES LIKE '%version%'",
    "SHOW VARIABLES WHERE Variable_name ='language' OR Variable_name = 'net_write_timeout'",
    "SHOW /*!50002 GLOBAL */ STATUS",
    "SHOW SESSION STATUS LIKE 'Ssl_cipher'",
    "SHOW DATABASES",
    "SHOW FULL TABLES FROM `mybouncer`",
    "SHOW TABLE STATUS FROM `x` LIKE 'y'",
    "SHOW WARNINGS",
    "SHOW COUNT(*) WARNINGS",
    "SHOW COLLATION",
    "SHOW ENGINES",
    "SHOW PLUGINS",
    "SELECT SCHEMA_NAME, DEFAULT_CHARACTER_SET_NAME AS charset FROM information_schema.SCHEMATA ORDER BY 1",
    "USE `mybouncer`",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
]


@pytest.mark.parametrize("text", SAID_BY_CLIENTS)
def test_clients_can_say_what_they_say_when_they_connect(text: str) -> None:
    assert dialect.answer(dialect.plain(text), dialect.Session(1, "me")) is not None


def test_the_columns_are_named_as_they_were_asked_for() -> None:
    answer = dialect.answer(dialect.plain(JDBC), dialect.Session(1, "me"))
    assert isinstance(answer, dialect.Table)
    assert [column.name for column in answer.columns][:2] == ["auto_increment_increment", "character_set_client"]
    assert answer.rows[0][:2] == (1, "utf8mb4")


def test_variables_are_filtered() -> None:
    answer = dialect.answer("SHOW VARIABLES LIKE 'character_set_c%'", dialect.Session(1, "me"))
    assert isinstance(answer, dialect.Table)
    assert answer.rows == [("character_set_client", "utf8mb4"), ("character_set_connection", "utf8mb4")]


def test_a_client_is_told_about_itself() -> None:
    session = dialect.Session(7, "me")
    assert dialect.answer("USE shop", session) == dialect.OK
    answer = dialect.answer("SELECT database(), connection_id(), USER()", session)
    assert isinstance(answer, dialect.Table)
    assert answer.rows == [("shop", 7, "me@localhost")]
    assert [column.kind for column in answer.columns] == ["text", "int", "text"]


def test_catalogues_are_empty_and_not_refused() -> None:
    answer = dialect.answer("SELECT a, b AS c FROM information_schema.tables WHERE d = 'x'", dialect.Session(1, "me"))
    assert isinstance(answer, dialect.Table)
    assert ([column.name for column in answer.columns], answer.rows) == (["a", "c"], [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SELECT @@nonsense", "Unknown system variable 'nonsense'"),
        ("SELECT * FROM orders", "the console has no tables"),
        ("SELECT 1 + 1", "computes nothing"),
        ("SELECT sleep(5)", "computes nothing"),
        ("SET timeout = 3", "no key and no variable"),
        ("SET autocommit=1, nonsense=2", "no key and no variable"),
    ],
)
def test_what_nobody_can_answer_is_an_error(text: str, words: str) -> None:
    with pytest.raises(ConsoleError, match=re.escape(words)):
        dialect.answer(text, dialect.Session(1, "me"))


# --- what people read ---


def test_a_terminal_is_not_told_what_to_do_by_a_client() -> None:
    assert harmless("api\x1b[2J\n\u202e") == r"api\x1b[2J\n\u202e"
    assert harmless("größe ✓") == "größe ✓"


# --- where the socket is ---


def test_the_socket_is_named_after_the_first_address() -> None:
    assert place.socket_name([Address("0.0.0.0", 6033), Address("127.0.0.1", 1)]) == "console-6033.sock"
    assert place.socket_name([Address(unix_path="/run/a/b.sock")]) == "console-run-a-b.sock.sock"


def test_a_directory_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    good = tmp_path / "good" / "mybouncer"
    good.parent.mkdir()
    monkeypatch.setattr(place, "directories", lambda: [open_to_all, link, tmp_path / "not" / "there", good])
    assert place.own_directory() == good
    assert good.stat().st_mode & 0o777 == 0o700


def test_systemd_s_directory_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/one:/run/two")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert [str(path) for path in place.directories()][:3] == ["/run/one", "/run/user/7/mybouncer", "/run/mybouncer"]
