"""What an idle client costs: resident memory of the pooler before and after thousands have logged in."""

from __future__ import annotations

import time

from bench.processes import clients, mybouncer, raise_descriptor_limit, resident_bytes, server
from bench.report import Report, console, machine

WANTED = 8192


def idle(flavour: str, count: int) -> Report:
    """Measure and return the table."""
    raise_descriptor_limit(count + 200)
    with (
        server(flavour, 100) as backend,
        mybouncer(backend.url, 10) as middle,
        clients("idle", middle.port, count) as process,
        console.status(f"{count} clients log in"),
    ):
        assert middle.pid is not None
        process.hear()
        before = _settled(middle.pid)
        process.go()
        said = process.hear()
        after = _settled(middle.pid)
        version = backend.version
    each = (after - before) / count
    return Report(
        f"idle-{flavour}",
        f"{count} idle clients, {flavour}",
        ("", "value"),
        [
            ("resident before", f"{before / 2**20:.1f} MiB"),
            ("resident after", f"{after / 2**20:.1f} MiB"),
            ("per client", f"{each:,.0f} bytes"),
            (f"wanted: at most {WANTED:,}", "yes" if each <= WANTED else "no"),
            ("logins per second", f"{count / said['seconds']:,.0f}"),
        ],
        machine=machine(f"{flavour} {version}"),
    )


def _settled(pid: int) -> int:
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
