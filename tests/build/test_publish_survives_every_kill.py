"""A builder is killed before each single thing that it does to the file system, one after the other.

The builds here start no Triton: there are many of them, and what is tried on one is the subject of test_trial.
"""

from __future__ import annotations

import subprocess
import sys

import onnxruntime
import pytest
from build_models import ADD, litter, write

from plansmith_build import BuildOptions, build
from plansmith_build.repository.model_repository import ModelRepository

# Forks a builder that kills itself at the n-th audited operation (https://docs.python.org/3/library/audit_events.html)
# on a path below the given folder, or on a part of its staging folder, for n = 0, 1, 2, ... until a builder gets
# through; and so on until 200 were killed. After each, what a server would see must be whole. The model was made
# before: staging and publishing are what counts.
PROGRAM = """
import os, shutil, signal, sys
from pathlib import Path

from plansmith_build.repository import filesystem
from plansmith_build.repository import publishing
from plansmith_build.repository.config import config_from_text
from plansmith_build.repository.inspection import inspect_model
from plansmith_build.repository.manifest import read_manifest
from plansmith_build.repository.publishing import Release, publish
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_build.repository.staging import staging_folder

folder, exchange = Path(sys.argv[1]), sys.argv[2] == "exchange"
repository = folder / "model_repository"
manifest = read_manifest(repository / "adder/1/manifest.json")
config = (repository / "adder/config.pbtxt").read_text()
OPERATIONS = ("open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.chmod", "fcntl.flock")

def kill_before(number):
    seen = -1
    def hook(event, arguments):
        nonlocal seen
        inside = ("work", "replaced", ".plansmith-build")
        if event in OPERATIONS and (
            event == "fcntl.flock" or str(folder) in str(arguments) or arguments[0] in inside
        ):
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

def unsupported(*_):
    raise filesystem.ExchangeUnsupported

def publish_one():
    with staging_folder(repository) as staging:
        shutil.copy(folder / "adder.onnx", staging / "model.onnx")
        describe = lambda version, files: manifest.model_copy(update={"version": version, "files": files})
        configs = {"config.pbtxt": config, "configs/cpu.pbtxt": config}
        release = Release((staging / "model.onnx",), None, lambda _: configs, describe)
        publish(ModelRepository.at(repository), "adder", release, staging=staging)

def check(number):
    model = ModelRepository.at(repository).existing_model("adder")
    assert [entry.name for entry in repository.iterdir()] == ["adder"], number
    for path in model.configurations.values():
        config_from_text(path.read_text())
    for version in model.versions:
        report = inspect_model(model, version)
        assert report.manifest is not None, (number, version)
        # What belongs to the model and not to a version is checked where it changes in the same step.
        files = [file for file in report.files if exchange or file.path.startswith(f"{version}/")]
        assert all(file.unchanged is not False for file in files), (number, version)
        assert not [path for path in report.missing if path.startswith(f"{version}/")], (number, version)

killed = 0
number = 0
while killed < 200:
    child = os.fork()
    if not child:
        kill_before(number)
        if not exchange:
            publishing.rename_exchange = unsupported
        publish_one()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    check(number)
    if status == 0:
        number = 0
        continue
    assert os.WTERMSIG(status) == signal.SIGKILL, (number, status)
    killed += 1
    number += 1
print(killed)
"""


@pytest.mark.parametrize("way", ["exchange", "in order"])
def test_a_builder_killed_before_any_of_its_operations_leaves_a_whole_repository(way, repository, tmp_path):
    adder = write(tmp_path / "adder.onnx", ADD)
    build(adder, BuildOptions(repository=repository, serve=False))
    (repository / "adder" / "notes.md").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path, way], check=False, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 200
    model = ModelRepository.at(repository).existing_model("adder")
    for version in model.versions:
        onnxruntime.InferenceSession(model.path / str(version) / "model.onnx", providers=["CPUExecutionProvider"])
    assert (repository / "adder" / "notes.md").read_text() == "mine"
    build(adder, BuildOptions(repository=repository, serve=False))
    assert not litter(repository), "the next builder left litter"
