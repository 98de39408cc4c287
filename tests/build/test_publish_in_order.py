"""Where a file system cannot exchange two folders, every state between the old version and the new one is right.

The builds here start no Triton: there are many of them, and what is tried on one is the subject of test_trial.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from build_models import ADD, HEADER, no_exchange, snapshot, write

from plansmith_build import BuildOptions, build
from plansmith_build.errors import PublishFailed
from plansmith_build.repository import publishing
from plansmith_build.repository.config import config_from_text
from plansmith_build.repository.inspection import inspect_file

# Another input name, another output: a server with the old configuration could not load this version, nor the reverse.
OTHER = "other (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }"


@pytest.fixture(autouse=True)
def without_exchange(monkeypatch):
    monkeypatch.setattr(publishing, "rename_exchange", no_exchange)


@pytest.fixture
def adder(tmp_path, repository):
    """The folder of a model with one version."""
    build(write(tmp_path / "model.onnx", ADD), BuildOptions(repository=repository, name="model", serve=False))
    return repository / "model"


def rebuild(tmp_path: Path, repository: Path):
    return build(
        write(tmp_path / "model.onnx", OTHER),
        BuildOptions(repository=repository, name="model", replace=True, serve=False),
    )


def served(model: Path) -> dict[int, bool]:
    """The versions that a server would load from the folder, and whether the configuration fits their files."""
    config = config_from_text((model / "config.pbtxt").read_text())
    versions = sorted(int(entry.name) for entry in model.iterdir() if entry.name.isdecimal())
    policy = config.version_policy
    match policy.WhichOneof("policy_choice"):
        case "specific":
            chosen = [version for version in versions if version in policy.specific.versions]
        case "all":
            chosen = versions
        case _:
            chosen = versions[-(policy.latest.num_versions or 1) :]
    declared = [tensor.name for tensor in config.input]
    return {
        version: [tensor.name for tensor in inspect_file(model / str(version) / "model.onnx").inputs] == declared
        for version in chosen
    }


def test_a_server_that_looks_between_two_steps_finds_a_version_and_the_configuration_that_fits_it(
    adder, repository, tmp_path, monkeypatch
):
    states = []

    def watched(step):
        def run(source, target):
            step(source, target)
            if Path(target).is_relative_to(adder):
                states.append(served(adder))

        return run

    monkeypatch.setattr(os, "replace", watched(os.replace))
    monkeypatch.setattr(os, "rename", watched(os.rename))
    assert rebuild(tmp_path, repository).version == 2
    assert len(states) >= 4
    assert states[0] == {1: True}
    assert states[-1] == {2: True}
    assert all(state in ({1: True}, {2: True}) for state in states)


@pytest.mark.parametrize("failing", range(5), ids=["note", "pin", "version", "configuration", "history"])
def test_a_step_that_fails_leaves_the_old_version_as_it_was(adder, repository, tmp_path, monkeypatch, failing):
    before = snapshot(repository)
    real = {name: getattr(os, name) for name in ("replace", "rename")}
    steps = iter(range(100))

    def full(name):
        def run(source, target):
            if Path(target).is_relative_to(adder) and next(steps) == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            real[name](source, target)

        return run

    for name in real:
        monkeypatch.setattr(os, name, full(name))
    with pytest.raises(PublishFailed, match="free some space"):
        rebuild(tmp_path, repository)
    assert snapshot(repository) == before


def test_a_step_that_cannot_be_undone_keeps_no_other_from_being_undone(adder, repository, tmp_path, monkeypatch):
    before = snapshot(repository)
    real = {name: getattr(os, name) for name in ("replace", "rename")}
    moved = []

    def full(name):
        def run(source, target):
            # Once the version is there, neither configurations nor the version itself can be moved any more, for once.
            if moved and len(moved) < 3:
                moved.append(target)
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(target))
            real[name](source, target)
            if Path(target) == adder / "2":
                moved.append(target)

        return run

    for name in real:
        monkeypatch.setattr(os, name, full(name))
    with pytest.raises(PublishFailed, match=r"Input/output error.*not everything could be moved back.*verify"):
        rebuild(tmp_path, repository)
    after = snapshot(repository)
    assert {name: content for name, content in after.items() if not name.startswith("model/2")} == before


@pytest.mark.parametrize(
    ("policy", "pinned"),
    [("version_policy { all { } }", {1, 2}), ("version_policy { latest { num_versions: 2 } }", {1, 2}), ("", {2})],
)
def test_while_a_version_is_moved_in_the_server_keeps_what_it_has(adder, tmp_path, monkeypatch, policy, pinned):
    repository = adder.parent
    build(tmp_path / "model.onnx", BuildOptions(repository=repository, name="model", serve=False))
    config = adder / "config.pbtxt"
    config.write_text(config.read_text() + policy)
    seen = []
    rename = os.rename

    def watched(source, target):
        rename(source, target)
        if Path(target) == adder / "3":
            seen.append(served(adder))

    monkeypatch.setattr(os, "rename", watched)
    assert rebuild(tmp_path, repository).version == 3
    assert seen == [dict.fromkeys(pinned, True)]


def test_a_version_that_appears_meanwhile_stays_and_so_does_the_configuration(adder, repository, tmp_path, monkeypatch):
    before = snapshot(repository)
    replace = os.replace

    def intruding(source, target):
        replace(source, target)
        if Path(target) == adder / "config.pbtxt" and not (adder / "2").exists():
            (adder / "2").mkdir()
            (adder / "2" / "model.onnx").write_text("another's")

    monkeypatch.setattr(os, "replace", intruding)
    with pytest.raises(PublishFailed, match="not empty"):
        rebuild(tmp_path, repository)
    assert (adder / "2" / "model.onnx").read_text() == "another's"
    shutil.rmtree(adder / "2")
    assert snapshot(repository) == before


def test_what_is_renamed_into_the_model_is_on_the_disk_before(adder, repository, tmp_path, monkeypatch):
    synced, renamed = set(), []
    sync, replace = os.fsync, os.replace

    def syncing(descriptor):
        sync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def renaming(source, target):
        if Path(target).is_relative_to(adder):
            renamed.append(Path(source).stat().st_ino in synced)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", renaming)
    rebuild(tmp_path, repository)
    assert len(renamed) >= 3
    assert all(renamed)


def test_a_model_that_was_written_without_a_configuration_gets_one(repository, tmp_path):
    (repository / "model" / "1").mkdir(parents=True)
    write(repository / "model" / "1" / "model.onnx", ADD, header=HEADER)
    assert rebuild(tmp_path, repository).version == 2
    assert served(repository / "model") == {2: True}
    assert (repository / "model" / "1" / "model.onnx").exists()
