"""Each distribution installs by itself with plain pip from a checkout, and works as built, not as it lies there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "model_repository" / "digits"


@pytest.fixture(scope="module")
def clean_environment(tmp_path_factory):
    """Makes a virtual environment with one member and what it depends on; gives its `bin`."""

    def make(member: str) -> Path:
        folder = tmp_path_factory.mktemp("environment")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        install(folder / "bin", member)
        return folder / "bin"

    return make


def install(environment: Path, member: str) -> None:
    command = [environment / "pip", "install", "--quiet", "--disable-pip-version-check", f"{ROOT}/{member}"]
    subprocess.run(command, check=True)


def installed(environment: Path) -> set[str]:
    listing = subprocess.run(
        [environment / "pip", "list", "--format=json", "--disable-pip-version-check"],
        check=True,
        capture_output=True,
        text=True,
    )
    # Older versions of pip show some names as their wheels spell them.
    return {package["name"].replace("_", "-") for package in json.loads(listing.stdout)}


def test_the_sdk_alone_is_light_and_says_what_its_command_needs(clean_environment, committed_server):
    environment = clean_environment("client")
    packages = installed(environment) - {"pip", "setuptools"}
    # tritonclient brings packaging, ml-dtypes, python-rapidjson and urllib3; grpcio brings typing-extensions.
    assert packages == {
        *("plansmith-client", "tritonclient", "numpy", "grpcio", "protobuf", "httptools"),
        *("packaging", "ml-dtypes", "python-rapidjson", "typing-extensions", "urllib3"),
    }
    program = """
import sys, numpy, plansmith_client
print(plansmith_client.__file__)
for url in sys.argv[1:]:
    with plansmith_client.Client(url) as client:
        print(client.model("digits")(numpy.zeros((2, 8, 8), numpy.float32)).array.shape)
for name in ("telemetry", "metrics"):
    try:
        __import__(f"plansmith_client.{name}")
    except ImportError as error:
        print(error)
"""
    asked = subprocess.run(
        [environment / "python", "-W", "error", "-c", program, committed_server.grpc_url, committed_server.http_url],
        check=True,
        capture_output=True,
        text=True,
    )
    where, *shapes, tracing, metrics = asked.stdout.splitlines()
    assert "site-packages" in where
    assert shapes == ["(2, 10)", "(2, 10)"]
    # What is missing is named with the extra that brings it.
    for sentence, extra in ((tracing, "opentelemetry"), (metrics, "prometheus")):
        assert f"pip install 'plansmith-client[{extra}]'" in sentence
    command = subprocess.run([environment / "plansmith", "models"], check=False, capture_output=True, text=True)
    assert command.returncode == 2
    assert command.stderr == "Error: the plansmith command needs typer and rich: pip install 'plansmith-client[cli]'\n"

    install(environment, "client[cli]")
    command = subprocess.run(
        [environment / "plansmith", "serve", "--port", "1"], check=False, capture_output=True, text=True
    )
    assert command.returncode == 2
    assert command.stderr == "Error: `plansmith serve` is part of plansmith-server: pip install plansmith-server\n"


@pytest.mark.timeout(600)
def test_one_install_brings_the_whole_way_from_a_file_to_an_answer(clean_environment, tmp_path, held_out_file):
    environment = clean_environment("perf")
    assert installed(environment) > {"plansmith-build", "plansmith-client", "plansmith-perf", "plansmith-server"}
    model = next(DIGITS.glob("*/model.onnx"))
    subprocess.run(
        [environment / "plansmith", "build", model, "--name", "digits"], check=True, capture_output=True, cwd=tmp_path
    )
    program = f"""
import pathlib, numpy
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer
options = ServerOptions(repository=pathlib.Path("model_repository"), http_port=0, grpc_port=0, metrics_port=0)
held_out = numpy.load({str(held_out_file)!r})
with TritonServer(options) as server, Client(server.grpc_url) as client:
    answer = client.model("digits")(held_out["images"][:32])["probabilities"]
print((answer.argmax(axis=1) == held_out["labels"][:32]).mean())
"""
    answered = subprocess.run(
        [environment / "python", "-c", program], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert float(answered.stdout.splitlines()[-1]) > 0.9


def test_released_wheels_name_their_siblings_by_the_version_that_all_share(tmp_path):
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--wheel-dir", tmp_path, ROOT / "build_engines", ROOT / "perf"),
        ],
        check=True,
        env={**os.environ, "PLANSMITH_RELEASE": "1"},
    )
    wheels = sorted(tmp_path.glob("*.whl"))
    assert len(wheels) == 2
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = message_from_bytes(archive.read(name))
        siblings = [line for line in metadata.get_all("Requires-Dist") if line.startswith("plansmith-")]
        assert siblings
        assert all(line.endswith(f"=={metadata['Version']}") for line in siblings), siblings
