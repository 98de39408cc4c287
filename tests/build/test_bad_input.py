"""A build that cannot be done ends in one clear sentence, the right exit code, and the repository exactly as before."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from build_models import ADD, HEADER, snapshot, write, write_external

from plansmith_build import BuildOptions, build
from plansmith_build.datasets import InvalidData
from plansmith_build.errors import InvalidOption, UnsafeExternalData
from plansmith_build.reading.external_data import read_external_data
from plansmith_build.search.search import SearchOptions


@pytest.fixture
def filled(tmp_path, repository, plansmith):
    """A repository in a folder of its own, with a model in it; gives the folder that must not change."""
    plansmith("build", write(tmp_path / "adder.onnx", ADD), "--repository", repository, "--no-serve")
    return repository


def refused(plansmith, repository: Path, model: Path, *words: str | Path, code: int = 2) -> str:
    """Build over the model that is there; gives the sentence of the refusal."""
    before = snapshot(repository)
    done = plansmith("build", model, "--repository", repository, "--name", "adder", *words, expect=code)
    assert snapshot(repository) == before
    assert not list(repository.parent.glob(".*.plansmith"))
    sentences = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(sentences) == 1, done.stderr
    assert done.stdout == ""
    return sentences[0]


def broken_files(folder: Path) -> dict[str, tuple[Path, str]]:
    good = write(folder / "good.onnx", ADD).read_bytes()
    (folder / "text.onnx").write_text("this is no model")
    (folder / "empty.onnx").touch()
    (folder / "truncated.onnx").write_bytes(good[: len(good) // 2])
    shutil.make_archive(str(folder / "torch"), "zip", folder, "good.onnx")
    (folder / "torch.zip").rename(folder / "torch.onnx")
    model = onnx.parser.parse_model(f"{HEADER} {ADD}")
    model.graph.node.append(onnx.helper.make_node("Add", ["a", "b"], ["sum"], name="again"))
    (folder / "duplicate.onnx").write_bytes(model.SerializeToString())
    own = '<ir_version: 8, opset_import: ["" : 17, "acme" : 1]>'
    write(folder / "own.onnx", "m (float[N] x) => (float[N] y) { y = acme.Secret (x) }", header=own)
    write(folder / "future.onnx", "m (float[N] x) => (float[N] y) { y = Imagined (x) }")
    write(folder / "sequence.onnx", "m (float[N] x) => (seq(float[N]) y) { y = SequenceConstruct (x) }")
    return {
        "no such file": (folder / "nosuch.onnx", "does not exist: name an .onnx file, or export the model"),
        "a folder": (folder, "is a folder"),
        "a name that no file can have": (folder / f"{'long' * 100}.onnx", "File name too long"),
        "not a model": (folder / "text.onnx", "is not an ONNX file: export the model to ONNX first (plansmith export)"),
        "an empty file": (folder / "empty.onnx", "is empty"),
        "truncated": (folder / "truncated.onnx", "truncated"),
        "a PyTorch archive": (folder / "torch.onnx", "export the model to ONNX first"),
        "a name given twice": (folder / "duplicate.onnx", "sum"),
        "an operator of another domain": (folder / "own.onnx", "'Secret' of the domain 'acme'"),
        "an operator that is none": (folder / "future.onnx", "'Imagined'"),
        "a sequence as output": (folder / "sequence.onnx", "output 'y'"),
    }


def test_a_file_that_is_no_model_changes_nothing(plansmith, filled, tmp_path):
    (tmp_path / "broken").mkdir()
    for what, (path, reason) in broken_files(tmp_path / "broken").items():
        assert reason in refused(plansmith, filled, path), what


def test_external_data_outside_the_models_folder_is_never_read(plansmith, filled, tmp_path):
    inside = tmp_path / "hostile"
    inside.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(64 * 3 * 4))
    (inside / "link.bin").symlink_to(tmp_path / "secret.bin")
    os.link(tmp_path / "secret.bin", inside / "hard.bin")
    (inside / "folder").symlink_to(tmp_path)
    places = {
        "missing.bin": "does not exist",
        "../secret.bin": "leaves the model's folder",
        "sub/../../secret.bin": "leaves the model's folder",
        str(tmp_path / "secret.bin"): "absolute path",
        "link.bin": "symbolic link",
        "folder/secret.bin": "symbolic link",
        "hard.bin": "hard links",
    }
    for location, reason in places.items():
        assert reason in refused(plansmith, filled, write_external(inside / "model.onnx", location)), location


def test_a_folder_that_becomes_a_link_while_weights_are_looked_for_leads_nowhere(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/weights.bin").write_bytes(b"secret !" * (64 * 3 // 2))
    inside = tmp_path / "hostile"
    (inside / "sub").mkdir(parents=True)
    (inside / "sub/weights.bin").write_bytes(bytes(64 * 3 * 4))
    (inside / "link").symlink_to(tmp_path / "precious")
    model = onnx.load(write_external(inside / "model.onnx", "sub/weights.bin"), load_external_data=False)
    swap = (
        "import sys\nfrom pathlib import Path\nfrom plansmith_build.repository.filesystem import rename_exchange\n"
        "print(flush=True)\nwhile True: rename_exchange(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    words = [sys.executable, "-c", swap, inside / "sub", inside / "link"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as swapping:
        swapping.stdout.readline()
        reads = 0
        try:
            for _ in range(3000):
                read = onnx.ModelProto()
                read.CopyFrom(model)
                with contextlib.suppress(UnsafeExternalData):
                    read_external_data(read, inside)
                    reads += 1
                assert b"secret" not in read.graph.initializer[0].raw_data
            assert swapping.poll() is None
            assert 0 < reads < 3000
        finally:
            swapping.kill()


def test_external_data_that_is_cut_off_is_refused(plansmith, filled, tmp_path):
    model = write_external(tmp_path / "model.onnx")
    os.truncate(tmp_path / "weights.bin", 100)
    assert "the file ends at byte 100" in refused(plansmith, filled, model)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a/b", "slash"), ("../adder", "slash"), (".hidden", "begins with a dot"), ("", "empty"), ("a b", "characters")],
)
def test_a_name_that_is_none_is_refused(plansmith, filled, tmp_path, name, reason):
    assert reason in refused(plansmith, filled, tmp_path / "adder.onnx", "--name", name)


def test_a_repository_that_is_a_file_is_refused_and_kept(plansmith, tmp_path):
    model = write(tmp_path / "adder.onnx", ADD)
    (tmp_path / "repository").write_text("precious")
    done = plansmith("build", model, "--repository", tmp_path / "repository", expect=2)
    assert "is a file" in done.stderr
    assert (tmp_path / "repository").read_text() == "precious"


def test_labels_that_do_not_fit_are_refused(plansmith, filled, tmp_path):
    (tmp_path / "labels.txt").write_text("only\ntwo\n")
    assert "labels" in refused(plansmith, filled, tmp_path / "adder.onnx", "--labels", tmp_path / "labels.txt")
    assert "nosuch.txt" in refused(plansmith, filled, tmp_path / "adder.onnx", "--labels", tmp_path / "nosuch.txt")


def test_data_is_held_against_the_model_before_anything_is_run(tmp_path, repository):
    adder = write(tmp_path / "adder.onnx", ADD)
    rows = np.ones((8, 4), np.float32)
    np.savez(tmp_path / "good.npz", a=rows, b=rows)
    content = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "damaged.npz").write_bytes(content.replace(rows.tobytes(), rows.tobytes()[::-1], 1))
    np.savez(tmp_path / "other.npz", a=rows, c=rows)
    np.savez(tmp_path / "wide.npz", a=rows, b=np.ones((8, 5), np.float32))
    np.savez(tmp_path / "rows.npz", x=np.ones((8, 5), np.float32))
    np.savez(tmp_path / "labels.npz", a=rows, b=rows, labels=np.full(8, 4))
    fixed = write(tmp_path / "fixed.onnx", "m (float[80, 40] x) => (float[80, 40] y) { y = Relu (x) }")
    for model, data, validation, said in (
        (adder, "damaged.npz", None, "is not a whole .npz file"),
        (adder, "other.npz", None, "'c'"),
        (adder, "labels.npz", None, "there are 4 classes, 0 to 3"),
        (adder, "good.npz", "wide.npz", "FP32 [N, 4]"),
        (fixed, "rows.npz", None, "FP32 [N, 80, 40]"),
    ):
        search = SearchOptions(str(tmp_path / data), validation_data=str(tmp_path / validation) if validation else None)
        steps = []
        with pytest.raises(InvalidData, match=re.escape(said)):
            build(model, BuildOptions(repository, search=search, serve=False), steps.append)
        assert {step.title for step in steps} == {f"Reading {model}"}
    (repository / "adder").mkdir()
    (repository / "adder/labels.txt").write_bytes("grün\n".encode("latin-1"))
    search = SearchOptions(str(tmp_path / "good.npz"))
    with pytest.raises(InvalidOption, match=r"the model's labels.txt is not UTF-8 text"):
        build(adder, BuildOptions(repository, search=search, serve=False))


def test_a_staging_folder_in_the_repository_is_refused(plansmith, filled, tmp_path):
    said = refused(plansmith, filled, tmp_path / "adder.onnx", "--staging", filled / "staging")
    assert "outside" in said


def test_a_full_disk_leaves_the_repository_as_it_was(filled, tmp_path):
    model = write_external(tmp_path / "large.onnx", rows=100_000)
    before = snapshot(filled)

    def small_files_only():
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = subprocess.run(
        [
            Path(sys.executable).with_name("plansmith"),
            "build",
            model,
            "--repository",
            filled,
            "--name",
            "adder",
            "--replace",
        ],
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=small_files_only,
    )
    assert done.returncode == 1, done.stderr
    assert "free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert snapshot(filled) == before
    assert not list(filled.parent.glob(".*.plansmith"))


@pytest.mark.parametrize("repository_is", ["read-only", "writable"])
def test_a_read_only_file_system_is_said_with_the_way_out(filled, repository_is):
    place = filled.parent
    mount = 'mount --bind "$1" "$1"; mount --bind "$2" "$2"; mount -o remount,ro,bind "$1"'
    if repository_is == "read-only":
        mount += '; mount -o remount,ro,bind "$2"'
    apart = ["unshare", "--map-root-user", "--mount", "sh", "-ec", f'{mount}; shift 2; exec "$@"', "sh", place, filled]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system does not let users mount anything: unshare --map-root-user --mount")
    command = [Path(sys.executable).with_name("plansmith"), "prune", "adder", "--keep", "1", "--repository", filled]
    done = subprocess.run([*apart, *command], check=False, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "that file system is read-only: " in done.stderr
    assert f"beside it, in {place}" in done.stderr
    assert ("mount the folder above the repository" in done.stderr) == (repository_is == "writable")
    assert "--staging" not in done.stderr


def test_a_repository_that_may_not_be_written_is_left_as_it_was(filled, tmp_path):
    before = snapshot(filled)
    # Root may write anywhere: without these two capabilities, permissions count for it as for everyone else.
    powerless = (
        ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"] if not os.getuid() else []
    )
    place = filled.parent
    place.chmod(0o555)
    filled.chmod(0o555)
    try:
        done = subprocess.run(
            [
                *powerless,
                *(Path(sys.executable).with_name("plansmith"), "build", tmp_path / "adder.onnx"),
                *("--repository", filled, "--name", "adder"),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
    finally:
        filled.chmod(0o755)
        place.chmod(0o755)
    assert done.returncode == 1, done.stderr
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
    assert snapshot(filled) == before
