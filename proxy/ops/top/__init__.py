"""`mybouncer top`: a live view of a running mybouncer in a terminal, for who is on call.

`poller` asks the console in a thread of its own and `model` is what it gets; `verdict` makes one sentence of that,
`lists` the rows, `view` the lines of a screen; `controls` is what keys do, `terminal` the terminal itself, and `app`
has them meet. Only `poller`, `terminal` and `app` touch the outside.
"""

from __future__ import annotations

from .app import run

__all__ = ["run"]
