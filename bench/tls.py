"""TLS to clients: what an idle client costs, what statements and large answers cost, and short connections.

Of a short connection the parts are shown too: the client's own work, the handshake, the rest.

Beside mybouncer stand the server itself, the event loop's own TLS (bench.terminator) and HAProxy, which both pass on in
plaintext what came over TLS and know nothing of MySQL. All four show certificates, ours and theirs the same one.
"""

from __future__ import annotations

import contextlib
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme

from bench.compare import BACKENDS, Runs, primed, times
from bench.handshakes import handshakes
from bench.idle import settled
from bench.processes import (
    BenchError,
    Middle,
    Run,
    clients,
    cpu_seconds,
    haproxy,
    metrics,
    mybouncer,
    server,
    uvloop_terminator,
)
from bench.report import OtherWork, Report, Table, console, first_line, machine
from bench.secure import LARGE
from proxy.config import ClientTlsConfig
from proxy.relay.certificates import ServerCertificate, make_self_signed
from tests.servers import Server

AT_MOST = 64 * 1024  # bytes of an idle client
SHORT = 0.6  # of direct, a short connection
STOCK, MIDDLES = "uvloop", ("uvloop", "HAProxy", "mybouncer")
WORKLOADS = {"SELECT 1": ("SELECT 1", 8), "answers of 100 KB": (LARGE, 8)}
DRIVERS = {"PyMySQL": "pymysql", "bare socket": "socket", "bare socket that resumes": "resuming"}


@dataclass(frozen=True)
class _Way:
    """Something to connect to over TLS, and how TLS begins there."""

    middle: Middle
    handshake: str
    server: Server | None = None


def tls(flavour: str, count: int, seconds: int, rounds: int) -> Report:
    """Measure and return the tables."""
    others = OtherWork()
    with tempfile.TemporaryDirectory(prefix="mybouncer-bench-") as directory, contextlib.ExitStack() as stack:
        alone = handshakes(*_contexts(Path(directory)))
        with console.status(f"{count} idle clients"):
            memory = _memory(flavour, count, Path(directory))
        ways = list(_start(flavour, count, Path(directory), stack))
        backend = next(way.server for way in ways if way.server is not None)
        statements, short = Runs(), Runs()
        for number in range(rounds):
            turn = ways if number % 2 == 0 else ways[::-1]
            for name, (statement, parallel) in WORKLOADS.items():
                for way in turn:
                    with console.status(f"round {number + 1} of {rounds}: {name}, {way.middle.name}"):
                        run = _run(way.middle, "run", way.middle.port, way.handshake, parallel, seconds, statement)
                        statements.add((name, parallel), way.middle.name, run)
            for driver, argument in DRIVERS.items():
                for way in (way for way in turn if way.handshake == "mysql"):
                    with console.status(f"round {number + 1} of {rounds}: connect, {way.middle.name}"):
                        run = _run(way.middle, "connect", way.middle.port, argument, seconds, server=backend)
                        short.add((driver, 1), way.middle.name, run)
    return Report(
        f"tls-{flavour}",
        f"TLS to clients, {flavour}, {BACKENDS} backends",
        [memory, _statements(statements), _short(short), _parts(short), alone],
        notes=[
            f"Median of {rounds} rounds of {seconds} s each, interleaved; a ratio is the median of the rounds'. Time "
            "is that of one statement or connection, over all clients; CPU is that of the process in the middle.",
            "The server's certificate is an RSA key of 2048 bits, as MySQL makes itself one. uvloop, HAProxy and "
            "mybouncer have mybouncer's own, ECDSA P-256. All clients of a run share a context, as programs do that "
            "keep one; one of them resumes its session. The way to the server is plaintext.",
            "Clients ask all at once and then read answer by answer, in one process, on the server's core; so time is "
            "theirs too.",
            str(others),
        ],
        machine=machine(f"{flavour} {backend.version}", first_line("haproxy", "-v").partition(" - ")[0]),
    )


def _certificates(directory: Path) -> tuple[Path, dict[str, str]]:
    """What stands in the middle shows the first, the server has the others."""
    ours = directory / "middle.pem"
    ours.write_bytes(make_self_signed())
    issued = trustme.CA(key_type=trustme.KeyType.RSA).issue_cert("localhost", key_type=trustme.KeyType.RSA)
    certificate, key = directory / "server.pem", directory / "server-key.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    for path in (ours, certificate, key):
        path.chmod(0o600)
    return ours, {"ssl_cert": str(certificate), "ssl_key": str(key)}


