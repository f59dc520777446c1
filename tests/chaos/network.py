"""A network of its own for a server, joined to ours by one cable, and the cable can be pulled.

Nothing of it outlives the test run, however that ends: the namespace belongs to a process that ends with ours, and the
cable to the namespace.
"""

from __future__ import annotations

import os
import random
import subprocess

import pytest

from tests.servers import die_with_parent, wait_until

_HARDWARE = "02:00:00:00:00:01"


class Network:
    """`host` is the address inside; `inside` is what a command is put behind to run there."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], preexec_fn=die_with_parent)
        pid = self._holder.pid
        self.inside = ("nsenter", f"--net=/proc/{pid}/ns/net")
        self._cable, self._end = f"mb{pid}a", f"mb{pid}b"
        try:
            ours = os.readlink("/proc/self/ns/net")
            wait_until(lambda: os.readlink(f"/proc/{pid}/ns/net") != ours, 5.0, "it has a network of its own")
            self._lay_cable()
        except BaseException:
            self.remove()
            raise

    def _lay_cable(self) -> None:
        subnet = _free_subnet()
        self.host = f"{subnet}.2"
        theirs = ("peer", "name", self._end, "address", _HARDWARE, "netns", str(self._holder.pid))
        _run("ip", "link", "add", self._cable, "type", "veth", *theirs)
        _run("ip", "addr", "add", f"{subnet}.1/30", "dev", self._cable)
        _run("ip", "link", "set", self._cable, "up")
        _run(*self.inside, "ip", "addr", "add", f"{self.host}/30", "dev", self._end)
        _run(*self.inside, "ip", "link", "set", "lo", "up")
        self.plug()
        # Else our kernel would notice after seconds that nobody answers to the address, and say so.
        _run("ip", "neigh", "replace", self.host, "lladdr", _HARDWARE, "dev", self._cable, "nud", "permanent")

    def pull(self) -> None:
        """From now on every packet is lost, without a word to anybody."""
        _run(*self.inside, "ip", "link", "set", self._end, "down")

    def plug(self) -> None:
        """Packets arrive again."""
        _run(*self.inside, "ip", "link", "set", self._end, "up")

    def remove(self) -> None:
        """The cable goes at once, the namespace when the kernel has given up the last connection in it."""
        subprocess.run(("ip", "link", "delete", self._cable), check=False, capture_output=True)
        self._holder.kill()
        self._holder.wait(10)


def make_network() -> Network:
    """A network, or a skip that says why there is none; a failure where there has to be one."""
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED: a server that nobody can reach any more (network namespaces need root)")
    try:
        return Network()
    except (OSError, subprocess.CalledProcessError, TimeoutError) as error:
        said = getattr(error, "stderr", "") or error
        if os.environ.get("TEST_REQUIRE_SERVERS", "0") not in ("", "0"):
            pytest.fail(f"no network namespace can be had: {said}", pytrace=False)
        pytest.skip(f"NOT TESTED: a server that nobody can reach any more ({said})")


def _free_subnet() -> str:
    """From the range that is meant for tests between networks (RFC 2544)."""
    taken = _run("ip", "-4", "-o", "addr")
    while True:
        subnet = f"198.{random.randint(18, 19)}.{random.randint(0, 255)}"
        if f" {subnet}." not in taken:
            return subnet


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
