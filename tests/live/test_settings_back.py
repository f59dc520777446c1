"""Every session variable that clients can set goes back by its name, as if nobody had ever set it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from proxy.session.pins import variable_pin
from proxy.session.state import SettingsTable, quote, restore_commands
from tests.live.raw import Raw
from tests.servers import Server

# What changes by itself, what is carried otherwise, and what would keep the test from asking.
VOLATILE = frozenset(
    b"timestamp last_gtid rand_seed1 rand_seed2 gtid_binlog_pos warning_count error_count statement_id".split()
)
ELSEWHERE = frozenset(
    b"autocommit character_set_client character_set_connection character_set_results collation_connection".split()
)
HOSTILE = frozenset(b"max_session_mem_used max_statement_time max_join_size sql_select_limit".split())

WORDS = b"latin1 latin1_bin de_DE MyISAM READ-COMMITTED ANSI +01:00 mrr=off FORCED aes-256-cbc x 0 1".split()


def all_variables(client: Raw) -> dict[bytes, bytes]:
    rows = client.ok("SHOW SESSION VARIABLES").rows
    return {name: value for name, value in rows if name not in VOLATILE}  # type: ignore[misc]


def other_values(value: bytes) -> Iterator[bytes]:
    """Values that a variable may have as well."""
    if value in (b"ON", b"OFF"):
        yield b"OFF" if value == b"ON" else b"ON"
    elif re.fullmatch(rb"\d+(\.\d+)?", value):
        number = int(float(value))
        yield from (b"%d" % n for n in (number + 1, number // 2, 0, 1, 4096))
    else:
        yield from (quote(word) for word in WORDS)


def test_every_variable_goes_back_by_its_name(server: Server) -> None:
    server.execute("CREATE USER tuner@'%' IDENTIFIED BY 'tuner-secret'", "GRANT ALL ON *.* TO tuner@'%'")
    table = SettingsTable()
    plain = table.make()
    tried = 0
    with Raw(server, "tuner", "tuner-secret", "test") as client:
        names = all_variables(client)
        tracked = b",".join(name for name in names if not name.startswith((b"gtid", b"performance_")))
        client.ok(b"SET session_track_system_variables=" + (b"'*'" if server.flavour == "mariadb" else quote(tracked)))
        before = all_variables(client)
        for name, value in before.items():
            if variable_pin(name) or name in ELSEWHERE or name in HOSTILE:
                continue
            for other in other_values(value):
                result = client.query(b"SET SESSION " + name + b"=" + other)
                if result.error is not None:
                    continue
                settings, flags = table.apply(plain, result.trackers, mariadb=server.flavour == "mariadb")
                assert not flags, name
                changed = all_variables(client) != before
                for command in restore_commands(settings, plain) or ():
                    client.ok(command[1:])
                assert all_variables(client) == before, (name, other)
                tried += changed
        client.quit()
    server.execute("DROP USER tuner@'%'")
    assert tried > 150
