"""A version is in the repository whole or not at all, whoever else builds, and however a build ends.

The builds here start no Triton: there are many of them, and what is tried on one is the subject of test_trial.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnxruntime
import pytest
from build_models import ADD, litter, no_exchange, snapshot, write

from plansmith_build import BuildOptions, InvalidOption, build
from plansmith_build.repository import ordered_publishing, publishing
from plansmith_build.repository.config import config_from_text
from plansmith_build.repository.inspection import inspect_model
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_build.repository.pruning import prune

COMMAND = Path(sys.executable).with_name("plansmith")
BUILD = (COMMAND, "build", "--no-serve")


@pytest.fixture
def adder(tmp_path) -> Path:
    return write(tmp_path / "adder.onnx", ADD)


def assert_whole(repository: Path) -> int:
    """Every version of the adder loads, is what its manifest says, and there is no litter; gives how many there are."""
    assert sorted(path.name for path in repository.iterdir()) == ["adder"]
    model = ModelRepository.at(repository).existing_model("adder")
    config_from_text((model.path / "config.pbtxt").read_text())
    for version in model.versions:
        onnxruntime.InferenceSession(model.path / str(version) / "model.onnx", providers=["CPUExecutionProvider"])
        report = inspect_model(model, version)
        assert report.missing == ()
        assert all(file.unchanged is not False for file in report.files)
    assert model.versions == tuple(range(1, len(model.versions) + 1))
    return len(model.versions)


def test_version_numbers_only_grow_even_when_a_version_is_removed(adder, repository):
    for expected in (1, 2):
        assert build(adder, BuildOptions(repository=repository, serve=False)).version == expected
    for path in (repository / "adder" / "2").iterdir():
        path.unlink()
    (repository / "adder" / "2").rmdir()
    assert build(adder, BuildOptions(repository=repository, serve=False)).version == 3


def test_an_older_version_stays_the_same_file(adder, repository):
    first = build(adder, BuildOptions(repository=repository, serve=False)).path / "model.onnx"
    before = first.stat()
    build(adder, BuildOptions(repository=repository, serve=False))
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_a_user_put_into_the_model_folder_is_kept(adder, repository):
    build(adder, BuildOptions(repository=repository, serve=False))
    model = repository / "adder"
    (model / "configs").mkdir()
    (model / "configs" / "mine.pbtxt").write_text('name: "adder"')
    (model / "notes.md").write_text("mine")
    (model / "config.pbtxt").write_text('name: "adder" backend: "onnxruntime" max_batch_size: 3')
    result = build(adder, BuildOptions(repository=repository, serve=False))
    assert (model / "configs" / "mine.pbtxt").read_text() == 'name: "adder"'
    assert (model / "notes.md").read_text() == "mine"
    assert "max_batch_size: 3" in (model / "config.pbtxt.before-2").read_text()
    assert any("config.pbtxt.before-2" in note for note in result.notes)


def test_a_configuration_that_a_user_wrote_is_kept_where_there_are_no_hard_links(adder, repository, monkeypatch):
    build(adder, BuildOptions(repository=repository, serve=False))
    (repository / "adder/config.pbtxt").write_text('name: "adder" backend: "onnxruntime" max_batch_size: 3')

    def no_hard_links(*_, **__):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    # What vfat and many network file systems answer.
    monkeypatch.setattr(os, "link", no_hard_links)
    build(adder, BuildOptions(repository=repository, serve=False))
    assert "max_batch_size: 3" in (repository / "adder/config.pbtxt.before-2").read_text()
    assert assert_whole(repository) == 2


# Mounts a folder as the layer of an image, below an empty one, where nobody else sees it; then runs the command.
OVERLAY = 'mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$1" && shift 2 && exec "$@"'


def overlaid(layer: Path, above: Path, *words) -> subprocess.CompletedProcess[str]:
    command = ["unshare", "--mount", "sh", "-c", OVERLAY, "sh", layer, above, *words]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_a_model_in_the_layer_of_an_image_is_rebuilt_and_pruned(adder, repository, tmp_path):
    build(adder, BuildOptions(repository=repository, serve=False))
    for name in ("upper", "work"):
        (tmp_path / "above" / name).mkdir(parents=True)
    layer = repository.parent / "layer"
    layer.mkdir()
    repository.rename(layer / repository.name)
    try:
        possible = overlaid(layer, tmp_path / "above", "true")
    except FileNotFoundError as error:
        pytest.skip(f"no unshare: {error}")
    if possible.returncode:
        pytest.skip(f"no overlay can be mounted: {possible.stderr}")
    served = layer / repository.name
    steps = f"{COMMAND} build {adder} --repository {served} && {COMMAND} prune adder --keep 1 --repository {served}"
    done = overlaid(layer, tmp_path / "above", "sh", "-c", f"{steps} && ls {served}/adder && {COMMAND} verify {served}")
    assert done.returncode == 0, done.stderr
    assert "removed 1" in done.stdout
    assert "0 errors, 0 warnings" in done.stdout
    assert (served / "adder/1/model.onnx").exists()
    assert not (served / "adder/2").exists()


def test_files_can_be_read_by_the_user_of_a_container(adder, repository):
    old = os.umask(0o022)
    try:
        build(adder, BuildOptions(repository=repository, serve=False))
    finally:
        os.umask(old)
    for path in (repository / "adder").rglob("*"):
        assert path.stat().st_mode & 0o444 == 0o444, path
        assert not path.is_dir() or path.stat().st_mode & 0o111 == 0o111, path


def test_a_reader_sees_complete_models_only(adder, repository):
    build(adder, BuildOptions(repository=repository, serve=False))
    builder = subprocess.Popen(
        [*BUILD, adder, "--repository", repository],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    seen = set()
    while builder.poll() is None:
        versions = {entry.name for entry in (repository / "adder").iterdir() if entry.name.isdigit()}
        seen.add(frozenset(versions))
        for version in versions:
            assert (repository / "adder" / version / "model.onnx").exists()
            assert (repository / "adder" / version / "manifest.json").exists()
        assert (repository / "adder" / "config.pbtxt").exists()
    assert builder.returncode == 0
    assert seen <= {frozenset("1"), frozenset("12")}


def test_a_reader_of_the_folder_that_is_replaced_may_finish_until_the_next_version(adder, repository):
    build(adder, BuildOptions(repository=repository, serve=False))
    opened = os.open(repository / "adder", os.O_RDONLY)
    build(adder, BuildOptions(repository=repository, serve=False))
    assert {"1", "config.pbtxt"} < {entry.name for entry in os.scandir(opened)}
    build(adder, BuildOptions(repository=repository, serve=False))
    assert not list(os.scandir(opened))
    os.close(opened)
    assert prune(ModelRepository.at(repository), "adder", keep=3) == ()
    assert not list(repository.parent.glob(".*.plansmith"))


@pytest.fixture(params=["exchange", "in order"])
def way(request, monkeypatch):
    if request.param == "in order":
        monkeypatch.setattr(publishing, "rename_exchange", no_exchange)
    return request.param


def test_what_a_person_edits_while_a_version_is_published_is_kept(way, adder, repository, monkeypatch):
    build(adder, BuildOptions(repository=repository, serve=False))
    model = repository / "adder"
    (model / "configs").mkdir()
    (model / "configs/mine.pbtxt").write_text("# mine")
    (model / "labels.txt").write_text("old")
    sync = publishing.sync_tree

    def edited_meanwhile(folder):
        sync(folder)
        # As editors do: a new file in the place of the old one; and in the file itself.
        (model / "new").write_text("# edited")
        (model / "new").replace(model / "configs/mine.pbtxt")
        (model / "config.pbtxt").write_text("# edited in place")
        (model / "labels.txt").write_text("new")
        (model / "configs/second.pbtxt").write_text("# second")

    monkeypatch.setattr(publishing, "sync_tree", edited_meanwhile)
    notes = build(adder, BuildOptions(repository=repository, serve=False)).notes
    assert (model / "configs/mine.pbtxt").read_text() == "# edited"
    assert (model / "configs/second.pbtxt").read_text() == "# second"
    assert (model / "labels.txt").read_text() == "new"
    assert (model / "config.pbtxt.before-2").read_text() == "# edited in place"
    assert 'backend: "onnxruntime"' in (model / "config.pbtxt").read_text()
    assert "config.pbtxt was written by hand: the old text is kept as config.pbtxt.before-2" in notes
    assert sum("was changed while the version was published" in note for note in notes) == 2


def test_what_a_person_edits_in_the_moment_of_the_exchange_is_kept(adder, repository, monkeypatch):
    build(adder, BuildOptions(repository=repository, serve=False))
    model, exchange = repository / "adder", publishing.rename_exchange

    def edited_before(one, other):
        (model / "new").write_text("# edited")
        (model / "new").replace(model / "config.pbtxt")
        exchange(one, other)

    monkeypatch.setattr(publishing, "rename_exchange", edited_before)
    build(adder, BuildOptions(repository=repository, serve=False))
    assert (model / "config.pbtxt.before-2").read_text() == "# edited"
    assert sorted(path.name for path in model.glob("config.*")) == ["config.pbtxt", "config.pbtxt.before-2"]


@pytest.mark.parametrize("step", ["_copies", "_sync_folders"])
def test_what_a_person_edits_between_two_moves_is_kept(step, adder, repository, monkeypatch):
    build(adder, BuildOptions(repository=repository, serve=False))
    model, taken = repository / "adder", getattr(ordered_publishing, step)
    (model / "configs").mkdir()
    (model / "configs/mine.pbtxt").write_text("# mine")
    (model / "labels.txt").write_text("old")
    names = ("config.pbtxt", "configs/mine.pbtxt", "labels.txt")

    def edited_after(*arguments):
        done = taken(*arguments)
        monkeypatch.setattr(ordered_publishing, step, taken)
        for name in names:
            (model / name).write_text("# edited")
        return done

    monkeypatch.setattr(publishing, "rename_exchange", no_exchange)
    monkeypatch.setattr(ordered_publishing, step, edited_after)
    (model.parent.parent / "new.txt").write_text("a\nb\nc\nd\n")
    build(adder, BuildOptions(repository=repository, serve=False, labels=model.parent.parent / "new.txt"))
    assert {(model / f"{name}.before-2").read_text() for name in names} == {"# edited"}
    assert (model / "labels.txt").read_text() == "a\nb\nc\nd\n"
    assert 'backend: "onnxruntime"' in (model / "config.pbtxt").read_text()


def test_where_folders_cannot_be_exchanged_files_are_moved_in_a_safe_order(adder, repository, monkeypatch):
    monkeypatch.setattr(publishing, "rename_exchange", no_exchange)
    build(adder, BuildOptions(repository=repository, max_batch_size=4, serve=False))
    result = build(adder, BuildOptions(repository=repository, max_batch_size=16, serve=False))
    assert result.version == 2
    assert config_from_text((repository / "adder" / "config.pbtxt").read_text()).max_batch_size == 16
    assert assert_whole(repository) == 2


def test_eight_builders_at_once_publish_eight_whole_versions(adder, repository):
    builders = [
        subprocess.Popen(
            [*BUILD, adder, "--repository", repository, "--json"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _ in range(8)
    ]
    for builder in builders:
        _, error = builder.communicate(timeout=200)
        assert builder.returncode == 0, error.decode()
    assert assert_whole(repository) == 8
    build(adder, BuildOptions(repository=repository, serve=False))
    assert not litter(repository)


def test_a_builder_killed_at_any_instant_leaves_a_whole_repository_and_the_next_sweeps(
    adder, repository, tmp_path, monkeypatch
):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    build(adder, BuildOptions(repository=repository, serve=False))
    started = time.monotonic()
    subprocess.run([*BUILD, adder, "--repository", repository], check=True, capture_output=True)
    whole = time.monotonic() - started
    instants = random.Random(0)
    for _ in range(15):
        builder = subprocess.Popen(
            [*BUILD, adder, "--repository", repository],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        # Most of a build is loading libraries; what matters happens towards its end.
        time.sleep(whole * instants.uniform(0.5, 1.0))
        builder.kill()
        # Until the process that builds for it has ended with it, and closed its output.
        builder.communicate()
        assert_whole(repository)
        # What each has left has been removed by the next.
        assert len(list(temporary.glob("plansmith-*"))) <= 1
    before = assert_whole(repository)
    subprocess.run([*BUILD, adder, "--repository", repository], check=True, capture_output=True)
    assert assert_whole(repository) == before + 1
    assert not litter(repository)
    assert not list(temporary.glob("plansmith-*"))


def test_ctrl_c_leaves_nothing_half_done(adder, repository):
    build(adder, BuildOptions(repository=repository, serve=False))
    before = snapshot(repository)
    builder = subprocess.Popen(
        [*BUILD, adder, "--repository", repository],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # The first words of progress: the build has begun.
    builder.stderr.readline()
    builder.send_signal(signal.SIGINT)
    _, error = builder.communicate(timeout=60)
    assert "Traceback" not in error
    if builder.returncode:
        assert builder.returncode == 130
        assert snapshot(repository) == before
    assert not litter(repository)


def test_a_model_with_other_inputs_or_outputs_is_another_model_unless_it_is_said(
    adder, repository, tmp_path, plansmith
):
    build(adder, BuildOptions(repository=repository, serve=False))
    before = snapshot(repository)
    others = {
        "m (float[N, 4] a) => (float[N, 4] sum) { sum = Relu (a) }": "input 'b' is gone",
        "m (float[N, 4] a, float[N, 4] b, float[N, 4] c) => (float[N, 4] sum) { sum = Sum (a, b, c) }": "'c' is new",
        "m (double[N, 4] a, double[N, 4] b) => (double[N, 4] sum) { sum = Add (a, b) }": "'a' was FP32 and is FP64",
        "m (float[N, 5] a, float[N, 5] b) => (float[N, 5] sum) { sum = Add (a, b) }": r"was \[-1, 4\] and is \[-1, 5\]",
        "m (float[N, 4] a, float[N, 4] b) => (float[N, 4] total) { total = Add (a, b) }": "output 'sum' is gone",
    }
    for number, (text, change) in enumerate(others.items()):
        other = write(tmp_path / f"{number}.onnx", text)
        with pytest.raises(InvalidOption, match=f"{change}.*--name.*--replace"):
            build(other, BuildOptions(repository=repository, name="adder", serve=False))
        assert snapshot(repository) == before
    said = plansmith("build", other, "--name", "adder", "--repository", repository, "--no-serve", expect=2).stderr
    assert said.splitlines()[-1] == (
        f"Error: 'adder' version 1 in {repository} is another model to its clients: output 'sum' is gone; "
        "publish under another name with --name, or as the next version with --replace"
    )
    assert snapshot(repository) == before
    result = build(other, BuildOptions(repository=repository, name="adder", replace=True, serve=False))
    assert result.version == 2


def test_a_model_that_answers_more_or_takes_any_number_of_rows_is_the_next_version(repository, tmp_path):
    texts = [
        "m (float[1, 4] a) => (float[1, 4] sum) { sum = Relu (a) }",
        "m (float[N, 4] a) => (float[N, 4] sum, float[N, 4] b) { sum = Relu (a) b = Neg (a) }",
        "m (float[2, 4] a) => (float[2, 4] sum, float[2, 4] b) { sum = Relu (a) b = Neg (a) }",
    ]
    for number, text in enumerate(texts, start=1):
        path = write(tmp_path / "m.onnx", text)
        assert build(path, BuildOptions(repository=repository, serve=False)).version == number
