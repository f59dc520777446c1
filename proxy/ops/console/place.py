"""Where the console's socket is when nobody says: the same for the server that makes it and for who looks for it."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path

from proxy.address import Address


def directories() -> list[Path]:
    """Where it may be, the best first: systemd's directory for the service, the user's, root's, one of our own."""
    found = []
    if os.environ.get("RUNTIME_DIRECTORY"):
        found.append(Path(os.environ["RUNTIME_DIRECTORY"].split(":")[0]))
    if os.environ.get("XDG_RUNTIME_DIR"):
        found.append(Path(os.environ["XDG_RUNTIME_DIR"]) / "mybouncer")
    found.append(Path("/run/mybouncer"))
    found.append(Path(tempfile.gettempdir()) / f"mybouncer-{os.geteuid()}")
    return found


def socket_name(addresses: Sequence[Address]) -> str:
    """Each mybouncer of a machine has its own: named after the first address it listens on."""
    first = addresses[0]
    label = str(first.port) if first.unix_path is None else first.unix_path.strip("/").replace("/", "-")
    return f"console-{label}.sock"


def own_directory() -> Path:
    """The first directory that is ours, made if need be. Raises OSError where there is none."""
    for directory in directories():
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            status = directory.lstat()
        except OSError:
            continue
        # Nobody else may put a socket of theirs there.
        mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
        if mine and os.access(directory, os.W_OK):
            return directory
    raise OSError(f"none of {', '.join(map(str, directories()))} can be used")


def existing_sockets() -> list[Path]:
    """Every console socket on this machine that may be ours to use and that somebody listens on.

    A mybouncer that was killed leaves its socket behind.
    """
    found: list[Path] = []
    for directory in directories():
        try:
            status = directory.lstat()
            if status.st_uid in (0, os.geteuid()) or os.geteuid() == 0:
                found += sorted(directory.glob("console-*.sock"))
        except OSError:
            continue
    return [path for path in dict.fromkeys(found) if not _is_deserted(path)]


def _is_deserted(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as knock:
        try:
            knock.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:
            return False  # whoever uses it is told what is wrong
    return False
