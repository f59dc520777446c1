"""Passwords are where they have to be and nowhere else; and who guesses learns nothing from how he is refused."""

from __future__ import annotations

import asyncio
import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pymysql
import pytest

from proxy.address import Address
from proxy.ops.logs import configure, get_logger
from proxy.relay.connect import Dialer, Refused
from proxy.relay.plugins import Exchange
from proxy.relay.stream import PacketStream
from proxy.wire import constants as c
from proxy.wire.auth import Secret
from proxy.wire.framing import frame
from proxy.wire.packets import HandshakeResponse
from tests.conftest import ROOT, Proxy
from tests.live.desk import Desk
from tests.live.handshakes import CLEAR_ONLY, MODERN, NATIVE_ONLY, Handshake
from tests.live.raw import Raw
from tests.servers import Server, free_port

Start = Callable[..., Proxy]
CANARY = "kanarienvogel"


def canary(name: str) -> str:
    return f"{CANARY}-{name}"


def forms_of(secret: str) -> set[bytes]:
    """How it might be written down."""
    raw = secret.encode()
    kept = Secret.of(raw)
    hashes = {kept.sha1, kept.native_hash, kept.ident}
    return {raw, raw.hex().encode(), *(h.hex().encode() for h in hashes), *(h.hex().upper().encode() for h in hashes)}


def test_no_secret_gets_into_what_people_see(server: Server, proxy: Start, tmp_path: Path) -> None:
    path, desk = str(tmp_path / "socket"), str(tmp_path / "desk")
    server.execute(
        f"CREATE USER canary@'%' IDENTIFIED BY '{canary('first')}'",
        "GRANT ALL ON test.* TO canary@'%'",
        f"CREATE USER canary_reader@'%' IDENTIFIED BY '{canary('reader')}'",
    )
    config = tmp_path / "canary.toml"
    config.write_text(
        '[auth]\nmode = ["users", "lookup", "passthrough"]\nlookup_user = "canary_reader"\n'
        f'lookup_password = "{canary("reader")}"\n'
        '[log]\nlevel = "debug"\nstatements = "sampled"\nsample_every = "1ms"\n'
        f'[console]\naddress = "127.0.0.1:{free_port()}"\npassword = "{canary("console")}"\n'
        f'[users.app]\npassword = "{canary("listed")}"\n'
    )
    seen = []
    try:
        args = ["--config", str(config), "--listen", f"unix:{path}"]
        pooler = proxy(server, max_connections=2, args=args, console__socket=desk)
        for plugins in (MODERN, NATIVE_ONLY, CLEAR_ONLY):
            for user, password in (("canary", "first"), ("canary", "wrong"), ("app", "listed"), ("nobody", "wrong")):
                try:
                    with Handshake(path, user, canary(password), plugins=plugins) as client:
                        seen.append(str(client.err))
                except Exception as exc:
                    seen.append(str(exc))
        for tls in (False, True):
            with Handshake(pooler.port, "canary", canary("wrong"), tls=tls) as client:
                seen.append(str(client.err))
        with Handshake(pooler.port, "canary", canary("first"), tls=True) as client:
            assert client.ok
        _say_secrets(server, pooler)
        seen += _asked_at(desk, pooler, config)
        seen += [pooler.get(page)[1] for page in ("/", "/metrics", "/readyz")]
        pooler.stop()
        seen.append(pooler.log())
    finally:
        server.execute("DROP USER canary@'%', canary_reader@'%'")
    assert "pinned" in seen[-1], "the log is that of this pooler"
    for name in ("first", "second", "third", "fourth", "wrong", "listed", "reader", "statement", "console", "typed"):
        for form in forms_of(canary(name)):
            for text in seen:
                assert form not in text.encode(), f"{name} is shown: {text[:2000]}"


def _say_secrets(server: Server, pooler: Proxy) -> None:
    """Statements with passwords in them: done, refused, pinned, broken off."""
    second = f"'{canary('second')}'"
    with Raw(pooler, "canary", canary("first")) as client:
        client.ok(f"SET @pinned = CONCAT('{canary('statement')}')")
        client.query(f"ALTER USER nobody_at_all@'%' IDENTIFIED BY '{canary('third')}'")
        client.query(f"CREATE USER nobody_at_all@'%' IDENTIFIED BY '{canary('third')}")  # a quote is missing
        client.query(f"GRANT ALL ON nowhere.* TO nobody_at_all@'%' IDENTIFIED BY '{canary('third')}'")
        client.ok("SET sql_mode = 'ANSI_QUOTES'")
        client.query(f'ALTER USER nobody_at_all IDENTIFIED BY "{canary("third")}"')
        client.ok("SET sql_mode = DEFAULT")
        client.ok(f"SET PASSWORD = {f'PASSWORD({second})' if server.flavour == 'mariadb' else second}")
        client.send(b"\x16" + f"ALTER USER canary@'%' IDENTIFIED BY '{canary('fourth')}'".encode())
        client.sock.sendall(frame(b"\x03SELECT 1", 7))  # out of order
    with pytest.raises(pymysql.err.MySQLError):
        pymysql.connect(host=pooler.host, port=pooler.port, user="canary", password=canary("first"))
    with Raw(pooler, "canary", canary("second")) as client:
        assert client.change_user("canary", canary("wrong")).code == 1045


