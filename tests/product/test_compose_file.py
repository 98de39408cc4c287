"""docker-compose.yml is valid, and safe by default. No Docker engine is needed: the compose schema is the judge."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

COMPOSE_FILE = Path(__file__).parents[2] / "docker-compose.yml"
# As without any environment variable: ${NAME:-default} is its default, innermost first.
TEXT = COMPOSE_FILE.read_text()
while (PLAIN := re.sub(r"\$\{\w+:-([^${}]*)\}", r"\1", TEXT)) != TEXT:
    TEXT = PLAIN
SERVICES: dict[str, dict] = yaml.safe_load(TEXT)["services"]
SERVERS = {name: service for name, service in SERVICES.items() if service.get("command", [""])[0] == "tritonserver"}


def test_the_file_follows_the_compose_schema():
    checker = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_each_hardware_has_a_profile_that_picks_its_configuration():
    picked = {
        profile: [word for word in service["command"] if word.startswith("--model-config-name")]
        for service in SERVERS.values()
        for profile in service["profiles"]
    }
    assert picked == {"cpu": ["--model-config-name=cpu"], "gpu": ["--model-config-name=gpu"]}


def test_only_what_needs_a_gpu_asks_for_one():
    assert {name for name, service in SERVICES.items() if "deploy" in service} == {"triton-gpu", "builder"}


@pytest.mark.parametrize("service", SERVERS.values(), ids=SERVERS.keys())
def test_ports_are_published_on_loopback_only(service):
    assert service["ports"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - SERVERS.keys()))
def test_what_serves_nobody_has_no_network(name):
    assert SERVICES[name]["network_mode"] == "none"
    assert "ports" not in SERVICES[name]


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())
def test_containers_run_without_root_and_cannot_write_their_own_files(service):
    assert service["user"].split(":")[0] not in ("", "0", "root")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"builder"}))
def test_only_the_builder_can_write_to_the_repository(name):
    assert all(volume["read_only"] for volume in SERVICES[name]["volumes"])


@pytest.mark.parametrize("service", SERVERS.values(), ids=SERVERS.keys())
def test_the_image_is_pinned_to_a_release_without_the_known_holes(service):
    release = re.search(r"tritonserver:(\d\d)\.(\d\d)-py3", service["image"])
    assert release, service["image"]
    assert tuple(map(int, release.groups())) >= (26, 7)


@pytest.mark.parametrize("service", SERVERS.values(), ids=SERVERS.keys())
def test_docker_waits_for_requests_that_are_still_running(service):
    assert int(service["stop_grace_period"].removesuffix("s")) > 30
    assert "/v2/health/ready" in service["healthcheck"]["test"][-1]


def test_server_builder_and_check_are_of_one_release():
    server = re.search(r"tritonserver:([\d.]+)-py3", SERVICES["triton-gpu"]["image"])[1]
    assert SERVICES["plan-check"]["image"] == SERVICES["triton-gpu"]["image"]
    assert SERVICES["builder"]["build"]["args"] == {"TRITON_RELEASE": server}
    dockerfile = (COMPOSE_FILE.parent / SERVICES["builder"]["build"]["dockerfile"]).read_text()
    assert f"ARG TRITON_RELEASE={server}\nFROM nvcr.io/nvidia/tensorrt:${{TRITON_RELEASE}}-py3" in dockerfile
    assert re.search(r"^USER (?!0|root)", dockerfile, re.MULTILINE)


def test_a_server_with_plans_of_another_tensorrt_does_not_start():
    assert SERVICES["triton-gpu"]["depends_on"] == {"plan-check": {"condition": "service_completed_successfully"}}
    mounted = {volume["target"]: volume["source"] for volume in SERVICES["plan-check"]["volumes"]}
    assert (COMPOSE_FILE.parent / mounted["/plan_check.py"]).is_file()
    assert SERVICES["plan-check"]["entrypoint"] == ["python3", "-I", "-S", "/plan_check.py", "/models"]
