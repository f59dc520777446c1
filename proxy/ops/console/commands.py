"""What can be said at the console: one table, from which the parser, HELP and docs/console.md come."""

from __future__ import annotations

import difflib
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from . import actions, client, live, views
from .values import Column, ConsoleError, Context, Row

View = Callable[[Context, str], Iterator[Row]]
Action = Callable[[Context, str], Awaitable[str]]

_LIMIT = re.compile(r"\s+limit\s+(\d{1,9})$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its words, what stands behind them, and either rows (`view`) or something that is done (`action`)."""

    words: str
    help: str
    columns: tuple[Column, ...] = ()
    view: View | None = None
    action: Action | None = None
    argument: str = ""

    @property
    def usage(self) -> str:
        """As it is written."""
        return f"{self.words} {self.argument}".rstrip()

    @property
    def is_list(self) -> bool:
        """Whether its rows can be limited."""
        return self.view is not None and not self.argument


HELP = (
    Column("command", "text", "A command. Every SHOW with many rows takes `LIMIT <n>` at its end."),
    Column("meaning", "text", "What it shows or does."),
)


def _help(_context: Context, _: str) -> Iterator[Row]:
    for command in COMMANDS:
        yield command.usage, command.help


def _reload(context: Context, _: str) -> Iterator[Row]:
    return context.live.reload()


COMMANDS: tuple[Command, ...] = (
    Command("SHOW CLIENTS", "Every client that is logged in.", views.CLIENTS, views.clients),
    Command(
        "SHOW CLIENT",
        "One client: why it is pinned, what it waits for, its place.",
        client.COLUMNS,
        client.client,
        None,
        "<id>",
    ),
    Command("SHOW BACKENDS", "Every connection to the server, and who has it.", views.BACKENDS, views.backends),
    Command("SHOW POOLS", "Connections by account and capabilities.", views.POOLS, views.pools),
    Command("SHOW QUEUE", "Who waits for a connection, the longest waiting first.", views.QUEUE, views.queue),
    Command("SHOW PINS", "Why sessions cannot leave their connections.", views.PINS, views.pinned),
    Command("SHOW HOLDERS", "Who keeps connections for suspiciously long, and why.", views.HOLDERS, views.holders),
    Command("SHOW STATEMENTS", "What statements cost, by digest.", views.STATEMENTS, views.statements),
    Command("SHOW ACCOUNTS", "The accounts in use, and their shares.", views.ACCOUNTS, views.accounts),
    Command("SHOW STATS", "The numbers of everything.", views.STATS, views.stats),
    Command(
        "SHOW CONFIG", "Every key, its value, and whether it can change while it runs.", views.CONFIG, views.config
    ),
    Command("SHOW VERSION", "What runs here.", views.VERSION, views.version),
    Command("SHOW HELP", "This.", HELP, _help),
    Command("PAUSE", "Give out no connection and close all as they come back; clients wait.", action=actions.pause),
    Command("RESUME", "The end of PAUSE.", action=actions.resume),
    Command("RECONNECT", "Replace every connection to the server, each when it is free.", action=actions.reconnect),
    Command("DRAIN", "Take nothing new, finish what runs, then end: as SIGTERM.", action=actions.drain),
    Command("RELOAD", "Read the file again and apply what can change while it runs.", live.RELOAD, _reload),
    Command("SHUTDOWN", "End at once: what runs is cut off.", action=actions.shutdown),
    Command("KILL CLIENT", "End a client and what it runs.", action=actions.kill_client, argument="<id>"),
    Command("KILL BACKEND", "End a connection to the server.", action=actions.kill_backend, argument="<id>"),
    Command("SET", "Change a key while it runs.", action=actions.set_key, argument="<key> = <value>"),
)


def find(text: str) -> tuple[Command, str, int | None]:
    """The command in `text`, its argument, and the limit on its rows. Raises ConsoleError where there is none."""
    said = " ".join(text.split()) if "=" not in text else text
    limit = None
    match = _LIMIT.search(said)
    if match is not None and said[:5].upper() == "SHOW ":
        said, limit = said[: match.start()], int(match[1])
    for command in sorted(COMMANDS, key=lambda one: -len(one.words)):
        rest = said[len(command.words) :]
        if said[: len(command.words)].upper() != command.words or (rest and not rest[0].isspace()):
            continue
        argument = rest.strip()
        if bool(argument) != bool(command.argument):
            given = f"not {text!r}" if argument or not command.argument else "it is missing"
            raise ConsoleError(f"it is {command.usage}; {given}", 1064, "42000")
        if limit is not None and not command.is_list:
            raise ConsoleError(f"it is {command.usage}, without LIMIT", 1064, "42000")
        return command, argument, limit
    raise ConsoleError(_unknown(said), 1064, "42000")


def rows(command: Command, context: Context, argument: str, limit: int | None) -> Iterator[Row]:
    """The rows of a command that has some."""
    assert command.view is not None
    return islice(command.view(context, argument), limit)


def _unknown(said: str) -> str:
    first = said.split(" ", 1)[0].upper()
    known = [command.usage for command in COMMANDS]
    near = difflib.get_close_matches(" ".join(said.upper().split()[:2]), [one.words for one in COMMANDS], n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    same = [usage for usage in known if usage.startswith(f"{first} ")] or known
    return f"{said[:80]!r} is no command; {hint}known: {', '.join(same)}"