def _asked_at(path: str, pooler: Proxy, config: Path) -> list[str]:
    """What the console shows, and what it says to secrets that are typed into it or changed in the file."""
    desk = Desk(path)
    lists = (
        "CLIENTS",
        "BACKENDS",
        "POOLS",
        "QUEUE",
        "PINS",
        "ACCOUNTS",
        "HOLDERS",
        "STATEMENTS",
        "STATS",
        "CONFIG",
        "VERSION",
    )
    try:
        with Raw(pooler, "canary", canary("second")) as client:
            client.ok(f"SET @carried = '{canary('statement')}'")
            client.ok(f"SET @pinned = CONCAT('{canary('statement')}')")
            said = [str(desk.about(client.ident)), *(str(desk.ask(f"SHOW {each}")) for each in lists)]
        keys = ("auth.lookup_password", 'users."app".password', "console.password")
        said += [str(desk.error(f"SET {key} = '{canary('typed')}'")) for key in keys]
        config.write_text(config.read_text().replace(canary("listed"), canary("typed")))
        said.append(str(desk.ask("RELOAD")))
    finally:
        desk.close()
    assert "lookup_password" in "".join(said)
    return said


def _check(config: Path) -> str:
    argv = [sys.executable, "-m", "proxy", "check-config", str(config)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('[auth]\nmode = "users"\n[users.app]\npassword = "{}"\n', "ok"),
        ('[users.app]\npassword = "{}"\n', "never used"),
        ('[users.app]\npassword = ["{}"]\n', "text"),
        ('[users.app]\npasswort = "{}"\n', "did you mean"),
        ('[auth]\nlookup_password = {{ a = "{}" }}\n', "lookup_password"),
        ('[users]\npassword = "{}"\n', "section"),
        ('[users.app]\npassword = "{}\n', "not TOML"),
    ],
)
def test_check_config_shows_no_secret(tmp_path: Path, text: str, word: str) -> None:
    config = tmp_path / "canary.toml"
    config.write_text(text.format(canary("config")))
    said = _check(config)
    assert word in said
    assert CANARY not in said


def test_neither_tracebacks_nor_representations_show_a_secret() -> None:
    secret = Secret.of(canary("shown").encode())
    response = HandshakeResponse(0, 45, b"app", canary("shown").encode(), None, c.CLEAR_PASSWORD)
    out = io.StringIO()
    configure("debug", "logfmt", out)

    def fail(secret: Secret, password: bytes, response: HandshakeResponse) -> None:
        raise RuntimeError(f"failed with {secret} {response}")

    async def main() -> str:
        exchange = Exchange(PacketStream(), secret, False, False)
        with pytest.raises(OSError) as caught:
            await Dialer(Address("127.0.0.1", 1)).connect(b"app", secret, 0, 45, [])
        return f"{exchange!r} {caught.value!r}"

    try:
        fail(secret, canary("shown").encode(), response)
    except RuntimeError as exc:
        get_logger().error("failed", error=repr(exc), exc_info=exc)
    shown = out.getvalue() + asyncio.run(main()) + repr(secret) + repr([response]) + str(Refused)
    assert "RuntimeError" in shown
    for form in forms_of(canary("shown")):
        assert form not in shown.encode()


def test_there_are_no_core_dumps(server: Server, proxy: Start) -> None:
    pooler = proxy(server, max_connections=2)
    limits = Path(f"/proc/{pooler.pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE), limits
    script = (
        "import ctypes; from proxy.server import keep_memory_private as keep; libc = ctypes.CDLL(None);"
        "before = libc.prctl(3, 0, 0, 0, 0); keep(); print(before, libc.prctl(3, 0, 0, 0, 0))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1 0\n"


# --- guessing ---


@pytest.mark.parametrize(
    ("plugins", "tls", "name"),
    [
        (MODERN, False, b""),
        (MODERN, True, b""),
        ((*MODERN, c.SHA256_PASSWORD), False, b"libmysql"),
        (CLEAR_ONLY, True, b""),
    ],
    ids=["plain", "tls", "libmysql", "clear"],
)
def test_an_unknown_user_and_a_wrong_password_are_refused_alike(
    server: Server, shared_proxy: Start, plugins: tuple[bytes, ...], tls: bool, name: bytes
) -> None:
    pooler = shared_proxy(server, max_connections=4)
    with Handshake(pooler.port, "app2", "app2-secret", tls=tls) as client:
        assert client.ok, "known from here on"
    refused = []
    for user in ("app2", "app9"):
        for _ in range(2):
            with Handshake(pooler.port, user, "a wrong one", plugins=plugins, tls=tls, name=name) as client:
                assert client.err is not None
                text = client.err.message.replace(user.encode(), b"user")
                refused.append((client.err.code, client.err.state, text, client.packets))
    assert refused.count(refused[0]) == 4, refused
    assert refused[0][0] == 1045


def test_as_alike_where_the_answer_is_ours(mariadb: Server, proxy: Start) -> None:
    mariadb.execute(
        "CREATE USER IF NOT EXISTS guess_reader@'%' IDENTIFIED BY 'reader-secret'",
        "GRANT SELECT ON mysql.global_priv TO guess_reader@'%'",
    )
    config = {"auth__lookup_user": "guess_reader", "auth__lookup_password": "reader-secret"}
    env = {"MYBOUNCER_USERS__app__PASSWORD": "app-secret"}
    try:
        for mode in ("users,lookup", "lookup,users,passthrough"):
            pooler = proxy(mariadb, max_connections=2, auth__mode=mode, env=env, **config)
            refused = []
            for user in ("app1", "app2", "app"):  # nobody, looked up, listed
                with Handshake(pooler.port, user, "a wrong one") as client:
                    assert client.err is not None
                    text = re.sub(rb"'app\d?'", b"'user'", client.err.message)
                    sizes = [size for _, size in client.packets[:-1]]
                    sizes[1] -= len(user)
                    refused.append((client.err.code, client.err.state, text, sizes))
            assert refused.count(refused[0]) == 3, refused
    finally:
        mariadb.execute("DROP USER guess_reader@'%'")
