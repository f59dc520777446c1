"""What a client sends beyond a plain command: a command of any size, and the file of LOAD DATA LOCAL.

A command larger than `session.request_buffer` is not read further until the client holds a lease; then it is taken
in whole, so that a statement is always classified as a whole, and never half sent (docs/decisions.md). A file is passed
on as it comes, at the pace of the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.wire import constants as c
from proxy.wire.framing import MAX_FRAME
from proxy.wire.packets import Err

from . import lease, release, soft
from .commands import PLAIN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .backend import Backend
    from .client import Client


def pause(client: Client) -> None:
    """Take no more from the client for now."""
    if not client.paused:
        client.paused = True
        client.transport.pause_reading()


def resume(client: Client) -> None:
    """Take more from it again."""
    if client.paused:
        client.paused = False
        client.transport.resume_reading()


def begin_large(client: Client) -> None:
    """The next command is larger than the request buffer: hold a lease before more of it is read."""
    client.large = bytearray(client.buffer)
    client.buffer = b""
    client.busy = True
    client.packet = b"\0"  # not sent yet
    client.reply_seq = 1
    client.verdict = PLAIN
    client.kind = lease.RESERVE
    client.statement = None
    client.tries = 0
    if client.backend is not None:
        reserved(client)
        return
    pause(client)
    lease.start(client)


def reserved(client: Client) -> None:
    """The lease for a large command is there. Who was there before may ask for what it left before this is whole."""
    backend = client.backend
    assert backend is not None
    if backend.last_client is client or not soft.capture(backend, lambda: _read_on(client, backend)):
        _read_on(client, backend)


def _read_on(client: Client, backend: Backend) -> None:
    if client.closed:
        release.reset(backend)
    elif client.backend is backend:
        resume(client)
        large_data(client, b"")


def large_data(client: Client, data: bytes) -> None:
    large = client.large
    assert large is not None
    large += data
    client.idle_since = client.relay.clock()
    if client.backend is None:
        pause(client)
        return
    pos = 0
    expected = 0
    while True:
        if len(large) < pos + 4:
            return
        size = large[pos] | large[pos + 1] << 8 | large[pos + 2] << 16
        if large[pos + 3] != expected & 0xFF:
            client.malformed("Got packets out of order", c.ER_NET_PACKETS_OUT_OF_ORDER)
            return
        expected += 1
        pos += 4 + size
        if pos - 4 * expected > client.relay.profile.max_allowed_packet:
            client.reply_seq = expected
            text = "Got a packet bigger than 'max_allowed_packet' bytes"
            client.die(Err(c.ER_NET_PACKET_TOO_LARGE, b"08S01", text.encode()), True)
            return
        if size < MAX_FRAME:
            break
    if len(large) < pos:
        return
    packet, client.buffer = bytes(large[:pos]), bytes(large[pos:])
    client.busy = False
    client.large = None
    client.command(packet, expected)
    if client.backend is not None and not client.busy:
        release.settle(client, client.backend)
    if not client.busy:
        client.go_on()


def look(backends: Iterable[Backend], now: float) -> None:
    """End clients that hold a lease for a command they do not send to its end: `net_read_timeout`, as at servers."""
    for backend in list(backends):
        if backend.patient and not (backend.running and backend.reader.with_file):
            backend.be_patient(False)
        client = backend.client
        if client is None or client.large is None:
            continue
        if now - client.idle_since > client.relay.profile.timeout(b"net_read_timeout", client.settings):
            text = b"Got timeout reading communication packets"
            client.die(Err(c.ER_NET_READ_INTERRUPTED, b"08S01", text), True)


def file_wanted(backend: Backend, client: Client | None) -> None:
    """LOAD DATA LOCAL: the server asks for a file."""
    if client is None:
        backend.hang_up("client_lost_in_upload")
    elif not backend.capabilities & c.CLIENT_LOCAL_FILES:
        backend.broken("server asked for a file that the client did not offer")
    else:
        _begin_file(client, backend)


def _begin_file(client: Client, backend: Backend) -> None:
    """The server has asked for a file: what the client sends next is that file."""
    client.upload = backend
    client.idle_since = client.relay.clock()
    backend.be_patient(True)
    client.file_left = 0
    client.file_more = False
    if not backend.writing_paused:
        resume(client)
    early, client.buffer = client.buffer, b""
    if early:
        file_data(client, early)


def file_data(client: Client, data: bytes) -> None:
    """Pass file data on, up to and including the empty packet that ends it."""
    backend = client.upload
    assert backend is not None
    client.idle_since = client.relay.clock()
    if client.buffer:
        data, client.buffer = client.buffer + data, b""
    shift = backend.reader.shift
    out = bytearray(data) if shift else None
    pos = min(client.file_left, len(data)) if client.file_left > 0 else 0
    client.file_left = max(0, client.file_left) - pos
    done = False
    while pos < len(data) and not client.file_left:
        if len(data) - pos < 4:
            client.buffer = data[pos:]
            break
        size = data[pos] | data[pos + 1] << 8 | data[pos + 2] << 16
        if out is not None:
            out[pos + 3] = (data[pos + 3] - shift) & 0xFF
        pos += 4
        ends, client.file_more = not (size or client.file_more), size == MAX_FRAME
        if ends:
            done = True
            client.buffer = data[pos:]
            break
        taken = min(size, len(data) - pos)
        pos += taken
        client.file_left = size - taken
    backend.transport.write(bytes(out[:pos]) if out is not None else data[:pos])
    if done:
        client.upload = None
        backend.reader.file_sent()
