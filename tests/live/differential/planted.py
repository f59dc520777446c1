"""A pooler with a planted leak: `python -m tests.live.differential.planted LEAK serve …`."""

from __future__ import annotations

import sys

from proxy.cli import main

from .leaks import LEAKS

if __name__ == "__main__":
    LEAKS[sys.argv.pop(1)]()
    main()
