"""mybouncer: a connection pooler for MySQL and MariaDB that queues instead of failing."""

from __future__ import annotations

__version__ = "0.1.0"
