"""The configuration: declared once, checked whole, then frozen.

Every key has its type and its default in `sections` and nowhere else; `config/mybouncer.toml` and
`docs/configuration.md` are tested against them.

Values come from a TOML file, then `MYBOUNCER_<SECTION>__<KEY>`, then flags; the later wins. Each of these
is checked by itself, so that a bad value is told even where a better one overrides it, and all faults are
told at once. Nothing is repaired: a bad value refuses to start. A value that may hold a secret is never
shown.
"""

from __future__ import annotations

import difflib
import functools
import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from proxy.address import Address
from proxy.sections import (
    AuthConfig,
    BackendConfig,
    BackendTlsConfig,
    ClientTlsConfig,
    Config,
    ConsoleConfig,
    HttpConfig,
    ListenConfig,
    LogConfig,
    PoolConfig,
    QueueConfig,
    SessionConfig,
    TlsConfig,
    UserConfig,
)
from proxy.values import Allowed

__all__ = [
    "Address",
    "AuthConfig",
    "BackendConfig",
    "BackendTlsConfig",
    "ClientTlsConfig",
    "Config",
    "ConfigError",
    "ConsoleConfig",
    "Fault",
    "HttpConfig",
    "ListenConfig",
    "LogConfig",
    "PoolConfig",
    "QueueConfig",
    "SessionConfig",
    "TlsConfig",
    "UserConfig",
    "load",
]

_S = TypeVar("_S", bound=BaseModel)
ENV_PREFIX = "MYBOUNCER_"

# Which flag sets which key; the command line builds its overrides from the same names.
FLAGS = {
    "backend.url": "--backend",
    "listen.addresses": "--listen",
    "http.address": "--http",
    "pool.max_connections": "--max-connections",
}


# --- loading ---


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where it was written, which key, which value, what is allowed."""

    source: str
    key: str
    value: str
    problem: str
    allowed: str

    def __str__(self) -> str:
        text = f"{self.source}: "
        if self.key:
            text += f"{self.key} = {self.value}: " if self.value else f"{self.key}: "
        text += self.problem
        return f"{text}; allowed: {self.allowed}" if self.allowed else text


class ConfigError(Exception):
    """The configuration cannot be used; `faults` holds everything that is wrong with it."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = tuple(faults)


Tree = dict[str, Any]


@dataclass(slots=True)
class _Layer:
    """The values of one source, and how to name the place of each of them."""

    tree: Tree
    place: Callable[[str], str]


def load(
    path: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Config:
    """Read the file, the environment and the overrides (`{"backend.url": …}`).

    Raises `ConfigError` with all faults.
    """
    faults: list[Fault] = []
    layers = [_from_flags(overrides or {})]
    layers.insert(0, _from_environment(env or {}, faults))
    if path is not None:
        layers.insert(0, _from_file(Path(path), faults))
    for layer in layers:
        faults += _check(layer)
    if faults:
        raise ConfigError(faults)
    merged: Tree = {}
    for layer in layers:
        _merge(merged, layer.tree)
    config = Config.model_validate(merged)
    faults = _check_together(config, layers)
    if faults:
        raise ConfigError(faults)
    return config


def _from_file(path: Path, faults: list[Fault]) -> _Layer:
    layer = _Layer({}, lambda key: str(path))
    try:
        layer.tree = tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        faults.append(Fault(str(path), "", "", f"cannot be read: {error.strerror or error}", ""))
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        faults.append(Fault(str(path), "", "", f"not UTF-8 (at line {line})", "TOML in UTF-8"))
    except tomllib.TOMLDecodeError as error:
        faults.append(Fault(str(path), "", "", f"not TOML: {error}", ""))
    return layer


def _from_environment(env: Mapping[str, str], faults: list[Fault]) -> _Layer:
    """`MYBOUNCER_POOL__IDLE_TIMEOUT` is pool.idle_timeout.

    Names without `__` are not ours: a Kubernetes service called mybouncer puts `MYBOUNCER_PORT` and more into
    every container.
    """
    names: dict[str, str] = {}
    tree: Tree = {}
    for name in sorted(env):
        section, separator, rest = name.removeprefix(ENV_PREFIX).partition("__")
        if not name.startswith(ENV_PREFIX) or not separator:
            continue
        section = section.lower()
        user, separator, key = rest.rpartition("__")
        if section != "users":
            parts = [section, *rest.lower().split("__")]
        elif user and key:
            parts = [section, user, key.lower()]
        else:
            allowed = f"{ENV_PREFIX}USERS__<name>__<KEY>"
            faults.append(Fault(f"environment variable {name}", "", "", "the account or the key is missing", allowed))
            continue
        names[_dotted(parts)] = name
        _put(tree, parts, env[name])
    return _Layer(tree, lambda key: f"environment variable {_nearest_place(names, key)}")


def _from_flags(overrides: Mapping[str, object]) -> _Layer:
    tree: Tree = {}
    for key, value in overrides.items():
        _put(tree, key.split("."), value)
    return _Layer(tree, lambda key: f"flag {_nearest_place(FLAGS, key)}")


def _nearest_place(places: Mapping[str, str], key: str) -> str:
    """Where `key` was written; `listen.addresses[1]` and a whole section belong to what holds them."""
    for known, place in places.items():
        if key == known or key.startswith((f"{known}[", f"{known}.")) or known.startswith(f"{key}."):
            return place
    return key


def _put(tree: Tree, parts: list[str], value: object) -> None:
    for part in parts[:-1]:
        tree = tree.setdefault(part, {})
    tree[parts[-1]] = value


def _merge(into: Tree, tree: Tree) -> None:
    for key, value in tree.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, dict) else value


