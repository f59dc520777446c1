"""The test servers themselves: what every other live test takes for granted."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from contextlib import closing

import pymysql
import pytest

from tests.servers import ACCOUNTS, Server, find_client, free_port


def login(server: Server, user: str = "app", password: str = "app-secret") -> str:
    connection = pymysql.connect(
        host=server.host, port=server.port, user=user, password=password, database="test", connect_timeout=10
    )
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT CURRENT_USER()")
        return str(cursor.fetchone()[0])


def test_the_accounts_can_log_in(server: Server) -> None:
    for user, password in (
        ("app", "app-secret"),
        ("app2", "app2-secret"),
        ("nopass", ""),
        ("limited", "limited-secret"),
    ):
        assert login(server, user, password) == f"{user}@%"
    with pytest.raises(pymysql.err.OperationalError, match=r"(?i)lock"):
        login(server, "locked", "locked-secret")
    with pytest.raises(pymysql.err.OperationalError, match="denied"):
        login(server, "app", "wrong")


def test_every_account_is_made_on_both_flavours(server: Server) -> None:
    names = {statement.split()[2].partition("@")[0] for statement in ACCOUNTS if statement.startswith("CREATE USER")}
    assert names <= {row[0] for row in server.execute("SELECT user FROM mysql.user WHERE host = '%'")}


def test_the_flavour_is_what_it_says(mariadb: Server, mysql: Server, mariadb_11_8: Server) -> None:
    assert "MariaDB" in mariadb.version
    assert "MariaDB" not in mysql.version
    assert mariadb_11_8.version.startswith("11.8.")


def test_mariadb_11_8_has_a_client_of_its_own_that_knows_parsec(mariadb_11_8: Server) -> None:
    mariadb_11_8.execute("CREATE USER modern@'%' IDENTIFIED VIA parsec USING PASSWORD('modern-secret')")
    argv = [*find_client(mariadb_11_8.flavour), f"--port={mariadb_11_8.port}", "--host=127.0.0.1", "--user=modern"]
    done = subprocess.run(
        [*argv, "--password=modern-secret", "--batch", "--skip-column-names", "--execute=SELECT CURRENT_USER()"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    mariadb_11_8.execute("DROP USER modern@'%'")
    assert (done.stdout, done.stderr) == ("modern@%\n", "")


def test_a_command_line_client_is_found(server: Server) -> None:
    assert find_client(server.flavour)


@pytest.mark.parametrize("flavour", ["mariadb", "mysql"])
def test_a_server_of_ones_own_stops_restarts_and_dies(flavour: str, own_server: Callable[..., Server]) -> None:
    server = own_server(flavour, max_connections=17)
    assert server.execute("SELECT @@max_connections") == [(17,)]
    server.execute("CREATE TABLE test.kept (id INT PRIMARY KEY)", "INSERT INTO test.kept VALUES (7)")
    port, pid = server.port, server.pid

    server.restart(max_connections=19)
    assert (server.port, server.execute("SELECT @@max_connections")) == (port, [(19,)])
    assert server.pid != pid
    assert server.execute("SELECT id FROM test.kept") == [(7,)]

    server.kill(signal.SIGKILL)
    assert not server.running
    server.start()
    assert login(server) == "app@%"

    server.stop()
    assert not server.running
    with pytest.raises(pymysql.err.OperationalError):
        login(server)


def test_free_ports_are_not_those_of_outgoing_connections() -> None:
    with open("/proc/sys/net/ipv4/ip_local_port_range") as limits:
        low, high = map(int, limits.read().split())
    assert all(not low <= free_port() <= high for _ in range(20))
