"""Our image of the server: built as the documentation says, and run as tightly as the compose file runs NVIDIA's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from containers import ROOT, SERVER_IMAGE, Engine
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from serving import add_double

from plansmith_client import Client

HARDENED = (
    "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--user=1000:1000", "--tmpfs=/tmp:mode=1777",
    "--memory=2g", "--pids-limit=256", "--shm-size=256m", "--publish=127.0.0.1::8001",
)  # fmt: skip
LOCK = ROOT / "requirements.lock"
MODELS_IMAGE = "localhost/plansmith-tests/models:1"
FIND_SETUID = "find / -xdev -type f -perm /6000"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The committed repository, and one model for the other backend."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(ROOT / "model_repository", folder, dirs_exist_ok=True)
    add_double(folder, "double", 'backend: "openvino" instance_group { kind: KIND_CPU count: 1 }')
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def container(engine: Engine, models):
    """A server whose repository is an image, too, as a volume of Kubernetes can be."""
    engine.run("build", "--file", ROOT / "deploy/images/Containerfile.repository", "--tag", MODELS_IMAGE, models)
    mount = f"--mount=type=image,source={MODELS_IMAGE},destination=/models"
    command = ("tritonserver", "--model-repository=/models", "--model-config-name=cpu")
    try:
        with engine.container(*HARDENED, mount, SERVER_IMAGE, *command) as container:
            yield container
    finally:
        engine.run("rmi", "--force", MODELS_IMAGE)


def test_a_hardened_container_answers_for_both_backends_and_stops_when_asked(engine, container, digits):
    with Client(engine.address(container, 8001), timeout=10) as client:
        client.wait_until_ready(timeout=120)
        found = client.model("digits")(digits["images"]).array.argmax(axis=1)
        assert np.mean(found == digits["labels"]) > 0.95
        assert client.model("double")(np.float32([[1, 2]])).array.tolist() == [[2, 4]]
    assert engine.run("exec", container, "touch", "/opt/file", check=False).stderr.count("Read-only file system")
    assert engine.out("exec", container, "id", "-u") == "1000"
    engine.run("stop", "--time", "40", container)
    assert engine.out("inspect", "--format", "{{.State.ExitCode}}", container) == "0"


def test_the_image_brings_no_way_to_build_or_to_become_root(engine):
    settings = json.loads(engine.out("image", "inspect", SERVER_IMAGE))[0]["Config"]
    assert settings["User"] == "1000:1000"
    found = engine.out(
        "run", "--rm", "--user=0", SERVER_IMAGE, "sh", "-c", f"{FIND_SETUID}; command -v pip cc git || true"
    )
    assert found == ""


def test_what_the_image_holds_is_listed_with_its_size(engine):
    script = ROOT / "deploy/images/bill_of_materials.py"
    command = [sys.executable, "-I", "-S", script, "--engine", "podman", SERVER_IMAGE]
    text = subprocess.run(command, check=True, capture_output=True, text=True, env=engine.environment).stdout
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    image = json.loads(engine.out("image", "inspect", SERVER_IMAGE))[0]
    assert document["metadata"]["component"]["properties"][0]["value"] == str(image["Size"])
    listed = {component["name"]: component for component in document["components"]}
    assert "pip" not in listed
    assert listed["libpython3.11:amd64"]["purl"].startswith("pkg:deb/debian/libpython3.11@3.11")
    locked = re.findall(r"^(nvidia-pytriton|onnxruntime|openvino)==(\S+)", LOCK.read_text(), re.MULTILINE)
    assert {name: listed[name]["version"] for name, _ in locked} == dict(locked)