def _contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts with the same certificates: mybouncer's, and one as the server's."""
    ours, files = _certificates(directory)
    own = ServerCertificate(ClientTlsConfig(certificate=str(ours))).context
    other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    other.load_cert_chain(files["ssl_cert"], files["ssl_key"])
    return own, other


def _start(flavour: str, count: int, directory: Path, stack: contextlib.ExitStack) -> Iterator[_Way]:
    ours, files = _certificates(directory)
    backend = stack.enter_context(server(flavour, count + 100, **files))
    yield _Way(primed(Middle("direct", backend.port)), "mysql", backend)
    yield _Way(stack.enter_context(uvloop_terminator(backend.port, ours)), "at-once")
    yield _Way(stack.enter_context(haproxy(backend.port, certificate=ours)), "at-once")
    pooler = mybouncer(backend.url, BACKENDS, tls__client__certificate=str(ours))
    yield _Way(primed(stack.enter_context(pooler)), "mysql")


def _run(middle: Middle, *arguments: object, server: Server | None = None) -> Run:
    pids = [pid for pid in (middle.pid, server and server.pid) if pid]
    with clients(*arguments, module="bench.secure") as process:
        process.hear()
        before = {pid: cpu_seconds(pid) for pid in pids}
        process.go()
        said = process.hear()
        used = {pid: cpu_seconds(pid) - before[pid] for pid in pids}
    count = said["count"]
    return Run(
        count / said["seconds"],
        used[middle.pid] / count if middle.pid else 0.0,
        client_cpu=said.get("cpu", 0.0) / count,
        server_cpu=used[server.pid] / count if server else 0.0,
    )


def _memory(flavour: str, count: int, directory: Path) -> Table:
    """What the resident memory of each grows by, per client; each with processes of its own."""
    table = Table(
        f"{count} idle clients", ("through", "per client", "after an answer of 100 KB", "of uvloop's", "wanted")
    )
    stock = 0.0
    for name in MIDDLES:
        with contextlib.ExitStack() as stack:
            way = next(way for way in _start(flavour, count, directory, stack) if way.middle.name == name)
            login, answer = _growth(way, count)
        stock = answer if name == STOCK else stock
        wanted = f"at most {AT_MOST:,}: {'yes' if answer <= AT_MOST else 'no'}" if name == "mybouncer" else ""
        table.rows.append((name, f"{login:,.0f} bytes", f"{answer:,.0f} bytes", times(answer / stock), wanted))
    return table


def _growth(way: _Way, count: int) -> tuple[float, float]:
    middle = way.middle
    assert middle.pid is not None
    with clients("idle", middle.port, way.handshake, count, module="bench.secure") as process:
        process.hear()
        before = settled(middle.pid)
        process.go()
        process.hear()
        after = settled(middle.pid)
        process.go()
        process.hear()
        later = settled(middle.pid)
        if middle.http_port is not None:
            idle = metrics(middle)['mybouncer_clients{state="idle"}']
            if idle != count + 1:
                raise BenchError(f"the pooler knows {idle:.0f} idle clients, not {count + 1}")
    return (after - before) / count, (later - before) / count


def _statements(runs: Runs) -> Table:
    table = Table(
        "Statements",
        ("statement, clients", "through", "stmt/s", "time, of direct", "CPU µs", "of uvloop's", "of HAProxy's"),
    )
    for case in runs.cases():
        for name in runs.targets(case):
            cpu = runs.median(case, name, "cpu")
            row: list[Any] = [f"{case[0]}, {case[1]}", name, f"{runs.median(case, name, 'per_second'):,.0f}"]
            row += [times(runs.times(case, name, "direct", "time")), f"{cpu * 1e6:.0f}" if cpu else "–"]
            row += [times(runs.times(case, name, base, "cpu")) for base in (STOCK, "HAProxy")]
            table.rows.append(row)
    return table


def _short(runs: Runs) -> Table:
    table = Table("Connect, SELECT 1, quit", ("client", "through", "ms", "time, of direct", "wanted"))
    for case in runs.cases():
        for name in runs.targets(case):
            ratio = runs.times(case, name, "direct", "time")
            wanted = f"at most {SHORT}×: {'yes' if ratio <= SHORT else 'no'}" if name == "mybouncer" else ""
            table.rows.append((case[0], name, f"{runs.median(case, name, 'time') * 1e3:.2f}", times(ratio), wanted))
    return table


def _parts(runs: Runs) -> Table:
    """Who works for a short connection; the floor is the client's own share, which nobody in the middle can lessen."""
    parts = {"client": "client_cpu", "mybouncer": "cpu", "server": "server_cpu", "all": "whole_cpu"}
    table = Table(
        "The same, CPU µs of each", ("client", "through", *parts, "all, of direct", "the client alone, of direct")
    )
    for case in runs.cases():
        for name in runs.targets(case):
            spent = (runs.median(case, name, part) * 1e6 for part in parts.values())
            ratio = runs.times(case, name, "direct", "whole_cpu")
            floor = runs.median(case, name, "client_cpu") / runs.median(case, "direct", "whole_cpu")
            table.rows.append(
                (case[0], name, *(f"{part:.0f}" if part else "–" for part in spent), times(ratio), times(floor))
            )
    return table
