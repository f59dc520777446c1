"""What an idle client costs: resident memory of the pooler before and after thousands have logged in."""

from __future__ import annotations

import time

from bench.processes import (
    USER,
    BenchError,
    clients,
    metrics,
    mybouncer,
    raise_descriptor_limit,
    resident_bytes,
    server,
)
from bench.report import OtherWork, Report, Table, console, machine

WANTED = 8192


def idle(flavour: str, count: int) -> Report:
    """Measure and return the table."""
    others = OtherWork()
    raise_descriptor_limit(count + 200)
    with (
        server(flavour, 100) as backend,
        mybouncer(backend.url, 10, queue__timeout="120s") as middle,
        clients("idle", middle.port, USER, count) as process,
        console.status(f"{count} clients log in"),
    ):
        assert middle.pid is not None
        process.hear()
        before = settled(middle.pid)
        process.go()
        said = process.hear()
        idle_now = metrics(middle)['mybouncer_clients{state="idle"}']
        if idle_now != count + 1:
            raise BenchError(f"the pooler knows {idle_now:.0f} idle clients, not {count + 1}")
        after = settled(middle.pid)
        process.go()
        if errors := process.hear()["errors"]:
            raise BenchError(f"{errors} statements failed")
        later = settled(middle.pid)
        version = backend.version
    each, each_later = (after - before) / count, (later - before) / count
    table = Table(
        f"{count} idle clients, {flavour}",
        ("", "value"),
        [
            ("resident with one client", f"{before / 2**20:.1f} MiB"),
            (f"resident with {count} more", f"{after / 2**20:.1f} MiB"),
            ("per client", f"{each:,.0f} bytes"),
            ("per client, after a statement each", f"{each_later:,.0f} bytes"),
            (f"wanted: at most {WANTED:,}", "yes" if max(each, each_later) <= WANTED else "no"),
            ("logins per second", f"{count / said['seconds']:,.0f}"),
        ],
    )
    return Report(
        f"idle-{flavour}",
        table.title,
        [table],
        notes=["The memory that the kernel needs for a socket is not in it.", str(others)],
        machine=machine(f"{flavour} {version}"),
    )


def settled(pid: int) -> int:
    """Resident memory when it has stopped changing."""
    last, same = resident_bytes(pid), 0
    for _ in range(100):
        time.sleep(0.1)
        now = resident_bytes(pid)
        same = same + 1 if now == last else 0
        last = now
        if same == 5:
            break
    return last