def _check(layer: _Layer) -> list[Fault]:
    try:
        Config.model_validate(layer.tree)
    except ValidationError as error:
        return [_fault(layer, details) for details in error.errors(include_url=False, include_context=True)]
    return []


def _fault(layer: _Layer, details: Any) -> Fault:
    loc: tuple[int | str, ...] = details["loc"]
    key = _dotted(loc)
    source = layer.place(key)
    if details["type"] == "extra_forbidden":
        known = list(_section(loc[:-1]).model_fields)
        if len(loc) == 1 and not isinstance(details["input"], dict):
            return Fault(source, key, "", "this key is in no section", ", ".join(known))
        return Fault(source, key, "", _unknown(str(loc[-1]), known, len(loc) == 1), ", ".join(known))
    if details["type"] in ("model_type", "dict_type", "mapping_type"):
        return Fault(source, key, "", "this is a section, not a value", f"[{key}]")
    problem = "cannot be used"
    reason = details.get("ctx", {}).get("error")
    rule = _rule(loc)
    allowed = "" if rule is None else rule.text
    if isinstance(reason, ValueError) and str(reason) and str(reason) != allowed:
        problem = str(reason)
    return Fault(source, key, _shown(details["input"], rule), problem, allowed)


def _unknown(name: str, known: list[str], is_section: bool) -> str:
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    what = "unknown section" if is_section else "unknown key"
    return f"{what}, did you mean {near[0]}?" if near else what


