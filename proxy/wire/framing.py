"""Frames: a 3-byte length, a sequence id, a payload (protocol.md B.3).

A payload of 0xFFFFFF bytes or more is split, and one of exactly k * 0xFFFFFF bytes is followed by an empty
frame. `PacketReader` is for logins and for our own commands; results on the hot path never pass through it.
"""

from __future__ import annotations

MAX_FRAME = 0xFFFFFF


class ProtocolError(Exception):
    """The peer sent bytes that the protocol does not allow. `code` is MySQL's error for it."""

    def __init__(self, message: str, code: int = 1043) -> None:
        super().__init__(message)
        self.code = code


def frame(payload: bytes, seq: int = 0) -> bytes:
    """Return `payload` as one or more frames, the first with sequence id `seq`."""
    size = len(payload)
    if size < MAX_FRAME:
        return size.to_bytes(3, "little") + bytes((seq & 0xFF,)) + payload
    out = bytearray()
    for start in range(0, size + 1, MAX_FRAME):
        part = payload[start : start + MAX_FRAME]
        out += len(part).to_bytes(3, "little")
        out.append(seq & 0xFF)
        out += part
        seq += 1
    return bytes(out)


class PacketReader:
    """Bytes in, whole payloads out.

    `limit` bounds one payload in bytes. With `strict`, sequence ids must follow on each other from the value of
    `expect`; a wrong one raises ProtocolError (ER_NET_PACKETS_OUT_OF_ORDER).
    """

    __slots__ = ("_buffer", "_payload", "expect", "limit", "strict")

    def __init__(self, limit: int = 64 * 1024, *, strict: bool = True) -> None:
        self._buffer = bytearray()
        self._payload = bytearray()
        self.limit = limit
        self.strict = strict
        self.expect = 0

    def feed(self, data: bytes) -> None:
        """Append what was received."""
        self._buffer += data

    def next_packet(self) -> bytes | None:
        """Return the next whole payload, or None when more bytes are needed.

        Raises ProtocolError for an oversized payload or a wrong sequence id.
        """
        buffer = self._buffer
        while len(buffer) >= 4:
            size = buffer[0] | buffer[1] << 8 | buffer[2] << 16
            if len(self._payload) + size > self.limit:
                raise ProtocolError(
                    f"packet of {len(self._payload) + size} bytes, at most {self.limit} are allowed here",
                    1153,
                )
            if self.strict and buffer[3] != self.expect:
                raise ProtocolError(f"packet with sequence id {buffer[3]}, expected {self.expect}", 1156)
            if len(buffer) < 4 + size:
                return None
            self.expect = (buffer[3] + 1) & 0xFF
            self._payload += buffer[4 : 4 + size]
            del buffer[: 4 + size]
            if size < MAX_FRAME:
                payload = bytes(self._payload)
                self._payload.clear()
                return payload
        return None

    @property
    def inside(self) -> bool:
        """Whether what was fed ends inside a packet."""
        buffer = self._buffer
        pos, have = 0, len(buffer)
        while have - pos >= 4:
            pos += 4 + (buffer[pos] | buffer[pos + 1] << 8 | buffer[pos + 2] << 16)
        return pos != have or bool(self._payload)

    def take_rest(self) -> bytes:
        """Return, and forget, the bytes that are not part of a returned payload."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest
