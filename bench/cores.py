"""Who runs on which processor: the process in the middle has one to itself, server and clients share the others.

Left to the scheduler, a relay often runs on the processor of its own clients, is preempted by whoever it has just
woken, and its CPU per statement is one of two figures, half as much again apart. With a processor of its own it is
measured alike whatever it is, and the server and the clients offer every one of them the same load. They have no
more processors when they are connected directly: what a pooler adds is compared, not what an idle processor adds.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_ALL = tuple(sorted(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Layout:
    """The processors of the middle, and those of everything else; the same ones where nothing is pinned."""

    middle: tuple[int, ...]
    others: tuple[int, ...]

    @property
    def pinned(self) -> bool:
        """Whether the middle has a processor of its own."""
        return self.middle != self.others

    def __str__(self) -> str:
        if self.pinned:
            mine, others = (", ".join(map(str, cores)) for cores in (self.middle, self.others))
            return f"the process in the middle is pinned to core {mine}, server and clients to the rest ({others})"
        count = len(self.others)
        return f"{count} core{'s' if count != 1 else ''} for everything: clients, middle and server; nothing is pinned"


def layout() -> Layout:
    """How the processors are divided at present."""
    mine = tuple(sorted(os.sched_getaffinity(0)))
    return Layout(tuple(core for core in _ALL if core not in mine) or _ALL, mine)


def pin(pid: int, cores: Collection[int]) -> None:
    """Bind all threads of a process; those it starts later, and its children, inherit it."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


def leave_one_core_alone() -> None:
    """Keep off the first one, if there are others; so does every server and client that this process starts."""
    if len(_ALL) > 1:
        pin(os.getpid(), _ALL[1:])
