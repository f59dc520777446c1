"""Every command of the protocol, answered through the pooler as by the server itself, or refused in words.

A scenario runs once on a connection to the server and once through the pooler, for both servers and for clients with
and without DEPRECATE_EOF, and every packet has to be the same (see `transcripts`). What is refused on purpose stands in
REFUSED. Several results are in `test_results`, prepared statements in `test_statements`, bulk execution in `test_bulk`,
packets of 16 MiB in `test_frames`.
"""

from __future__ import annotations

import pytest

from proxy.wire import constants as c
from proxy.wire.packets import Err
from tests.live.transcripts import Both, Witness, both_dialects

# --- one command, whatever it is ---

KNOWN = {
    *range(c.COM_QUIT, c.COM_FIELD_LIST + 1),
    *(value for name, value in vars(c).items() if name.startswith("COM_") and isinstance(value, int)),
}
UNKNOWN = [byte for byte in (*range(0x25), *range(0xFA, 0x100)) if byte not in KNOWN or byte == c.COM_SLEEP]


@both_dialects
def test_what_is_no_command_is_unknown_as_to_the_server(both: Both, deprecate_eof: bool) -> None:
    def scenario(client: Witness) -> None:
        for payload in (b"", *(bytes((byte,)) + extra for byte in UNKNOWN for extra in (b"", b"abcdefgh"))):
            assert client.command(payload)[0].code == 1047
            client.note(payload)

    assert len(UNKNOWN) > 12
    both.compare(scenario, deprecate_eof=deprecate_eof)


REPLICATION = "replication does not go through a pooler: connect to the server"
REFUSED = {
    (c.COM_SHUTDOWN, "mariadb"): "COM_SHUTDOWN is not passed on: stop the server itself, or mybouncer with SIGTERM",
    (c.COM_BINLOG_DUMP, "mariadb"): REPLICATION,
    (c.COM_REGISTER_SLAVE, "mariadb"): REPLICATION,
    (c.COM_BINLOG_DUMP, "mysql"): REPLICATION,
    (c.COM_REGISTER_SLAVE, "mysql"): REPLICATION,
    (c.COM_BINLOG_DUMP_GTID, "mysql"): REPLICATION,
    (c.COM_SUBSCRIBE_GROUP_REPLICATION_STREAM, "mysql"): REPLICATION,
    (c.COM_CLONE, "mysql"): "cloning does not go through a pooler: connect to the server",
}


@pytest.mark.parametrize("command", sorted({command for command, _ in REFUSED}), ids=hex)
def test_what_is_not_passed_on_is_refused_in_words(both: Both, command: int) -> None:
    words = REFUSED.get((command, both.server.flavour))
    payload = bytes((command,)) + bytes(10)
    if words is None:  # it does not exist on this server
        both.compare(lambda client: client.command(payload))
        return
    with both.connect(both.pooler) as client:
        assert client.command(payload)[0].error == Err(1235, b"42000", words.encode())
        assert client.get("SELECT 1") == b"1"


ONE_BY_ONE: dict[str, tuple[bytes, ...]] = {
    "init_db": (
        b"\x02" + Both.OTHER.encode(),
        b"\x02",
        b"\x02nosuch",
        b"\x03SELECT DATABASE()",
        b"\x02" + Both.DATABASE.encode(),
    ),
    "query": (
        b"\x03SELECT 1, NULL, 'a'",
        b"\x03SELECT * FROM t",
        b"\x03SELECT * FROM t WHERE id < 0",
        b"\x03UPDATE t SET v = v",
        b"\x03SELECT CAST('x' AS SIGNED)",
        b"\x03SELECT nosuch",
        b"\x03SELECT IF(id < 3, id, (SELECT id FROM t)) FROM t",  # an error behind two rows
        b"\x03-- nothing",
        b"\x03;",
        b"\x03  ",
        b"\x03",
    ),
    "transaction": (
        b"\x03BEGIN",
        b"\x03SELECT * FROM t FOR UPDATE",
        b"\x03nonsense",
        b"\x0e",
        b"\x03UPDATE t SET v = 'x' WHERE id = 1",
        b"\x03ROLLBACK",
        b"\x03SET autocommit = 0",
        b"\x03SELECT v FROM t WHERE id = 1",
        b"\x03COMMIT",
        b"\x03SET autocommit = 1",
    ),
    "refresh": tuple(bytes((c.COM_REFRESH, 1 << bit)) for bit in (0, 1, 2, 4)),
    "debug": (bytes((c.COM_DEBUG,)),),
    "reset_connection": (b"\x03SET @x = 1", b"\x03BEGIN", b"\x1f", b"\x03SELECT @x, DATABASE()", b"\x1f", b"\x1f"),
}


@both_dialects
@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_a_plain_command_gives_what_the_server_gives(both: Both, name: str, deprecate_eof: bool) -> None:
    def scenario(client: Witness) -> None:
        for payload in ONE_BY_ONE[name]:
            client.ping() if payload == b"\x0e" else client.command(payload)

    both.compare(scenario, deprecate_eof=deprecate_eof)


@both_dialects
def test_field_list_has_no_count_and_one_end(both: Both, deprecate_eof: bool) -> None:
    def scenario(client: Witness) -> None:
        for argument in (b"t\0", b"t\0%", b"t\0i%", b"nosuch\0", b"t", b"", b"a" * 300 + b"\0"):
            client.send(b"\x04" + argument)
            client.expect_answer()
            client.fields()

    both.compare(scenario, deprecate_eof=deprecate_eof)


@both_dialects
def test_statistics_and_processes_have_the_shapes_of_the_server(both: Both, deprecate_eof: bool) -> None:
    seen = []
    for target in (both.server, both.pooler):
        with both.connect(target, deprecate_eof=deprecate_eof) as client:
            words = [word for word in client.statistics().decode().replace(":", "").split() if word.isalpha()]
            processes = client.command(bytes((c.COM_PROCESS_INFO,)))[0]
            seen.append((words, processes.code, processes.columns, client.get("SELECT 1")))
    assert seen[0] == seen[1]
    assert seen[0][0][0] == "Uptime"


def test_bulk_execution_is_mariadbs(both: Both) -> None:
    if both.server.flavour == "mariadb":
        pytest.skip("see test_bulk")
    both.compare(lambda client: client.command(b"\xfa\1\0\0\0\x80\0"))


# --- the end of a session on the same connection ---


def test_change_user_is_a_login_and_takes_nothing_along(both: Both) -> None:
    def scenario(client: Witness) -> None:
        client.ok("SET @x = 1, time_zone = '+05:00'")
        client.ok("BEGIN")
        statement = client.prepare("SELECT 1")
        client.seen.clear()
        assert client.change_user("app", "app-secret", "test").error is None
        client.seen.clear()  # the exchange of the login is ours
        client.query("SELECT @x, DATABASE(), CURRENT_USER(), @@time_zone = @@global.time_zone")
        client.execute(statement)
        client.ping()

    both.compare(scenario)


def test_a_failed_change_user_ends_the_connection(both: Both) -> None:
    with both.connect(both.pooler) as client:
        client.ok("BEGIN")
        refused = client.change_user("app", "wrong").error
        assert refused is not None
        assert (refused.code, refused.state) == (1045, b"28000")
        assert client.at_end()
    both.pooler.wait_for_metric('mybouncer_backends{state="leased"}', 0)
