"""What deploy/ holds, read by the programs that it is made for, and in agreement with our own defaults."""

from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.config import Config, load
from proxy.ops.metrics import METRICS
from proxy.values import parse_duration
from tests.conftest import ROOT
from tests.packaging.tools import COMPOSE_FILE, compose, outcome, program, promtool, run

DEPLOY = ROOT / "deploy"
DRAIN = Config().listen.drain_timeout


# --- systemd ---


def unit(directory: Path, text: str | None = None) -> Path:
    """The unit, with the program where this machine has it: whether it is there is looked at as well."""
    text = text or (DEPLOY / "mybouncer.service").read_text()
    path = directory / "mybouncer.service"
    path.write_text(text.replace("/opt/mybouncer/bin/", f"{Path(sys.executable).parent}/"))
    return path


def settings() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(DEPLOY / "mybouncer.service")
    return parser


def verified(path: Path) -> str:
    """All that systemd has to say: what it does not understand it ignores, with a warning and exit code 0."""
    done = outcome(program("systemd-analyze"), "verify", path)
    return f"{done.stdout}{done.stderr}" + (f"exit code {done.returncode}" if done.returncode else "")


def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    assert verified(unit(tmp_path)) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("Restart=always", "Restrat=always", "Unknown key"),
        ("Restart=always", "Restart=allways", "Failed to parse"),
        ("/opt/mybouncer/bin/", "/nowhere/", "not executable"),
    ],
)
def test_systemd_would_find_a_fault(tmp_path: Path, right: str, wrong: str, complaint: str) -> None:
    text = (DEPLOY / "mybouncer.service").read_text()
    assert complaint in verified(unit(tmp_path, text.replace(right, wrong)))


def test_the_unit_leaves_the_service_little_to_harm(tmp_path: Path) -> None:
    """The exposure that systemd computes goes from 0.0 to 10.0; a service without any protection has 9.6."""
    done = outcome(program("systemd-analyze"), "security", "--offline=true", "--threshold=15", unit(tmp_path))
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_the_unit_starts_it_again_and_lets_a_drain_end() -> None:
    service = settings()["Service"]
    assert service["Restart"] == "always"
    assert settings()["Unit"]["StartLimitIntervalSec"] == "0"
    assert float(service["TimeoutStopSec"]) > DRAIN
    assert int(service["LimitNOFILE"]) > 2 * Config().listen.max_clients


# --- Compose, and what it starts ---


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    return services


def test_compose_takes_the_file() -> None:
    assert yaml.safe_load(run(*compose(), "-f", COMPOSE_FILE, "config"))["services"].keys() == {
        "server",
        "mybouncer",
        "prometheus",
    }


def test_compose_would_refuse_a_misspelt_key(tmp_path: Path) -> None:
    bad = tmp_path / "compose.yaml"
    bad.write_text(COMPOSE_FILE.read_text().replace("restart:", "restrat:", 1))
    done = outcome(*compose(), "-f", bad, "config")
    assert done.returncode != 0 and "restrat" in done.stderr


def test_every_service_is_looked_after(services: dict[str, Any]) -> None:
    image_has_one = "\nHEALTHCHECK " in (ROOT / "Dockerfile").read_text()
    for name, service in services.items():
        assert service["restart"] == "unless-stopped", name
        assert "healthcheck" in service or (name == "mybouncer" and image_has_one), name
        assert "build" in service or re.search(r":v?\d", service["image"]), f"{name}: no version"


def test_every_secret_is_a_file(services: dict[str, Any]) -> None:
    secrets = yaml.safe_load(COMPOSE_FILE.read_text())["secrets"]
    assert all(list(secret) == ["file"] for secret in secrets.values())
    named = {
        value
        for service in services.values()
        for key, value in service.get("environment", {}).items()
        if "PASSWORD" in key and key.endswith("_FILE")
    }
    assert named == {f"/run/secrets/{name}" for name in secrets}
    assert len(named) == COMPOSE_FILE.read_text().count("PASSWORD")


def test_the_services_find_each_other(services: dict[str, Any]) -> None:
    """Names and ports, as the image and its environment make mybouncer listen and connect."""
    config = load(ROOT / "config" / "image.toml", services["mybouncer"]["environment"])
    assert config.backend.address.host in services
    assert config.http.address is not None
    ports = [config.listen.addresses[0].port, config.http.address.port]
    assert services["mybouncer"]["ports"] == [f"127.0.0.1:{port}:{port}" for port in ports]
    assert f"EXPOSE {ports[0]} {ports[1]}" in (ROOT / "Dockerfile").read_text()
    (scraped,) = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    assert scraped["static_configs"] == [{"targets": [f"mybouncer:{ports[1]}"]}]


def test_the_pooler_is_confined_and_lets_a_drain_end(services: dict[str, Any]) -> None:
    pooler = services["mybouncer"]
    assert pooler["read_only"] is True
    assert pooler["cap_drop"] == ["ALL"]
    assert pooler["security_opt"] == ["no-new-privileges:true"]
    assert parse_duration(pooler["stop_grace_period"]) > DRAIN


def test_prometheus_takes_its_configuration() -> None:
    run(promtool(), "check", "config", DEPLOY / "prometheus" / "prometheus.yml")


def test_alerts_are_about_metrics_and_labels_that_exist() -> None:
    known = {description.full_name: description for description in METRICS}
    (group,) = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]:
        for name, labels in re.findall(r"(mybouncer_\w+)(?:\{(\w+)=)?", rule["expr"]):
            description = known[name.removesuffix("_bucket")]
            assert description.kind == "histogram" or not name.endswith("_bucket")
            assert not labels or labels in description.labels, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
