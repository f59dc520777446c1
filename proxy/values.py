"""The types that configuration values have: each a parser, plus the sentence that says what is allowed.

Parsers raise ValueError, with words where they can say more than that sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr

from proxy.address import Address, parse_address, parse_backend_url

_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {
    "B": 1,
    "KB": 1000,
    "KiB": 1 << 10,
    "MB": 1000**2,
    "MiB": 1 << 20,
    "GB": 1000**3,
    "GiB": 1 << 30,
}
_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]+)", re.ASCII)
_LONGEST = 365 * 86400.0
_LARGEST_SIZE = 1 << 40
_LARGEST_COUNT = 10_000_000
SHORTEST_SECRET = 8


def parse_duration(text: str) -> float:
    """`"50ms"`, `"30s"`, `"5m"`, `"1h"`, `"7d"` as seconds; `ValueError` for anything else."""
    return _quantity(text, _DURATION_UNITS)


def parse_size(text: str) -> int:
    """`"64KiB"`, `"1MiB"`, `"512KB"` as bytes (`KiB` is 1024, `KB` is 1000), or `ValueError`."""
    return int(_quantity(text, _SIZE_UNITS))


def _quantity(text: str, units: Mapping[str, float]) -> float:
    match = _QUANTITY.fullmatch(text.strip())
    if text.strip().isdecimal():
        raise ValueError("the unit is missing")
    if match is None or match[2] not in units:
        raise ValueError(f"a number and one of {', '.join(units)}")
    # round(): 0.05 rather than 50 * 0.001 = 0.05000000000000001
    return round(float(match[1]) * units[match[2]], 9)


def write_duration(seconds: float) -> str:
    """What `parse_duration` takes: in the largest unit that leaves a whole number."""
    for unit, size in reversed(_DURATION_UNITS.items()):
        if seconds >= size and round(seconds / size, 9).is_integer():
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def write_size(size: int) -> str:
    """What `parse_size` takes: in the largest unit of 1024 that leaves a whole number."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return f"{size}B"


def write_value(value: object) -> str:
    """A value that is no duration and no size, as people write it. A secret is never written."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ", ".join(write_value(item) for item in value)
    if isinstance(value, SecretStr):
        return "***" if value.get_secret_value() else ""
    return "" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may stand for a value, in words, and how it is written; found in the annotation of the key."""

    text: str
    write: Callable[[Any], str] = write_value
    secret: bool = False


def _refuse_bare_number(value: object) -> None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError("the unit is missing (and the quotes)")


def _duration(lowest: float, allowed: str) -> tuple[BeforeValidator, Allowed]:
    def parse(value: object) -> object:
        if isinstance(value, str):
            seconds = parse_duration(value)
            if lowest <= seconds <= _LONGEST:
                return seconds
        _refuse_bare_number(value)
        raise ValueError(allowed)

    return BeforeValidator(parse), Allowed(allowed, write_duration)


def _whole_number(lowest: int, allowed: str, *others: object) -> tuple[BeforeValidator, Allowed]:
    def parse(value: object) -> object:
        if any(value is other or (isinstance(other, str) and value == other) for other in others):
            return value
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value, re.ASCII):
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= _LARGEST_COUNT:
            return value
        raise ValueError(allowed)

    return BeforeValidator(parse), Allowed(allowed)


def _parse_size_value(value: object) -> object:
    if isinstance(value, str):
        size = parse_size(value)
        if 1024 <= size <= _LARGEST_SIZE:
            return size
    _refuse_bare_number(value)
    raise ValueError


def _parse_bool(value: object) -> object:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ValueError


