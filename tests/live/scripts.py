"""Scripts of several clients on one pooler, with what its server saw of each step written under it.

    a> SET sql_mode = 'ANSI'
        SET sql_mode = 'ANSI'
    b> SELECT 1
        SET SESSION sql_mode=DEFAULT
        SELECT 1

A line with a name and `>` is what that client does: a statement, or one of the words of `_STEPS`. `-> 5` behind it is
the first value of its answer, `-> ERROR 1064` the error; without one it must not fail. The lines under it are commands
that reached the server (`Sightings.lines`). A line that begins with `[mysql]` or `[mariadb]` holds for that one alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.conftest import Proxy
from tests.live.raw import Raw, Result, ServerError, Statement
from tests.live.wiretap import Sightings
from tests.servers import wait_until

_INDENT = "    "
_WIDTH = 96  # characters of a longer command that are shown
_NOT_LOGGED = (1044, 1064, 1193, 1305)  # errors that come before a statement or a command is written into the log
_BUSY = tuple(f'mybouncer_backends{{state="{state}"}}' for state in ("opening", "resetting", "closing"))


@dataclass
class _Client:
    raw: Raw
    statements: dict[str, Statement] = field(default_factory=dict)


def for_flavour(script: str, flavour: str) -> list[str]:
    """The lines that hold for one kind of server, without the indentation of the whole."""
    found = []
    for line in script.strip("\n").splitlines():
        text = line.removeprefix(2 * _INDENT)
        bare = text.lstrip()
        if bare.startswith("["):
            only, _, bare = bare[1:].partition("] ")
            if only != flavour:
                continue
            text = _INDENT + bare
        if bare:
            found.append(text.rstrip())
    return found


class Play:
    """A script that is played."""

    def __init__(self, pooler: Proxy, sightings: Sightings, account: tuple[str, str], schema: str) -> None:
        self._pooler = pooler
        self._sightings = sightings
        self._account = account
        self._schema = schema
        self._clients: dict[str, _Client] = {}
        self._not_logged: set[str] = set()
        self._steps: list[tuple[str, int]] = []

    def run(self, script: list[str]) -> None:
        """Play the steps of a script."""
        for line in script:
            name, is_step, step = line.partition("> ")
            if not is_step or not name.isalnum():
                continue
            text, asked, _ = step.partition(" -> ")
            said = self._step(name, text)
            self._settle(name)
            shown = f"{name}> {text} -> {said}" if asked or said.startswith("ERROR") else f"{name}> {text}"
            self._steps.append((shown, self._sightings.count))

    def lines(self) -> list[str]:
        """What has happened, in the words of a script."""
        saw = self._sightings.lines(frozenset(self._not_logged))
        found = []
        start = 0
        for step, end in self._steps:
            found += [step, *(_INDENT + shortened(line) for line in saw[start:end])]
            start = end
        return [*found, *(f"and then: {line}" for line in saw[start:])]

    def close(self) -> None:
        """End the clients that are left."""
        for client in self._clients.values():
            client.raw.close()
        self._clients.clear()

    def _step(self, name: str, text: str) -> str:
        word, _, rest = text.partition(" ")
        if word == "connect":
            self._clients[name] = self._connect(None if rest == "without a schema" else rest or self._schema)
            return "OK"
        if name not in self._clients:
            self._clients[name] = self._connect(self._schema)
        if word in ("COM_QUIT", "disconnect"):
            raw = self._clients.pop(name).raw
            raw.quit() if word == "COM_QUIT" else raw.close()
            return "OK"
        step = _STEPS.get(word)
        client = self._clients[name]
        try:
            result = client.raw.query(text) if step is None else step(client, rest)
        except ServerError as error:
            result = Result(error=error.err)
        if result.code in _NOT_LOGGED:
            self._not_logged.add(text if step is None else rest)
        return _said(result)

    def _connect(self, schema: str | None) -> _Client:
        return _Client(Raw(self._pooler, *self._account, schema, timeout=10.0))

    def _settle(self, name: str) -> None:
        """Wait until what a step has brought about is over."""
        if name in self._clients:
            self._clients[name].raw.ping()  # answered when what follows a statement is done

        def over() -> bool:
            now = self._pooler.metrics()
            known = sum(value for key, value in now.items() if key.startswith("mybouncer_clients{"))
            return known == len(self._clients) and not any(now[state] for state in _BUSY)

        wait_until(over, 10, "clients that have left are gone, connections at rest")


def _said(result: Result) -> str:
    if result.error is not None:
        return f"ERROR {result.error.code}"
    if not result.has_rows:
        return "OK"
    value = result.rows[0][0] if result.rows else "nothing"
    return value.decode() if isinstance(value, bytes) else "NULL" if value is None else str(value)


def shortened(line: str) -> str:
    """The list of tracked variables is MySQL's longest text, and always the same."""
    head, found, _ = line.partition("SET session_track_system_variables=")
    line = head + found + "…" if found else " ".join(line.split())
    return line if len(line) <= _WIDTH else line[:_WIDTH] + "…"


def _prepare(client: _Client, text: str) -> Result:
    client.statements[text] = client.raw.prepare(text)
    return Result()


def _execute(client: _Client, rest: str) -> Result:
    text, _, values = rest.partition(" with ")
    given = [int(value) if value.isdigit() else value for value in values.split(", ")] if values else []
    return client.raw.execute(client.statements[text], *given)


def _silent(send: Callable[[_Client, str], None]) -> Callable[[_Client, str], Result]:
    def step(client: _Client, rest: str) -> Result:
        send(client, rest)
        return Result()

    return step


def _statistics(client: _Client, _rest: str) -> Result:
    client.raw.statistics()
    return Result()


def _change_user(client: _Client, rest: str) -> Result:
    return client.raw.change_user(*rest.split(" "))


_STEPS: dict[str, Callable[[_Client, str], Result]] = {
    "COM_PING": lambda client, _: client.raw.ping(),
    "COM_INIT_DB": lambda client, schema: client.raw.init_db(schema),
    "COM_SET_OPTION": lambda client, value: client.raw.set_option(int(value)),
    "COM_RESET_CONNECTION": lambda client, _: client.raw.reset(),
    "COM_CHANGE_USER": _change_user,
    "COM_STATISTICS": _statistics,
    "COM_STMT_PREPARE": _prepare,
    "COM_STMT_EXECUTE": _execute,
    "COM_STMT_RESET": lambda client, text: client.raw.reset_statement(client.statements[text]),
    "COM_STMT_CLOSE": _silent(lambda client, text: client.raw.close_statement(client.statements.pop(text))),
    "COM_STMT_SEND_LONG_DATA": _silent(lambda client, text: client.raw.long_data(client.statements[text], 0, b"abc")),
}
