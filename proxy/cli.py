"""The command line: flags to configuration, failures to words and exit codes, and nothing else.

Exit codes: 0 ok, 1 failed at run time, 2 bad configuration or usage. A person never sees a traceback, except
with `log.level = "debug"`. Everything heavy (pydantic, asyncio, the server) is imported where it is used, so
that `--version` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy import __version__

if TYPE_CHECKING:
    from proxy.config import Config, ConfigError
    from proxy.ops.console.connection import Connection

OK, FAILED, BAD_CONFIGURATION = 0, 1, 2
_SHORTEST, _LONGEST = 0.2, 3600.0  # seconds between two looks of `mybouncer top`

app = typer.Typer(
    name="mybouncer",
    help="A connection pooler for MySQL and MariaDB that waits instead of failing.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    try:
        app(args=argv, prog_name="mybouncer")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else OK if stop.code is None else FAILED
    return OK


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"mybouncer {__version__}")
        raise typer.Exit(OK)


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="A TOML file; see config/mybouncer.toml.")] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="URL", help="The server: mysql://host:port or mysql+unix:///path.")
    ] = None,
    listen: Annotated[
        list[str] | None,
        typer.Option(metavar="ADDRESS", help="Where clients connect: host:port or unix:/path. Repeatable."),
    ] = None,
    http: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Metrics, health and status: host:port, or off.")
    ] = None,
    max_connections: Annotated[
        str | None, typer.Option(metavar="N|auto", help="The cap on connections to the server.")
    ] = None,
) -> None:
    """Accept clients and pool their connections until SIGTERM."""
    flags: dict[str, object] = {
        "backend.url": backend,
        "listen.addresses": listen or None,
        "http.address": http,
        "pool.max_connections": max_connections,
    }
    raise typer.Exit(_serve(config, {key: value for key, value in flags.items() if value is not None}))


@app.command("check-config")
def check_config(file: Annotated[Path, typer.Argument(help="The TOML file to check.")]) -> None:
    """Check a configuration file, with the environment, and list every fault."""
    raise typer.Exit(_check_config(file))


_Connect = Annotated[
    str | None,
    typer.Option(
        "--connect", metavar="ADDRESS", help="Where the console is: unix:/path or host:port. Else it is found."
    ),
]
_ConsoleConfig = Annotated[Path | None, typer.Option("--config", help="The TOML file that mybouncer was started with.")]


@app.command()
def console(
    execute: Annotated[
        str | None, typer.Option("-e", "--execute", metavar="COMMANDS", help="Run these and leave.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answers as JSON, a line for each.")] = False,
    connect: _Connect = None,
    config: _ConsoleConfig = None,
) -> None:
    """Ask a running mybouncer how it is, and tell it what to do."""
    raise typer.Exit(_console(execute, as_json, connect, config))


@app.command()
def top(
    interval: Annotated[str, typer.Option(metavar="DURATION", help="The time between two looks.")] = "1s",
    connect: _Connect = None,
    config: _ConsoleConfig = None,
) -> None:
    """Watch a running mybouncer: who holds the connections, who waits, and why."""
    raise typer.Exit(_top_view(interval, connect, config))


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Show it once and leave.")] = False,
) -> None:
    """Show the pooler at work on a server of its own."""
    raise typer.Exit(_demo(once))


def _serve(path: Path | None, overrides: dict[str, object]) -> int:
    config = _load(path, overrides)
    if config is None:
        return BAD_CONFIGURATION

    def run() -> int:
        from proxy import config as configuration
        from proxy.ops import logs
        from proxy.server import run as run_server

        logs.configure(config.log.level, config.log.format)
        return run_server(config, lambda: configuration.load(path, os.environ, overrides))

    return _guarded(run, debug=config.log.level == "debug")


def _check_config(path: Path) -> int:
    config = _load(path, {})
    if config is None:
        return BAD_CONFIGURATION
    listen = ", ".join(str(address) for address in config.listen.addresses)
    print(f"{path}: ok")
    print(f"  server           {config.backend.address.label}")
    print(f"  clients at       {listen}, at most {config.listen.max_clients}")
    print(f"  max_connections  {config.pool.max_connections}")
    print(f"  queue            {config.queue.max_waiting} waiting, {config.queue.timeout:g} s each")
    print(f"  http             {config.http.address or 'off'}")
    if config.users:
        print(f"  users            {', '.join(sorted(config.users))}")
    return OK


def _console(execute: str | None, as_json: bool, connect: str | None, path: Path | None) -> int:
    def talk(open_console: Callable[[], Connection]) -> int:
        from proxy.ops.console.shell import Shell

        with contextlib.closing(Shell(open_console, as_json=as_json)) as shell:
            if execute is None and sys.stdin.isatty():
                shell.talk()
                return OK
            return OK if shell.run(sys.stdin.read() if execute is None else execute) else FAILED

    return _at_console(connect, path, talk)


def _top_view(interval: str, connect: str | None, path: Path | None) -> int:
    from proxy.values import parse_duration

    try:
        seconds = parse_duration(interval)
    except ValueError as error:
        print(f"mybouncer: --interval {interval}: {error}; for example 1s", file=sys.stderr)
        return BAD_CONFIGURATION
    if not _SHORTEST <= seconds <= _LONGEST:
        print(f"mybouncer: --interval {interval}: allowed: 200ms to 1h", file=sys.stderr)
        return BAD_CONFIGURATION

    def show(open_console: Callable[[], Connection]) -> int:
        from proxy.ops import top

        top.run(open_console, seconds)
        return OK

    from proxy.ops.top.terminal import what_is_missing

    missing = what_is_missing()
    if missing:
        print(
            f'mybouncer: top {missing}; the numbers without one: mybouncer console -e "SHOW STATS"',
            file=sys.stderr,
        )
        return BAD_CONFIGURATION
    return _at_console(connect, path, show)


def _at_console(connect: str | None, path: Path | None, use: Callable[[Callable[[], Connection]], int]) -> int:
    """`use` what gives connections to the console of a running mybouncer; 1 if there is none."""
    config = _load(path, {})
    if config is None:
        return BAD_CONFIGURATION

    def run() -> int:
        from proxy.address import parse_address
        from proxy.ops.console import connection
        from proxy.ops.console.values import ConsoleError

        try:
            address = connection.find(config) if connect is None else parse_address(connect)
        except ValueError as error:
            print(f"mybouncer: --connect {connect}: {error}; allowed: unix:/path or host:port", file=sys.stderr)
            return BAD_CONFIGURATION
        except ConsoleError as error:
            print(f"mybouncer: {error}", file=sys.stderr)
            return FAILED
        try:
            password = connection.password_for(address, config)
            return use(lambda: connection.connect(address, password))
        except connection.NoConsole as error:
            print(f"mybouncer: {error}", file=sys.stderr)
            return FAILED

    return _guarded(run, debug=config.log.level == "debug")


def _demo(once: bool) -> int:
    def run() -> int:
        from proxy.demo import run as run_demo

        return run_demo(once)

    return _guarded(run, debug=os.environ.get("MYBOUNCER_LOG__LEVEL") == "debug")


def _load(path: Path | None, overrides: dict[str, object]) -> Config | None:
    from proxy import config

    try:
        return config.load(path, os.environ, overrides)
    except config.ConfigError as error:
        _tell_faults(error)
        return None


def _tell_faults(error: ConfigError) -> None:
    count = len(error.faults)
    print(f"mybouncer: bad configuration, {count} fault{'s' if count > 1 else ''}:", file=sys.stderr)
    for fault in error.faults:
        print(f"  {fault}", file=sys.stderr)


def _guarded(run: Callable[[], int], *, debug: bool) -> int:
    """`run()`; whatever it raises becomes one line and exit code 1."""
    try:
        return run()
    except KeyboardInterrupt:
        print("mybouncer: interrupted", file=sys.stderr)
    except OSError as error:
        print(f"mybouncer: {_os_error(error)}", file=sys.stderr)
        if debug:
            raise
    except Exception as error:
        if debug:
            raise
        print(
            f"mybouncer: failed: {type(error).__name__}: {error} (MYBOUNCER_LOG__LEVEL=debug shows where)",
            file=sys.stderr,
        )
    return FAILED


def _os_error(error: OSError) -> str:
    words = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {words}" if error.filename else words
