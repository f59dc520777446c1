"""The image at work in a real engine. `scripts/try-image` builds it and runs these; else they are skipped.

TEST_IMAGE names the image; the engine is the one that `docker` finds, on this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
import yaml

from tests.packaging.tools import COMPOSE_FILE, compose, outcome, run
from tests.servers import Server, free_port, wait_until

IMAGE = os.environ.get("TEST_IMAGE", "")

pytestmark = [
    pytest.mark.skipif(not IMAGE, reason="no image to test: `scripts/try-image` builds one and tests it"),
    pytest.mark.xdist_group("image"),
]


class Container:
    """A running one, in the host's network, with nothing that it can write to."""

    def __init__(self, backend: str) -> None:
        self.port, http_port = free_port(), free_port()
        settings = {
            "BACKEND__URL": backend,
            "LISTEN__ADDRESSES": f"127.0.0.1:{self.port}",
            "HTTP__ADDRESS": f"127.0.0.1:{http_port}",
        }
        environment = [f"--env=MYBOUNCER_{key}={value}" for key, value in settings.items()]
        confined = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=host"]
        argv = ["docker", "run", "--detach", "--health-interval=1s", *confined, *environment, IMAGE]
        self.id = run(*argv).strip()

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(run("docker", "inspect", "--format={{json .State}}", self.id))
        return state

    def wait_for_health(self, health: str) -> None:
        wait_until(lambda: self.state()["Health"]["Status"] == health, 60, f"{health}\n{self.log()}")

    def log(self) -> str:
        done = outcome("docker", "logs", self.id)
        return done.stdout + done.stderr

    def connect(self, **options: Any) -> pymysql.connections.Connection[Any]:
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="app", password="app-secret", database="test", **options
        )


@pytest.fixture
def container() -> Iterator[Callable[[Server], Container]]:
    started: list[Container] = []

    def start(server: Server) -> Container:
        started.append(Container(server.url))
        return started[-1]

    yield start
    for one in started:
        run("docker", "rm", "--force", one.id)


def test_a_container_that_can_write_nothing_gets_healthy_and_serves_clients(
    container: Callable[[Server], Container], server: Server
) -> None:
    one = container(server)
    one.wait_for_health("healthy")
    with contextlib.closing(one.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT VERSION()")
        assert cursor.fetchall() == ((server.version,),)
    ids = run("docker", "exec", one.id, "python", "-c", "import os; print(os.getuid(), os.getgid())")
    assert ids.split() == ["10001", "10001"]
    assert outcome("docker", "exec", one.id, "sh", "-c", "echo >/tmp/x").returncode != 0
    assert run("docker", "diff", one.id) == ""


def test_a_container_that_does_not_answer_is_unhealthy(
    container: Callable[[Server], Container], mariadb: Server
) -> None:
    one = container(mariadb)
    one.wait_for_health("healthy")
    run("docker", "kill", "--signal=STOP", one.id)
    one.wait_for_health("unhealthy")
    run("docker", "kill", "--signal=CONT", one.id)
    one.wait_for_health("healthy")


def test_docker_stop_lets_a_transaction_end(container: Callable[[Server], Container], server: Server) -> None:
    one = container(server)
    one.wait_for_health("healthy")
    server.execute("DROP TABLE IF EXISTS test.stopped", "CREATE TABLE test.stopped (n INT)")
    with contextlib.closing(one.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO stopped VALUES (1)")
        stopping = subprocess.Popen(["docker", "stop", "-t", "40", one.id], stdout=subprocess.DEVNULL)
        wait_until(lambda: "event=draining" in one.log(), 20, "it drains")
        cursor.execute("INSERT INTO stopped VALUES (2)")
        connection.commit()
    assert stopping.wait(30) == 0
    assert server.execute("SELECT n FROM test.stopped ORDER BY n") == [(1,), (2,)]
    state = one.state()
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)


def test_a_bad_setting_ends_it_with_2_and_says_which() -> None:
    done = outcome("docker", "run", "--rm", "--network=none", "--env=MYBOUNCER_QUEUE__TIMEOUT=30", IMAGE)
    assert done.returncode == 2
    assert "environment variable MYBOUNCER_QUEUE__TIMEOUT: queue.timeout" in done.stderr


def test_the_image_has_what_it_runs_and_no_more() -> None:
    (image,) = json.loads(run("docker", "image", "inspect", IMAGE))
    assert image["Config"]["User"] == "10001:10001"
    assert not [name for name in image["Config"]["Env"] if "proxy" in name.lower()]
    look = (
        "import os, proxy.server;print([path for path in ('/src', '/opt/mybouncer/bin/pip') if os.path.exists(path)])"
    )
    assert run("docker", "run", "--rm", "--network=none", "--entrypoint=python", IMAGE, "-c", look) == "[]\n"


# --- deploy/compose.yaml ---


class Stack:
    """All services of the compose file; the pooler's image is the one under test, the secrets are of this run."""

    def __init__(self, directory: Path) -> None:
        self.password = "a secret of this run"
        secrets = {}
        for name in yaml.safe_load(COMPOSE_FILE.read_text())["secrets"]:
            (directory / name).write_text(self.password)
            secrets[name] = {"file": str(directory / name)}
        override = directory / "override.yaml"
        override.write_text(yaml.safe_dump({"services": {"mybouncer": {"image": IMAGE}}, "secrets": secrets}))
        self._compose = [*compose(), "-p", "mybouncer-try", "-f", str(COMPOSE_FILE), "-f", str(override)]

    def compose(self, *arguments: str) -> str:
        return run(*self._compose, *arguments)

    def state(self, service: str) -> dict[str, Any]:
        container = self.compose("ps", "--all", "-q", service).strip()
        state: dict[str, Any] = json.loads(run("docker", "inspect", "--format={{json .State}}", container))
        return state

    def wait_for_health(self) -> None:
        for service in self.compose("config", "--services").split():
            wait_until(
                lambda name=service: self.state(name)["Health"]["Status"] == "healthy", 120, f"{service} is healthy"
            )

    def connect(self) -> pymysql.connections.Connection[Any]:
        return pymysql.connect(host="127.0.0.1", port=6033, user="app", password=self.password, database="app")

    def scraped(self) -> bool:
        """Whether Prometheus has got our metrics."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open("http://127.0.0.1:9090/api/v1/query?query=mybouncer_build_info", timeout=10) as answer:
            return bool(json.load(answer)["data"]["result"])


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    services = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    for image in [service["image"] for service in services.values() if "image" in service]:
        if outcome("docker", "image", "inspect", image).returncode and outcome("docker", "pull", image).returncode:
            pytest.skip(f"the engine has no image {image} and cannot get it")
    stack = Stack(tmp_path)
    try:
        stack.compose("up", "--detach", "--no-build")
        yield stack
    finally:
        stack.compose("down", "--volumes")


def test_compose_brings_up_all_services_and_starts_the_pooler_again(stack: Stack) -> None:
    stack.wait_for_health()
    with contextlib.closing(stack.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT SUBSTRING_INDEX(USER(), '@', 1)")
        assert cursor.fetchall() == (("app",),)
    wait_until(stack.scraped, 60, "Prometheus has scraped the pooler")
    pid = stack.state("mybouncer")["Pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: stack.state("mybouncer")["Pid"] not in (0, pid), 30, "the engine starts it again")
    stack.wait_for_health()
    stack.connect().close()
    stack.compose("stop", "mybouncer")
    assert stack.state("mybouncer")["ExitCode"] == 0
