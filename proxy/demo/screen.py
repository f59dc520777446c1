"""What the demonstration says. It fits into 80 columns; without a terminal the progress is a few plain lines."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from .leak import PASSWORD, QUERY, SCHEMA, USER, Outcome

_TELL_EVERY = 100


class Screen:
    """Where people read it."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def introduce(self, iterations: int, limit: int, cap: int) -> None:
        """Say what is going to be seen."""
        self._console.print(
            f"[bold]A program leaks a connection per iteration, {iterations} times:[/] it connects, prepares\n"
            f"[cyan]{QUERY}[/],\nexecutes it, reads no row and closes nothing. "
            f"The server takes {limit} connections;\nmybouncer may use {cap} of them.\n"
        )

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Say that something takes a moment."""
        if self._console.is_terminal:
            with self._console.status(f"{what} …"):
                yield
        else:
            self._console.print(f"{what} …")
            yield

    @contextlib.contextmanager
    def progress(self, name: str, iterations: int) -> Iterator[Callable[[Outcome], None]]:
        """Show a loop while it runs: call what this gives with its outcome so far."""
        if not self._console.is_terminal:
            yield lambda outcome: self._tell(name, iterations, outcome)
            return
        columns = (
            TextColumn("{task.description:<21}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("[green]{task.fields[ok]} ok[/]  [red]{task.fields[refused]}[/]"),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(name, total=iterations, ok=0, refused="")

            def show(outcome: Outcome) -> None:
                refused = f"{outcome.refused} refused" if outcome.refused else ""
                progress.update(task, completed=outcome.tried, ok=outcome.succeeded, refused=refused)

            yield show

    def _tell(self, name: str, iterations: int, outcome: Outcome) -> None:
        if outcome.tried % _TELL_EVERY == 0 or outcome.tried == iterations:
            self._console.print(
                f"{name}: {outcome.tried}/{iterations}, {outcome.succeeded} ok, {outcome.refused} refused"
            )

    def compare(self, direct: Outcome, pooled: Outcome, limit: int, cap: int) -> None:
        """Both loops side by side."""
        table = Table(title_justify="left", header_style="bold")
        table.add_column(f"{direct.tried} leaked connections")
        table.add_column("straight at MariaDB", justify="right")
        table.add_column("through mybouncer", justify="right")
        table.add_row("succeeded", *(_coloured(one.succeeded, one.refused == 0) for one in (direct, pooled)))
        table.add_row("refused", *(_coloured(one.refused, one.refused == 0) for one in (direct, pooled)))
        table.add_row("with the error", *(_first_refusal(one) for one in (direct, pooled)))
        table.add_row("peak on the server", f"{direct.peak} of {limit}", f"{pooled.peak} of {cap}")
        table.add_row("slowest iteration", *(f"{one.slowest * 1000:,.1f} ms" for one in (direct, pooled)))
        self._console.print()
        self._console.print(table, soft_wrap=False)

    def invite(self, port: int, http: str, server_port: int, open_connections: int) -> None:
        """Say how to try it oneself."""
        client = "mysql" if shutil.which("mariadb") is None and shutil.which("mysql") else "mariadb --skip-ssl"
        self._console.print(
            f"\nStill serving, with {open_connections} leaked connections open. Try it from another terminal:\n"
            f"  [cyan]{client} -h 127.0.0.1 -P {port} -u {USER} -p{PASSWORD} {SCHEMA}[/]\n"
            f"  the server itself is on port {server_port}\n"
            f"  metrics and status: [cyan]http://{http}/[/]  [cyan]http://{http}/metrics[/]\n"
            "Ctrl-C ends it and removes everything."
        )

    def farewell(self) -> None:
        """The last words after Ctrl-C."""
        self._console.print("\nEnded; nothing is left behind.")


def _coloured(number: int, good: bool) -> str:
    return f"[{'green' if good else 'red'}]{number}[/]"


def _first_refusal(outcome: Outcome) -> str:
    if not outcome.refusals:
        return "–"
    ((text, _),) = outcome.refusals.most_common(1)
    return text if len(text) <= 60 else f"{text[:59]}…"