def _parse_weight(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value, re.ASCII):
        value = float(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0.001 <= value <= 1_000_000:
        return float(value)
    raise ValueError


def _address(parse_text: Callable[[str], Address], off: str | None = None) -> BeforeValidator:
    def parse(value: object) -> object:
        if isinstance(value, str):
            return None if off is not None and value == off else parse_text(value)
        if isinstance(value, Address):
            return value
        raise ValueError("this is not text")

    return BeforeValidator(parse)


def _parse_path(value: object) -> object:
    if isinstance(value, str) and (not value or value.startswith("/")) and "\0" not in value:
        return value
    raise ValueError


def _parse_socket_path(value: object) -> object:
    if value in ("auto", "off"):
        return value
    if isinstance(value, str):
        return parse_address(f"unix:{value}").unix_path
    raise ValueError


def _parse_secret(value: object) -> object:
    if isinstance(value, str) and (not value or SHORTEST_SECRET <= len(value) <= 255):
        return SecretStr(value)
    if isinstance(value, SecretStr):
        return value
    raise ValueError


def _parse_directory(value: object) -> object:
    return value if value == "auto" else _parse_path(value or None)


def _parse_function(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"[\w$]+(\.[\w$]+)?", value):
        return value
    raise ValueError


def _parse_password(value: object) -> object:
    if isinstance(value, str) and "\0" not in value:
        return SecretStr(value)
    if value is None or isinstance(value, SecretStr):
        return value
    raise ValueError


def _parse_account(value: object) -> object:
    if isinstance(value, str) and "\0" not in value:
        return value
    raise ValueError


def _parse_modes(value: object) -> object:
    modes = tuple(value) if isinstance(value, list | tuple) else ()
    if modes and all(mode in AUTH_MODES for mode in modes) and len(set(modes)) == len(modes):
        return modes
    raise ValueError


def _split(value: object) -> object:
    """A list may be given as text (the environment knows nothing else): JSON, or separated by commas."""
    if not isinstance(value, str):
        return value
    if value.startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            pass  # "[::1]:6033" is no JSON, but an address
    return [item.strip() for item in value.split(",") if item.strip()]


_ADDRESS = '"host:port", "[::1]:port" or "unix:/absolute/path"'
_NAMES = 'a list of function names, each "name" or "schema.name"'

Duration = Annotated[float, *_duration(0.001, 'a duration from "1ms" to "365d" (units ms, s, m, h, d)')]
DurationOrOff = Annotated[
    float, *_duration(0.0, 'a duration up to "365d" (units ms, s, m, h, d); "0s" switches it off')
]
Size = Annotated[
    int,
    BeforeValidator(_parse_size_value),
    Allowed('a size from "1KiB" to "1024GiB" (units B, KB, KiB, MB, MiB, GB, GiB)', write_size),
]
Count = Annotated[int, *_whole_number(1, f"a whole number from 1 to {_LARGEST_COUNT}")]
CountOrZero = Annotated[int, *_whole_number(0, f"a whole number from 0 to {_LARGEST_COUNT}")]
CountOrNone = Annotated[
    int | None, *_whole_number(1, f"a whole number from 1 to {_LARGEST_COUNT}, or the key left out", None)
]
CountOrAuto = Annotated[
    int | Literal["auto"], *_whole_number(1, f'"auto" or a whole number from 1 to {_LARGEST_COUNT}', "auto")
]
Flag = Annotated[bool, BeforeValidator(_parse_bool), Allowed("true or false")]
Weight = Annotated[float, BeforeValidator(_parse_weight), Allowed("a number from 0.001 to 1000000")]
BackendUrl = Annotated[
    Address, _address(parse_backend_url), Allowed('"mysql://host[:port]" or "mysql+unix:///absolute/path"')
]
Addresses = Annotated[
    tuple[Annotated[Address, _address(parse_address)], ...],
    BeforeValidator(_split),
    Field(min_length=1),
    Allowed(f"a list of at least one {_ADDRESS}"),
]
AddressOrOff = Annotated[
    Address | None,
    _address(parse_address, "off"),
    Allowed(f'{_ADDRESS}, or "off"', lambda address: "off" if address is None else str(address)),
]
File = Annotated[str, BeforeValidator(_parse_path), Allowed('an absolute path, or "" for none')]
Directory = Annotated[str, BeforeValidator(_parse_directory), Allowed('"auto" or an absolute path')]
AUTH_MODES = ("users", "lookup", "passthrough")
AuthModes = Annotated[
    tuple[str, ...],
    BeforeValidator(_parse_modes),
    BeforeValidator(_split),  # the last one is asked first
    Allowed('a list of "users", "lookup" and "passthrough", each at most once, in the order in which they are tried'),
]
Name = Annotated[str, BeforeValidator(_parse_account), Allowed('a name, or "" for none')]
Password = Annotated[SecretStr, BeforeValidator(_parse_password), Allowed("text", secret=True)]
PasswordOrNone = Annotated[
    SecretStr | None, BeforeValidator(_parse_password), Allowed("text, or the key left out", secret=True)
]
SocketPath = Annotated[str, BeforeValidator(_parse_socket_path), Allowed('"auto", "off" or an absolute path')]
Secret = Annotated[
    SecretStr,
    BeforeValidator(_parse_secret),
    Allowed(f'{SHORTEST_SECRET} to 255 characters, or "" for none', secret=True),
]
Names = Annotated[
    tuple[Annotated[str, BeforeValidator(_parse_function)], ...], BeforeValidator(_split), Allowed(_NAMES)
]
