"""What a TLS handshake itself costs each side: both of them in memory, in one process, with nothing in between."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass

from bench.report import Table
from bench.secure import context

_COUNT = 500


@dataclass
class _Side:
    """One end of a handshake, and what it has cost."""

    tls: ssl.SSLObject
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    done: bool = False
    seconds: float = 0.0

    def step(self, data: bytes) -> bytes:
        """Take what the other side has said; return the answer."""
        began = time.perf_counter()
        self.incoming.write(data)
        if not self.done:
            try:
                self.tls.do_handshake()
                self.done = True
            except ssl.SSLWantReadError:
                pass
        said = self.outgoing.read()
        self.seconds += time.perf_counter() - began
        return said


def _side(made: ssl.SSLContext, *, server: bool, session: ssl.SSLSession | None = None) -> _Side:
    began = time.perf_counter()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = made.wrap_bio(incoming, outgoing, server_side=server, session=session)
    return _Side(tls, incoming, outgoing, seconds=time.perf_counter() - began)


def _shake(accepting: ssl.SSLContext, connecting: ssl.SSLContext, *, resume: bool) -> tuple[float, float]:
    """Seconds of the server and of the client, on average."""
    seconds = [0.0, 0.0]
    session = None
    for number in range(_COUNT + 1):
        server, client = _side(accepting, server=True), _side(connecting, server=False, session=session)
        said = b""
        while not (server.done and client.done):
            said = server.step(client.step(said))
        client.incoming.write(said)
        server.tls.write(b"answer")
        client.incoming.write(server.outgoing.read())
        client.tls.read()
        session = client.tls.session if resume else None
        if number:  # the first one has nothing to resume
            assert client.tls.session_reused == resume
            seconds[0] += server.seconds / _COUNT
            seconds[1] += client.seconds / _COUNT
    return seconds[0], seconds[1]


def handshakes(own: ssl.SSLContext, other: ssl.SSLContext) -> Table:
    """The table: mybouncer's `own` context, and the `other` server's with its RSA key."""
    table = Table("TLS handshakes alone, in memory", ("certificate", "session", "server µs", "client µs"))
    for certificate, session, accepting in (
        ("RSA, 2048 bits", "new", other),
        ("ECDSA, P-256", "new", own),
        ("ECDSA, P-256", "resumed", own),
    ):
        server, client = _shake(accepting, context(), resume=session == "resumed")
        table.rows.append((certificate, session, f"{server * 1e6:.0f}", f"{client * 1e6:.0f}"))
    return table