def _section(loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The innermost section that a place is in."""
    section: type[BaseModel] = Config
    for part in loc:
        if part == "users":
            return UserConfig
        field = section.model_fields.get(str(part))
        inner = field.annotation if field is not None else None
        if not isinstance(inner, type) or not issubclass(inner, BaseModel):
            break
        section = inner
    return section


def _rule(loc: tuple[int | str, ...]) -> Allowed | None:
    """What may stand in a place: a key, or an item of its list."""
    fields = _section(loc).model_fields
    field = next((fields[str(part)] for part in reversed(loc) if str(part) in fields), None)
    return None if field is None else _annotation(field)


def _annotation(field: FieldInfo) -> Allowed | None:
    return next((item for item in field.metadata if isinstance(item, Allowed)), None)


def _dotted(loc: list[str] | tuple[int | str, ...]) -> str:
    text = ""
    for depth, part in enumerate(loc):
        if isinstance(part, int):
            text += f"[{part}]"
        elif depth == 1 and loc[0] == "users":
            text += f'."{part}"'
        else:
            text += f".{part}" if text else part
    return text


def _shown(value: object, rule: Allowed | None) -> str:
    """The value as it was written, cut short; no secret, and not what may be a password in front of an `@`."""
    if rule is not None and rule.secret:
        return "***"
    text = json.dumps(value, ensure_ascii=False, default=str)
    if "@" in text:
        text = f'"…@{text.rpartition("@")[2]}'
    return text if len(text) <= 80 else f"{text[:79]}…"


def _check_together(config: Config, layers: list[_Layer]) -> list[Fault]:
    """What no value shows alone."""
    faults: list[Fault] = []

    def fault(key: str, value: object, problem: str, allowed: str) -> None:
        *sections, name = parts = split_key(key)
        trees = [functools.reduce(lambda tree, part: tree.get(part, {}), sections, layer.tree) for layer in layers]
        writers = [layer for layer, tree in zip(layers, trees, strict=True) if name in tree]
        source = writers[-1].place(key) if writers else "default"
        faults.append(Fault(source, key, _shown(value, _rule(tuple(parts))), problem, allowed))

    fixed = [address for address in config.listen.addresses if address.is_unix or address.port]
    for address in sorted({str(address) for address in fixed if fixed.count(address) > 1}):
        fault("listen.addresses", address, "given twice", "every address once")
    if config.http.address in fixed:
        fault("http.address", str(config.http.address), "clients are accepted there", "an address of its own")
    _check_console(config, fixed, fault)
    if config.backend.address in fixed:
        fault(
            "listen.addresses",
            str(config.backend.address),
            "the server is there",
            "another address than backend.url",
        )
    for name, leg in (("client", config.tls.client), ("backend", config.tls.backend)):
        if leg.key and not leg.certificate:
            fault(f"tls.{name}.key", leg.key, "a key without a certificate", f"with tls.{name}.certificate")
    if config.tls.client.client_certificates == "required" and not config.tls.client.ca:
        needs = "with tls.client.ca, which says whose certificates are accepted"
        fault("tls.client.client_certificates", "required", "nobody could have one", needs)
    if config.tls.client.client_certificates == "required" and config.tls.client.mode != "required":
        needs = 'with tls.client.mode = "required"'
        fault("tls.client.client_certificates", "required", "who logs in without TLS would need none", needs)
    _check_logins(config, fault)
    if config.session.read_ahead > config.session.read_ahead_total:
        fault(
            "session.read_ahead_total",
            config.session.read_ahead_total,
            f"less than session.read_ahead, {config.session.read_ahead} bytes",
            "at least session.read_ahead",
        )
    return faults


def _check_logins(config: Config, fault: Callable[[str, object, str, str], None]) -> None:
    auth = config.auth
    if "lookup" in auth.mode and not auth.lookup_user:
        fault("auth.lookup_user", "", "nobody to look up accounts as", 'with "lookup" in auth.mode, an account')
    if "lookup" not in auth.mode and auth.lookup_user:
        fault("auth.lookup_user", auth.lookup_user, "never used", 'with "lookup" in auth.mode')
    listed = [name for name, user in config.users.items() if user.password is not None]
    if auth.mode == ("users",) and not listed:
        fault("auth.mode", list(auth.mode), "nobody could log in", "with a password of at least one account")
    for name, user in config.users.items():
        if user.password is not None and "users" not in auth.mode:
            fault(f'users."{name}".password', "…", "never used", 'with "users" in auth.mode')
        if user.system_user and user.password is None:
            needs = f'with users."{name}".password, which opens its connections to the server'
            fault(f'users."{name}".system_user', user.system_user, "no password to log in to the server with", needs)


def _check_console(config: Config, fixed: list[Address], fault: Callable[[str, object, str, str], None]) -> None:
    console = config.console
    password = bool(console.password.get_secret_value())
    if password and console.password_file:
        fault("console.password_file", console.password_file, "console.password is given too", "one of the two")
    if console.address is None:
        return
    address = str(console.address)
    if not password and not console.password_file:
        needs = "with console.password or console.password_file"
        fault("console.address", address, "a port needs a password", needs)
    if console.address.is_unix:
        fault("console.address", address, "this is a socket", '"host:port", and console.socket for a socket')
    elif console.address.port and (console.address in fixed or console.address == config.http.address):
        fault("console.address", address, "something else listens there", "an address of its own")


# --- while it runs ---


@dataclass(frozen=True, slots=True)
class Entry:
    """A key with its value and its default, as people write them."""

    key: str
    value: str
    default: str


def entries(config: Config) -> dict[str, Entry]:
    """Every key, in the order of the sections. Secrets are masked."""
    found: dict[str, Entry] = {}

    def walk(section: BaseModel, prefix: str) -> None:
        defaults = type(section)()
        for name, field in type(section).model_fields.items():
            value = getattr(section, name)
            if isinstance(value, BaseModel):
                walk(value, f"{prefix}{name}.")
            elif prefix or name != "users":
                allowed = _annotation(field)
                write = allowed.write if allowed is not None else str
                key = f"{prefix}{name}"
                found[key] = Entry(key, write(value), write(getattr(defaults, name)))

    walk(config, "")
    for user, section in config.users.items():
        walk(section, f'users."{user}".')
    return found


def with_value(config: Config, key: str, value: str) -> Config:
    """`config` with one key changed, given as text. Raises ConfigError, as for a file with that value."""
    layer = _Layer({}, lambda _: "SET")
    _put(layer.tree, split_key(key), value)
    faults = _check(layer)
    if not faults:
        changed = with_keys(config, Config.model_validate(layer.tree), [key])
        faults = _check_together(changed, [layer])
    if faults:
        raise ConfigError(faults)
    return changed


def with_keys(config: Config, other: Config, keys: Iterable[str]) -> Config:
    """`config` with these keys as they are in `other`; an account that is not there any more is left out."""
    for key in keys:
        parts, value = split_key(key), value_of(other, key)
        if parts[0] != "users":
            config = _replaced(config, parts, value)
            continue
        users = dict(config.users)
        if parts[1] in other.users:
            users[parts[1]] = users.get(parts[1], UserConfig()).model_copy(update={parts[2]: value})
        else:
            users.pop(parts[1], None)
        config = config.model_copy(update={"users": users})
    return config


def value_of(config: Config, key: str) -> object:
    """The value itself, secrets too; an account that is not named has the defaults."""
    parts = split_key(key)
    if parts[0] == "users":
        return getattr(config.users.get(parts[1], UserConfig()), parts[2])
    return functools.reduce(getattr, parts, config)


def split_key(key: str) -> list[str]:
    """`users."a.b".weight` in its three parts, other keys at their dots."""
    section, _, rest = key.partition(".")
    if section != "users":
        return key.split(".")
    user, _, name = rest.rpartition(".")
    return [section, user.strip('"'), name]


def _replaced(section: _S, parts: list[str], value: object) -> _S:
    first, *rest = parts
    return section.model_copy(update={first: _replaced(getattr(section, first), rest, value) if rest else value})
