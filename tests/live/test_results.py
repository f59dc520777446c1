"""Several results of one command, and files in between: through the pooler as from the server itself."""

from __future__ import annotations

import pytest

from proxy.wire import constants as c
from proxy.wire.framing import frame
from proxy.wire.packets import parse_err
from tests.live.raw import execute_payload
from tests.live.transcripts import Both, Witness, both_dialects

# --- several results ---

MULTI = (
    "SELECT 1; SELECT 2; DO 0; UPDATE t SET v = v; SELECT 3",
    "SELECT 1; SELECT nosuch; SELECT 3",
    "SELECT IF(id < 3, id, (SELECT id FROM t)) FROM t; SELECT 2",
    "SELEC; SELECT 1",
    "SELECT 1; SELEC",
    "BEGIN; UPDATE t SET v = 'x' WHERE id = 1; SELECT v FROM t; ROLLBACK",
    "BEGIN; INSERT INTO t VALUES (99, 'a'); SELEC",
    "SELECT COUNT(*) FROM t; ROLLBACK; SELECT COUNT(*) FROM t",
    "SELECT 1;",
    "SELECT 1;;SELECT 2",
    "SELECT 1; -- nothing",
    f"USE {Both.OTHER}; SELECT DATABASE(); USE {Both.DATABASE}",
    "SET @x = 1; SELECT @x; SET @x = 2; SELECT @x",
    "CALL fails(); SELECT 1",
    "CALL one_row_and_more(); SELECT 1",
)


@both_dialects
@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
def test_several_statements_give_several_results_or_an_error(both: Both, deprecate_eof: bool, on: bool) -> None:
    def scenario(client: Witness) -> None:
        for text in MULTI:
            client.queries(text)
        client.queries("ROLLBACK")

    without = 0 if on else c.CLIENT_MULTI_STATEMENTS
    both.compare(scenario, deprecate_eof=deprecate_eof, without=without)


@both_dialects
def test_the_option_of_multi_statements_is_switched(both: Both, deprecate_eof: bool) -> None:
    def scenario(client: Witness) -> None:
        for value, more in ((1, b""), (0, b""), (2, b""), (1, b"abc"), (0, b"\0"), (1, b"\1")):
            client.set_option(value, more)
            client.queries("SELECT 1; SELECT 2")
            client.reset()
            client.queries("SELECT 1; SELECT 2")
        client.queries("SELECT 1; SELECT nosuch")
        client.set_option(0)
        client.queries("SELECT 1; SELECT 2")

    both.compare(scenario, deprecate_eof=deprecate_eof)


@both_dialects
def test_files_are_asked_for_among_several_results(both: Both, deprecate_eof: bool) -> None:
    load = "LOAD DATA LOCAL INFILE 'x' INTO TABLE"

    def scenario(client: Witness) -> None:
        client.ok("CREATE TEMPORARY TABLE loaded (a INT, b TEXT)")
        client.file = (b"1\ta\n2\tb\n",)
        client.queries(f"{load} loaded")
        client.file = (b"3\t", b"c\n4", b"\td\n")
        client.queries(f"SELECT 1; {load} loaded; SELECT COUNT(*) FROM loaded; {load} loaded; SELECT 2")
        client.file = ()
        client.queries(f"{load} loaded")
        client.file = (b"x\ty\n",)
        client.queries(f"{load} loaded")
        client.queries("SHOW WARNINGS")
        client.queries(f"{load} nowhere; SELECT 2")
        client.queries(f"SELECT 1; {load} nowhere; SELECT 2")
        client.file = (b"7\tx\n",) * 300  # sequence ids run over
        client.queries(f"SELECT 1; {load} loaded; SELECT COUNT(*) FROM loaded")
        client.file = (b"50\ta\n",)
        client.queries(f"BEGIN; SELECT 1; {load} t; SELECT * FROM t; SELEC")
        client.queries("ROLLBACK")
        client.file = (b"1\ta\n",)
        client.queries(f"{load} t")

    both.compare(scenario, deprecate_eof=deprecate_eof)


NO_FILES = {
    "a command instead of a file": frame(b"\x03SELECT 1", 0),
    "a command behind half a file": frame(b"1\ta\n", 2) + frame(b"\x03SELECT 1", 0),
    "a gap in the numbers": frame(b"1\ta\n", 2) + frame(b"2\tb\n", 9) + frame(b"", 10),
}


@pytest.mark.parametrize("what", NO_FILES)
def test_a_file_that_is_broken_off_gives_the_servers_error_and_ends_the_connection(both: Both, what: str) -> None:
    seen = []
    for target in (both.server, both.pooler):
        with both.connect(target) as client:
            client.ok("CREATE TEMPORARY TABLE loaded (a INT, b TEXT)")
            client.send_query("LOAD DATA LOCAL INFILE 'x' INTO TABLE loaded")
            client.expect_answer()
            assert client.read_packet() == b"\xfbx"
            client.sock.sendall(NO_FILES[what])
            client.next_seq = 2 + what.startswith("a command behind") + what.startswith("a gap")
            seen.append(parse_err(client.read_packet()))
            with pytest.raises((EOFError, ConnectionResetError)):
                while True:  # the server says it again of what it reads next
                    client.next_seq = 0
                    assert parse_err(client.read_packet()) == seen[0]
    assert seen[0] == seen[1]
    assert seen[0].code == 1156
    both.pooler.wait_for_metric('mybouncer_backends{state="closing"}', 0)


@both_dialects
def test_without_local_files_the_server_says_no(both: Both, deprecate_eof: bool) -> None:
    def scenario(client: Witness) -> None:
        assert client.query("LOAD DATA LOCAL INFILE 'x' INTO TABLE t").code in (3948, 4166)

    both.compare(scenario, deprecate_eof=deprecate_eof, without=c.CLIENT_LOCAL_FILES)


# --- procedures ---

CALLS = (
    "SET @io = 5",
    "CALL rows_and_out(3, @o, @io)",
    "SELECT @o, @io",
    "CALL only_out(@o, @p)",
    "SELECT @o, @p",
    "CALL one_row_and_more()",
    "CALL fails()",
    "CALL nosuch()",
)


@both_dialects
@pytest.mark.parametrize("without", [0, c.CLIENT_MULTI_RESULTS], ids=["multi_results", "single"])
def test_a_call_gives_its_results_and_sets_variables(both: Both, deprecate_eof: bool, without: int) -> None:
    def scenario(client: Witness) -> None:
        for text in CALLS:
            client.queries(text)

    without |= c.CLIENT_MULTI_STATEMENTS | c.CLIENT_PS_MULTI_RESULTS if without else 0
    both.compare(scenario, deprecate_eof=deprecate_eof, without=without)


@both_dialects
@pytest.mark.parametrize("without", [0, c.CLIENT_PS_MULTI_RESULTS], ids=["ps_multi_results", "single"])
def test_out_parameters_come_as_a_row_to_those_who_can_have_several_results(
    both: Both, deprecate_eof: bool, without: int
) -> None:
    def scenario(client: Witness) -> None:
        both = client.prepare("CALL rows_and_out(?, ?, ?)")
        client.call(execute_payload(both, (3, None, 4)))
        client.call(execute_payload(both, (5, None, 4), types=False))
        client.call(execute_payload(client.prepare("CALL only_out(?, ?)"), (1, "x")))
        client.call(execute_payload(client.prepare("CALL one_row_and_more()"), ()))
        client.call(execute_payload(client.prepare("CALL fails()"), ()))

    both.compare(scenario, deprecate_eof=deprecate_eof, without=without)
