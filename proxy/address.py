"""Addresses as values: where we listen, and where the server is.

A leaf: standard library only, imports nothing of ours, importable from every floor.

Law: an `Address` is either TCP (`host` and `port`) or a unix socket (`unix_path`; then `host` is "" and
`port` 0). It never carries credentials. The parsers raise `ValueError` with what is wrong, in words;
`str()` gives back what `parse_address` accepts.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import unquote, urlsplit

DEFAULT_BACKEND_PORT = 3306
# sizeof(sockaddr_un.sun_path) on Linux is 108 with the closing zero.
MAX_UNIX_PATH = 107


@dataclass(frozen=True, slots=True)
class Address:
    """One end of a socket: TCP `host` and `port`, or `unix_path`."""

    host: str = ""
    port: int = 0
    unix_path: str | None = None

    @property
    def is_unix(self) -> bool:
        """Whether this is a unix socket."""
        return self.unix_path is not None

    @property
    def label(self) -> str:
        """How people are told about it: `127.0.0.1:3306`, `[::1]:3306`, or the path."""
        if self.unix_path is not None:
            return self.unix_path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"unix:{self.unix_path}" if self.unix_path is not None else self.label


def parse_address(text: str) -> Address:
    """`host:port`, `[::1]:port` or `unix:/path`; port 0 lets the kernel choose."""
    if text.startswith("unix:"):
        return Address(unix_path=_unix_path(text.removeprefix("unix:")))
    if "://" in text or "@" in text or "/" in text:
        raise ValueError("this is not an address to listen on")
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError("the port is missing")
    return Address(host=_host(host), port=_port(port, lowest=0))


def parse_backend_url(text: str) -> Address:
    """`mysql://host[:port]` or `mysql+unix:///path`, without credentials, database or options."""
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("mysql", "mysql+unix"):
        raise ValueError("the scheme must be mysql:// or mysql+unix://")
    if "@" in rest:
        raise ValueError("no credentials here: every client logs in to the server with its own")
    parts = urlsplit(text)
    if parts.query or parts.fragment:
        raise ValueError("no options after the address")
    if scheme == "mysql+unix":
        if parts.netloc:
            raise ValueError("a unix socket needs three slashes: mysql+unix:///path")
        return Address(unix_path=_unix_path(unquote(parts.path)))
    if parts.path not in ("", "/"):
        raise ValueError("no database here: every client names its own")
    if parts.netloc.endswith("]") or ":" not in parts.netloc:
        return Address(host=_host(parts.netloc), port=DEFAULT_BACKEND_PORT)
    host, _, port = parts.netloc.rpartition(":")
    return Address(host=_host(host), port=_port(port, lowest=1))


def _unix_path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("the path of a unix socket must be absolute")
    if not path.isprintable():
        raise ValueError("the path of a unix socket has characters that cannot be seen")
    if len(path.encode()) > MAX_UNIX_PATH:
        raise ValueError(f"the path of a unix socket can have {MAX_UNIX_PATH} bytes, this one has {len(path.encode())}")
    return path


def _host(text: str) -> str:
    if text.startswith("[") and text.endswith("]"):
        try:
            return str(IPv6Address(text[1:-1]))
        except ValueError:
            raise ValueError("what is in brackets is not an IPv6 address") from None
    if not text:
        raise ValueError("the host is missing (0.0.0.0 is every IPv4 address, [::] every address)")
    if ":" in text:
        raise ValueError("an IPv6 address needs brackets: [::1]:port")
    if not text.isascii() or not all(c.isalnum() or c in "-._" for c in text):
        raise ValueError("this is not a host name")
    return text


def _port(text: str, *, lowest: int) -> int:
    if not (text.isascii() and text.isdigit()) or not lowest <= int(text[:6]) <= 65535:
        raise ValueError(f"the port must be a number from {lowest} to 65535")
    return int(text)
