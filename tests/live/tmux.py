"""A person at a terminal: a program in a tmux of its own, the keys that it gets and the screen that it makes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from typing import Self

from tests.conftest import ROOT, cannot_run
from tests.servers import wait_until

_DEADLINE = 20.0
_PROMPT = "shell-is-here>"


class Tmux:
    """A shell in a terminal of `columns` and `lines`, in ROOT. Ended with the context."""

    def __init__(self, columns: int = 80, lines: int = 24, env: dict[str, str] | None = None) -> None:
        program = shutil.which("tmux")
        if program is None:
            cannot_run("no tmux on this machine (`make test` installs it)")
        self._directory = tempfile.TemporaryDirectory(prefix="mb-tmux-")
        self._tmux = [program, "-S", f"{self._directory.name}/s", "-f", "/dev/null"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MYBOUNCER_", "TMUX"))}
        shell = {"LC_ALL": "C.UTF-8", "HISTFILE": "/dev/null", "INPUTRC": "/dev/null"}
        self._env = kept | shell | (env or {})
        self._env.pop("COLUMNS", None)
        self._env.pop("LINES", None)
        self._size = ["-x", str(columns), "-y", str(lines)]

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._tmux, *arguments], env=self._env, capture_output=True, text=True, timeout=_DEADLINE, check=True
        )
        return done.stdout

    def __enter__(self) -> Self:
        shell = f"env PS1='{_PROMPT} ' bash --norc --noprofile -i"
        self._run("new-session", "-d", *self._size, "-c", str(ROOT), shell)
        try:
            self.wait_for(_PROMPT)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._run("kill-server")
        finally:
            self._directory.cleanup()

    def keys(self, *names: str) -> None:
        """Press keys, by tmux's names for them."""
        self._run("send-keys", *names)

    def type(self, text: str) -> None:
        """Type a text as it is."""
        self._run("send-keys", "-l", text)

    def start(self, argv: Sequence[str]) -> None:
        """Have the shell run a program."""
        self.type(f"clear; {shlex.join(argv)}; echo ended-with=$?")
        self.keys("Enter")

    def resize(self, columns: int, lines: int) -> None:
        self._run("resize-window", "-x", str(columns), "-y", str(lines))

    @property
    def screen(self) -> str:
        """What is to be seen."""
        return self._run("capture-pane", "-p")

    def on(self, variable: str) -> str:
        """One of tmux's variables of this terminal: `alternate_on`, `cursor_flag`."""
        return self._run("display-message", "-p", f"#{{{variable}}}").strip()

    def wait_for(self, pattern: str, deadline: float = _DEADLINE) -> str:
        """The screen, as soon as the pattern is on it."""
        seen = ""

        def there() -> bool:
            nonlocal seen
            seen = self.screen
            return re.search(pattern, seen, re.MULTILINE) is not None

        try:
            wait_until(there, deadline, f"{pattern!r} is on the screen")
        except TimeoutError as error:
            raise AssertionError(f"{error}; it is:\n{seen}") from None
        return seen

    def wait_gone(self, pattern: str, deadline: float = _DEADLINE) -> str:
        """The screen, as soon as the pattern is not on it."""
        seen = ""

        def gone() -> bool:
            nonlocal seen
            seen = self.screen
            return re.search(pattern, seen, re.MULTILINE) is None

        try:
            wait_until(gone, deadline, f"{pattern!r} is not on the screen")
        except TimeoutError as error:
            raise AssertionError(f"{error}; it is:\n{seen}") from None
        return seen

    def wait_ended(self) -> int:
        """The exit code of the program, once the shell is back."""
        seen = self.wait_for(rf"^ended-with=\d+\n(.*\n)*{_PROMPT}")
        found = re.search(r"^ended-with=(\d+)$", seen, re.MULTILINE)
        assert found is not None
        return int(found[1])
