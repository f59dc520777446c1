"""The configuration: every key, every unit, every way a person can get it wrong."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from proxy.address import Address, parse_address, parse_backend_url
from proxy.config import (
    FLAGS,
    Config,
    ConfigError,
    Fault,
    UserConfig,
    entries,
    load,
    with_value,
)
from proxy.values import parse_duration, parse_size, write_duration, write_size

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "config" / "mybouncer.toml"


def declared_keys() -> Iterator[tuple[str, object]]:
    """Every key outside [users] with its default as it is written."""

    def inside(section: type[BaseModel], place: str) -> Iterator[tuple[str, object]]:
        for key, field in section.model_fields.items():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                yield from inside(field.annotation, f"{place}{key}.")
            elif key != "users":
                yield f"{place}{key}", field.default

    yield from inside(Config, "")


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "test.toml"
    path.write_text(text, encoding="utf-8")
    return path


def faults_of(
    tmp_path: Path, text: str = "", env: dict[str, str] | None = None, overrides: dict[str, object] | None = None
) -> tuple[Fault, ...]:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text), env, overrides)
    return caught.value.faults


# --- values ---


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30.0), ("50ms", 0.05), ("1h", 3600.0), ("5m", 300.0), ("0s", 0.0), ("1.5s", 1.5), ("7d", 604800.0)],
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [("1MiB", 1 << 20), ("64KiB", 65536), ("1GiB", 1 << 30), ("512KB", 512_000), ("2MB", 2_000_000), ("7B", 7)],
)
def test_a_size_is_a_number_and_a_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "30", "s", "-1s", "1 week", "1S", "1e3s", "nan s", "inf", "1h30m", "٣s", "1s\n2s"]
)
def test_anything_else_is_not_a_duration(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "1", "1mib", "1M", "-1KB", "1 kilobyte", "0x10B"])
def test_anything_else_is_not_a_size(text: str) -> None:
    with pytest.raises(ValueError):
        parse_size(text)


@given(st.sampled_from(["", "mysql://", "mysql+unix:///", "unix:/", "[", "1"]), st.text(max_size=40))
def test_parsers_refuse_with_words_and_nothing_else(start: str, rest: str) -> None:
    text = start + rest
    for parse in (parse_duration, parse_size, parse_address, parse_backend_url):
        try:
            parse(text)
        except ValueError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:6033", Address("127.0.0.1", 6033)),
        ("db.internal:0", Address("db.internal", 0)),
        ("[::1]:6033", Address("::1", 6033)),
        ("unix:/run/mybouncer.sock", Address(unix_path="/run/mybouncer.sock")),
    ],
)
def test_an_address_is_read_and_written_the_same(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text
    assert address.is_unix == text.startswith("unix:")


@pytest.mark.parametrize(
    "text",
    ["", "x", ":6033", "::1:6033", "[::1]", "[x]:1", "h:65536", "h:-1", "h:", "unix:rel", "a b:1",
     "mysql://h:1", "u@h:1", "unix:/a\0b", "unix:/" + "x" * 107],
)  # fmt: skip
def test_what_is_not_an_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mysql://db", Address("db", 3306)),
        ("mysql://db:3307/", Address("db", 3307)),
        ("mysql://[::1]", Address("::1", 3306)),
        ("mysql://[::1]:3307", Address("::1", 3307)),
        ("mysql+unix:///run/mysqld/mysqld.sock", Address(unix_path="/run/mysqld/mysqld.sock")),
    ],
)
def test_the_server_is_named_by_a_url(url: str, address: Address) -> None:
    assert parse_backend_url(url) == address


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://u:p@db", "no credentials"),
        ("mysql://u@db", "no credentials"),
        ("mysql://db/shop", "no database"),
        ("mysql://db?ssl=1", "no options"),
        ("postgres://db", "scheme"),
        ("db:3306", "scheme"),
        ("mysql://", "host is missing"),
        ("mysql://db:0", "port"),
        ("mysql+unix://run/x", "three slashes"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_the_reason(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_backend_url(url)


# --- where values come from ---


def test_without_anything_the_defaults_hold() -> None:
    config = load()
    assert (config.backend.host, config.backend.port, config.backend.unix_path) == ("127.0.0.1", 3306, None)
    assert config.listen.addresses == (Address("127.0.0.1", 6033),)
    assert config.pool.max_connections == "auto"
    assert config.pool.quantum == 0.05
    assert config.session.read_ahead_total == 256 << 20
    assert config.auth.cache_ttl == 300.0
    assert config.http.address == Address("127.0.0.1", 9633)
    assert config.users == {}


def test_flags_win_over_the_environment_and_the_environment_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '[pool]\nmax_connections = 1\nidle_timeout = "1s"\n[queue]\ntimeout = "1s"\n')
    env = {"MYBOUNCER_POOL__MAX_CONNECTIONS": "2", "MYBOUNCER_POOL__IDLE_TIMEOUT": "2s"}
    config = load(path, env, {"pool.max_connections": "3"})
    assert (config.pool.max_connections, config.pool.idle_timeout, config.queue.timeout) == (3, 2.0, 1.0)


@pytest.mark.parametrize("text", ['["[::1]:1", "a:2"]', "[::1]:1, a:2"])
def test_a_list_in_the_environment_is_json_or_separated_by_commas(text: str) -> None:
    config = load(env={"MYBOUNCER_LISTEN__ADDRESSES": text})
    assert config.listen.addresses == (Address("::1", 1), Address("a", 2))


def test_every_key_can_come_from_the_environment() -> None:
    """The default of every key, written as text, is what the key has without it."""

    def text(value: object) -> str:
        return ",".join(value) if isinstance(value, tuple) else str(value).replace("True", "true")

    env = {f"MYBOUNCER_{key.upper().replace('.', '__')}": text(value) for key, value in declared_keys()}
    assert load(env=env) == load()


def test_the_environment_of_kubernetes_is_not_ours() -> None:
    assert load(env={"MYBOUNCER_PORT": "tcp://10.0.0.1:6033", "MYBOUNCER_SERVICE_HOST": "x", "HOME": "/"}) == load()


def test_accounts_keep_their_spelling(tmp_path: Path) -> None:
    path = write(tmp_path, '[users."App.One"]\nweight = 2\n')
    config = load(path, {"MYBOUNCER_USERS__App.One__MAX_CONNECTIONS": "5", "MYBOUNCER_USERS__a__b__WEIGHT": "0.5"})
    assert config.users == {"App.One": UserConfig(weight=2.0, max_connections=5), "a__b": UserConfig(weight=0.5)}


def test_the_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError):
        load().pool.max_connections = 3  # type: ignore[misc]


def test_the_http_port_can_be_off(tmp_path: Path) -> None:
    assert load(write(tmp_path, '[http]\naddress = "off"\n')).http.address is None


# --- faults ---


def test_all_faults_of_all_places_are_told_at_once(tmp_path: Path) -> None:
    text = "[pool]\nmax_conections = 3\nidle_timeout = 30\n[tsl]\na = 1\n"
    faults = faults_of(
        tmp_path, text, {"MYBOUNCER_QUEUE__TIMEUT": "3s", "MYBOUNCER_LOG__LEVEL": "loud"}, {"backend.url": "db"}
    )
    path = str(tmp_path / "test.toml")
    assert [(fault.source, fault.key) for fault in faults] == [
        (path, "pool.idle_timeout"),
        (path, "pool.max_conections"),
        (path, "tsl"),
        ("environment variable MYBOUNCER_QUEUE__TIMEUT", "queue.timeut"),
        ("environment variable MYBOUNCER_LOG__LEVEL", "log.level"),
        ("flag --backend", "backend.url"),
    ]
    assert all(fault.allowed for fault in faults)


def test_a_bad_value_is_told_even_where_a_better_one_wins(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, "[pool]\nmax_connections = 0\n", {"MYBOUNCER_POOL__MAX_CONNECTIONS": "2"})
    assert fault.key == "pool.max_connections" and fault.value == "0"


def test_an_unknown_key_comes_with_the_nearest_known_one(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, "[pool]\nmax_conections = 3\n")
    assert "did you mean max_connections?" in fault.problem
    assert "idle_timeout" in fault.allowed


@pytest.mark.parametrize("section", ["statistics", "plugins"])
def test_a_section_that_does_not_exist_is_an_error(tmp_path: Path, section: str) -> None:
    (fault,) = faults_of(tmp_path, f"[{section}]\n")
    assert "unknown section" in fault.problem


def test_a_key_outside_of_a_section_is_told_as_such(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, "frob = 1\n[pool]\nmax_connections = 3\n")
    assert (fault.key, fault.value, fault.problem) == ("frob", "", "this key is in no section")
    assert fault.allowed.startswith("backend, ")


def test_a_list_tells_which_of_its_items_is_wrong(tmp_path: Path) -> None:
    faults = faults_of(tmp_path, '[listen]\naddresses = ["a:1", "b", "::1:3"]\n')
    assert [(fault.key, fault.value) for fault in faults] == [
        ("listen.addresses[1]", '"b"'),
        ("listen.addresses[2]", '"::1:3"'),
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backend.url", "3306"),
        ("backend.connect_timeout", '"0s"'),
        ("listen.addresses", "[]"),
        ("listen.addresses", "6033"),
        ("listen.max_clients", "0"),
        ("listen.max_clients", "true"),
        ("listen.max_clients", "1.5"),
        ("listen.max_clients", '"auto"'),
        ("pool.max_connections", '"many"'),
        ("pool.max_connections", "-1"),
        ("pool.idle_timeout", '"366d"'),
        ("queue.timeout", '"30"'),
        ("session.read_ahead", '"1B"'),
        ("session.read_ahead", "1048576"),
        ("session.pin_log", "1"),
        ("session.on_client_lost", '"explode"'),
        ("session.trusted_functions", '["a b"]'),
        ("auth.mode", '"none"'),
        ("auth.mode", "[]"),
        ("auth.mode", '["users", "users"]'),
        ("auth.lookup_user", "3"),
        ("http.address", "9633"),
        ("log.level", '"INFO"'),
        ("log.format", '"text"'),
        ("pool.quantum", "{ a = 1 }"),
        ("pool.quantum", "2026-01-01"),
    ],
)
def test_a_bad_value_is_told_with_its_key_and_what_is_allowed(tmp_path: Path, key: str, value: str) -> None:
    section, name = key.split(".")
    (fault,) = faults_of(tmp_path, f"[{section}]\n{name} = {value}\n")
    assert fault.key.startswith(key)
    assert fault.value and fault.allowed
    assert str(fault).startswith(f"{tmp_path / 'test.toml'}: {key}")


@pytest.mark.parametrize("text", ["pool = 3\n", "users = 3\n", "[users]\nbob = 3\n"])
def test_a_value_where_a_section_belongs_is_told(tmp_path: Path, text: str) -> None:
    (fault,) = faults_of(tmp_path, text)
    assert "section" in fault.problem


def test_broken_toml_is_told_with_its_line(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, "[pool]\nidle_timeout = 30s\n")
    assert "line 2" in str(fault) and "test.toml" in str(fault)


def test_a_file_that_is_not_utf8_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(b"# one\n# gr\xfc\xdfe\n")
    with pytest.raises(ConfigError, match="line 2"):
        load(path)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(tmp_path / "none.toml")


def test_faults_of_the_environment_are_told_beside_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.toml", {"MYBOUNCER_LOG__LEVEL": "loud"})
    assert len(caught.value.faults) == 2


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[listen]\naddresses = ["a:1", "a:1"]\n', "listen.addresses"),
        ('[http]\naddress = "127.0.0.1:6033"\n', "http.address"),
        ('[backend]\nurl = "mysql://127.0.0.1:6033"\n', "listen.addresses"),
        ('[auth]\nmode = ["lookup"]\n', "auth.lookup_user"),
        ('[auth]\nlookup_user = "reader"\n', "auth.lookup_user"),
        ('[auth]\nmode = ["users"]\n', "auth.mode"),
        ('[users."a.b"]\npassword = "x"\n', 'users."a.b".password'),
        ('[users.a]\nsystem_user = "www-data"\n', 'users."a".system_user'),
        ('[session]\nread_ahead = "512MiB"\n', "session.read_ahead_total"),
        ('[tls.client]\nkey = "/etc/key.pem"\n', "tls.client.key"),
        (
            '[tls.client]\nmode = "required"\nclient_certificates = "required"\n',
            "tls.client.client_certificates",
        ),
        (
            '[tls.client]\nca = "/etc/ca.pem"\nclient_certificates = "required"\n',
            "tls.client.client_certificates",
        ),
    ],
)
def test_values_that_do_not_go_together_are_told(tmp_path: Path, text: str, key: str) -> None:
    (fault,) = faults_of(tmp_path, text)
    assert fault.key == key


SECRET = "s3cr3t-w0rd"


@pytest.mark.parametrize(
    "text",
    [
        f'[backend]\nurl = "mysql://root:{SECRET}@db"\n',
        f'[backend]\nurl = "mysql://root:{SECRET}/@x@db"\n',
        f'[backend]\nurl = "root:{SECRET}@db"\n',
        f'[http]\naddress = "mysql://root:{SECRET}@db"\n',
        f'[listen]\naddresses = ["root:{SECRET}@db:1"]\n',
        f'[users."a"]\npassword = "{SECRET}"\n',
        f'[backend]\npassword = "{SECRET}"\n',
        f'[users."a"]\npassword = ["{SECRET}"]\n',
        f'[auth]\nlookup_password = ["{SECRET}"]\n',
        f'[auth]\nlookup_passwort = "{SECRET}"\n',
        f'[users."a"]\npasword = "{SECRET}"\n',
        f'password = "{SECRET}"\n',
        f'users = "root:{SECRET}"\n',
        f'[users]\nroot = "{SECRET}"\n',
    ],
)
def test_a_fault_never_shows_what_may_be_a_password(tmp_path: Path, text: str) -> None:
    assert SECRET not in "\n".join(map(str, faults_of(tmp_path, text)))


def test_passwords_are_not_shown_by_anything_that_shows_the_configuration(tmp_path: Path) -> None:
    text = f'[auth]\nmode = ["users", "lookup"]\nlookup_user = "r"\nlookup_password = "{SECRET}"\n'
    config = load(write(tmp_path, f'{text}[users.a]\npassword = "{SECRET}"\n'))
    assert config.users["a"].password is not None
    assert config.users["a"].password.get_secret_value() == SECRET
    for shown in (repr(config), str(config), config.model_dump_json(), repr(config.model_dump())):
        assert SECRET not in shown


def test_the_modes_of_logins_may_come_from_the_environment(tmp_path: Path) -> None:
    env = {
        "MYBOUNCER_AUTH__MODE": "users, passthrough",
        "MYBOUNCER_USERS__app__PASSWORD": SECRET,
    }
    assert load(env=env).auth.mode == ("users", "passthrough")


# --- the example file and the documentation ---


def test_the_example_file_holds_every_default_and_nothing_else() -> None:
    written = dict(flattened(tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))))
    assert written == dict(declared_keys())
    assert load(EXAMPLE) == load()


def flattened(tree: dict[str, Any], place: str = "") -> Iterator[tuple[str, object]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", tuple(value) if isinstance(value, list) else value


def test_every_key_of_the_example_file_has_a_comment() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    keys = [n for n, line in enumerate(lines) if re.match(r"(# )?[a-z_]+ = ", line)]
    assert len(keys) == len(list(declared_keys())) + len(UserConfig.model_fields)
    for n in keys:
        assert re.match(r"# [A-Z\"/0-9]", lines[n - 1]), f"no comment above {lines[n]}"


def test_the_example_of_an_account_can_be_used(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    _, _, users = text.partition('# [users."report"]\n')
    keys = [line.removeprefix("# ") for line in users.splitlines() if re.match(r"# [a-z_]+ = ", line)]
    config = load(write(tmp_path, '[auth]\nmode = ["users"]\n[users."report"]\n' + "\n".join(keys)))
    assert set(UserConfig.model_fields) == {line.split(" = ")[0] for line in keys}
    assert config.users["report"].weight == UserConfig().weight


def test_the_minimal_file_can_be_used() -> None:
    assert load(ROOT / "config" / "minimal.toml") == load()


def test_the_documentation_lists_every_key_with_its_default_and_nothing_else() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z_]+(?:\.[a-z_]+)+)` \| `([^`]*)` \|", text, re.MULTILINE))
    tree = tomllib.loads("\n".join(f"{key} = {value}" for key, value in rows.items()))
    written = dict(flattened(tree))
    users = {key.removeprefix("users.") for key in written if key.startswith("users.")}
    assert users == set(UserConfig.model_fields)
    assert {key: value for key, value in written.items() if not key.startswith("users.")} == dict(declared_keys())
    for key, flag in FLAGS.items():
        assert re.search(rf"^\| `{key}` .*`{flag}`", text, re.MULTILINE), f"{flag} is not told at {key}"


# --- the console, and changes while it runs ---


def test_a_port_for_the_console_needs_a_password(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, '[console]\naddress = "127.0.0.1:6034"\n')
    assert fault.key == "console.address" and "password" in fault.problem


def test_the_console_s_password_is_given_once(tmp_path: Path) -> None:
    text = '[console]\naddress = "127.0.0.1:6034"\npassword = "long enough"\npassword_file = "/run/secrets/console"\n'
    (fault,) = faults_of(tmp_path, text)
    assert fault.key == "console.password_file" and "long enough" not in str(fault)


@pytest.mark.parametrize("address", ["127.0.0.1:6033", "127.0.0.1:9633", "unix:/run/console.sock"])
def test_the_console_s_port_is_its_own(tmp_path: Path, address: str) -> None:
    (fault,) = faults_of(tmp_path, f'[console]\naddress = "{address}"\npassword = "long enough"\n')
    assert fault.key == "console.address"


def test_a_short_password_is_refused_and_not_shown(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, '[console]\npassword = "s3cr3t"\n')
    assert "8 to 255" in fault.allowed
    assert "s3cr3t" not in str(fault)


def test_what_is_in_force_is_shown_as_it_is_written_and_secrets_are_not() -> None:
    config = load(None, {}, {"console.password": "correct horse", "session.read_ahead": "1536KiB"})
    shown = entries(config)
    assert list(shown) == [key for key, _ in declared_keys()]
    assert (shown["queue.timeout"].value, shown["pool.quantum"].value) == ("30s", "50ms")
    assert (shown["session.read_ahead"].value, shown["session.read_ahead"].default) == ("1536KiB", "1MiB")
    assert shown["console.password"].value == "***"
    assert shown["listen.addresses"].value == "127.0.0.1:6033"
    assert shown["console.address"].value == "off"


@given(st.integers(1, 365 * 86_400_000), st.integers(1024, 1 << 40))
def test_what_is_shown_can_be_read_again(milliseconds: int, size: int) -> None:
    assert parse_duration(write_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, rel=1e-5)
    assert parse_size(write_size(size)) == size


def test_a_value_can_be_changed_and_nothing_else_changes() -> None:
    config = load()
    changed = with_value(config, "queue.timeout", "3s")
    assert changed.queue.timeout == 3.0 and config.queue.timeout == 30.0
    assert changed.model_copy(update={"queue": config.queue}) == config


def test_the_share_of_an_account_can_be_changed_whatever_its_name_is() -> None:
    changed = with_value(load(), 'users."a.b".weight', "2")
    assert changed.users["a.b"] == UserConfig(weight=2.0)
    assert 'users."a.b".weight' in entries(changed)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("queue.timeout", "3", "the unit is missing"),
        ("queue.timeot", "3s", "did you mean timeout?"),
        ("nonsense.timeout", "3s", "unknown section"),
        ("session.read_ahead", "1GiB", "at least session.read_ahead"),
        ('users."api".weight', "-1", "from 0.001"),
    ],
)
def test_a_change_is_checked_like_a_file(key: str, value: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        with_value(load(), key, value)


def test_an_account_may_be_called_like_a_key(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, '[users."password"]\nweight = -1\n')
    assert (fault.key, fault.value) == ('users."password".weight', "-1")
    (other,) = faults_of(tmp_path, "[users.app]\nweight = -1\n")
    assert fault.allowed == other.allowed
