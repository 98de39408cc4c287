"""docker-compose.yml is valid, and safe by default. No Docker engine is needed: the compose schema is the judge."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

COMPOSE_FILE = Path(__file__).parent.parent / "docker-compose.yml"
SERVICES: dict[str, dict] = yaml.safe_load(COMPOSE_FILE.read_text())["services"]


def test_the_file_follows_the_compose_schema():
    checker = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_each_hardware_has_a_profile_that_picks_its_configuration():
    picked = {
        profile: [word for word in service["command"] if word.startswith("--model-config-name")]
        for service in SERVICES.values()
        for profile in service["profiles"]
        if service["command"][0] == "tritonserver"
    }
    assert picked == {"cpu": ["--model-config-name=cpu"], "gpu": ["--model-config-name=gpu"]}


def test_only_the_gpu_profile_asks_for_a_gpu():
    asking = {name for name, service in SERVICES.items() if "deploy" in service}
    assert asking == {name for name, service in SERVICES.items() if "gpu" in service["profiles"]}


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())
def test_ports_are_published_on_loopback_only(service):
    assert service["ports"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())
def test_containers_run_without_root_and_cannot_write(service):
    assert service["user"].split(":")[0] not in ("", "0", "root")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert all(volume["read_only"] for volume in service["volumes"])


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())
def test_the_image_is_pinned_to_a_release_without_the_known_holes(service):
    release = re.search(r"tritonserver:(\d\d)\.(\d\d)-py3", service["image"])
    assert release, service["image"]
    assert tuple(map(int, release.groups())) >= (26, 7)


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())
def test_docker_waits_for_requests_that_are_still_running(service):
    assert int(service["stop_grace_period"].removesuffix("s")) > 30
    assert "/v2/health/ready" in service["healthcheck"]["test"][-1]
