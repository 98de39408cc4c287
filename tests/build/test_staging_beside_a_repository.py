"""What lies beside a repository under the name of the staging folder is not removed unless a builder made it.

The builds here start no Triton: there are many of them, and what is tried on one is the subject of test_trial.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess

import pytest
from build_models import ADD, litter, snapshot, write

from plansmith_build import BuildOptions, build
from plansmith_build.errors import PublishFailed
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_build.repository.staging import staging_folder

BASE = ".model_repository.plansmith"


@pytest.fixture
def two_versions(tmp_path, repository):
    adder = write(tmp_path / "adder.onnx", ADD)
    for _ in range(2):
        build(adder, BuildOptions(repository=repository, serve=False))
    # The first version's model folder, which the second replaced.
    shutil.rmtree(tmp_path / BASE)
    return repository


@pytest.fixture
def precious(tmp_path):
    """A folder of folders that nobody wants to lose, one of them named and made like a builder's, but not marked."""
    folder = tmp_path / "precious"
    for name in ("photos", ".git", "build-abcdefgh/work", "empty"):
        (folder / name).mkdir(parents=True)
        if name != "empty":
            (folder / name / "a").write_text("precious")
    return folder


COMMANDS = {
    "build": lambda tmp_path: ("build", tmp_path / "adder.onnx", "--no-serve"),
    "rollback": lambda _: ("rollback", "adder", "1"),
    "prune": lambda _: ("prune", "adder", "--keep", "1"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("beside", ["the repository", "what --staging names"])
def test_a_link_is_refused_and_what_it_leads_to_is_not_touched(plansmith, two_versions, precious, command, beside):
    place = two_versions.parent if beside == "the repository" else precious.with_name("scratch")
    place.mkdir(exist_ok=True)
    (place / BASE).symlink_to(precious)
    before = snapshot(precious), snapshot(two_versions)
    words = () if beside == "the repository" else ("--staging", place)
    done = plansmith(*COMMANDS[command](precious.parent), "--repository", two_versions, *words, expect=1)
    assert f"{place / BASE}, where versions are made before they are published, is a link or a file" in done.stderr
    assert "--staging" in done.stderr
    assert (snapshot(precious), snapshot(two_versions)) == before
    assert (place / BASE).is_symlink()


@pytest.mark.parametrize("kind", ["dangling link", "link to a link", "file"])
def test_what_is_not_a_folder_is_refused(two_versions, precious, tmp_path, kind):
    base = tmp_path / BASE
    if kind == "dangling link":
        base.symlink_to(tmp_path / "nowhere")
    elif kind == "link to a link":
        (tmp_path / "link").symlink_to(precious)
        base.symlink_to("link")
    else:
        base.write_text("precious")
    before = snapshot(tmp_path)
    with pytest.raises(PublishFailed, match="is a link or a file: remove it"), staging_folder(two_versions):
        pass
    assert snapshot(tmp_path) == before
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_what_no_builder_marked_survives_in_a_real_folder(plansmith, two_versions, precious, tmp_path, command):
    shutil.copytree(precious, tmp_path / BASE)
    (tmp_path / BASE / "file").write_text("precious")
    (tmp_path / BASE / "build-aaaaaaaa").symlink_to(precious)
    before = snapshot(tmp_path / BASE), snapshot(precious)
    plansmith(*COMMANDS[command](tmp_path), "--repository", two_versions)
    for replaced in (tmp_path / BASE).glob("build-*/replaced"):
        shutil.rmtree(replaced.parent)
    assert (snapshot(tmp_path / BASE), snapshot(precious)) == before


def test_only_what_a_builder_made_is_removed_from_a_folder_that_it_marked(two_versions, precious, tmp_path):
    with staging_folder(two_versions) as stage:
        (stage / "model.onnx").write_text("half")
        (stage / "out").symlink_to(precious)
        mine = tmp_path / "mine"
        shutil.copytree(stage.parent, mine, symlinks=True)
    (tmp_path / BASE).mkdir()
    swept, kept, linked = (tmp_path / BASE / f"build-{letter * 8}" for letter in "abc")
    for leftover in (swept, kept, linked):
        shutil.copytree(mine, leftover, symlinks=True)
    (kept / "photos").mkdir()
    shutil.rmtree(linked / "work")
    (linked / "work").symlink_to(precious)
    before = snapshot(precious)
    with staging_folder(two_versions):
        assert not swept.exists()
    assert (kept / "photos").is_dir()
    assert (linked / "work").is_symlink()
    assert snapshot(precious) == before


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_a_file_system_that_locks_no_folders_is_said_and_nothing_is_made(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    # NFS says EBADF of a folder, which nobody can open for writing.
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(PublishFailed, match=r"cannot lock folders .*local disk and copy the model folder"):
        build(write(tmp_path / "adder.onnx", ADD), BuildOptions(repository=tmp_path / "repository", serve=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adder.onnx"]


def test_what_a_living_builder_has_is_not_swept(two_versions):
    with staging_folder(two_versions) as first:
        (first / "model.onnx").write_text("half")
        with staging_folder(two_versions):
            assert (first / "model.onnx").read_text() == "half"
        assert (first / "model.onnx").read_text() == "half"
    assert not litter(two_versions)


def test_a_leftover_too_deep_to_remove_does_not_keep_others_from_building(two_versions, tmp_path):
    with staging_folder(two_versions) as stage:
        shutil.copytree(stage.parent, tmp_path / "leftover")
    descriptor = os.open(tmp_path / "leftover" / "work", os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("a", dir_fd=descriptor)
        inner = os.open("a", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    (tmp_path / BASE).mkdir()
    (tmp_path / "leftover").rename(tmp_path / BASE / "build-abcdefgh")
    try:
        assert build(tmp_path / "adder.onnx", BuildOptions(repository=two_versions, serve=False)).version == 3
    finally:
        # Too deep for pytest as well.
        subprocess.run(["rm", "-r", tmp_path / BASE], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
@pytest.mark.parametrize("mode", [0o777, 0o755])
def test_another_users_folder_is_refused(two_versions, precious, tmp_path, mode):
    tmp_path.chmod(0o1777)
    shutil.copytree(precious, tmp_path / BASE)
    (tmp_path / BASE).chmod(mode)
    os.chown(tmp_path / BASE, 12345, 12345)
    before = snapshot(tmp_path / BASE)
    with pytest.raises(PublishFailed, match="belongs to another user: remove it, or name another folder"):
        build(tmp_path / "adder.onnx", BuildOptions(repository=two_versions, serve=False))
    assert snapshot(tmp_path / BASE) == before
    assert ModelRepository.at(two_versions).existing_model("adder").versions == (1, 2)
    (tmp_path / "scratch").mkdir()
    build(tmp_path / "adder.onnx", BuildOptions(repository=two_versions, staging=tmp_path / "scratch", serve=False))
    assert not litter(tmp_path / "scratch" / two_versions.name)
