"""Old versions come back under a new number, or go; what is served is never touched.

The builds here start no Triton: there are many of them, and what is tried on one is the subject of test_trial.
"""

from __future__ import annotations

import errno
import json
import subprocess

import pytest
from build_models import ADD, no_exchange, snapshot, write
from stripes_models import write_data, write_stripes_classifier

from plansmith_build import BuildOptions, InvalidModel, InvalidOption, ModelNotFound, build
from plansmith_build.errors import PublishFailed
from plansmith_build.reading.regular_files import sha256_of
from plansmith_build.repository import pruning, publishing
from plansmith_build.repository.inspection import inspect_model
from plansmith_build.repository.manifest import read_manifest
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_build.repository.pruning import prune
from plansmith_build.repository.rollback import roll_back
from plansmith_build.repository.signed_versions import Signer


@pytest.fixture
def three_versions(tmp_path, repository):
    """The adder with batches of up to 1, 2 and 3 rows."""
    adder = write(tmp_path / "adder.onnx", ADD)
    for size in (1, 2, 3):
        build(adder, BuildOptions(repository=repository, max_batch_size=size, serve=False))
    return ModelRepository.at(repository)


def test_an_old_version_comes_back_with_its_configuration_under_a_new_number(three_versions, repository):
    published = roll_back(three_versions, "adder", 1)
    assert published.version == 4
    assert "max_batch_size: 1" in (repository / "adder/config.pbtxt").read_text()
    assert (repository / "adder/4/model.onnx").read_bytes() == (repository / "adder/1/model.onnx").read_bytes()
    manifest = read_manifest(repository / "adder/4/manifest.json")
    assert (manifest.version, manifest.rolled_back_from) == (4, 1)
    report = inspect_model(three_versions.existing_model("adder"), 4)
    assert report.missing == ()
    assert all(file.unchanged is not False for file in report.files)


def test_the_evidence_of_a_tuning_run_comes_back_with_its_version(three_versions, repository):
    path = repository / "adder/1/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tuning": {"trials": [1, 2]}}))
    roll_back(three_versions, "adder", 1)
    assert json.loads((repository / "adder/4/manifest.json").read_text())["tuning"] == {"trials": [1, 2]}


def test_named_configurations_and_labels_come_back_too(plansmith, repository, tmp_path):
    model = write_stripes_classifier(tmp_path / "stripes.onnx")
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\n")
    plansmith(
        *("build", model, "--repository", repository, "--labels", tmp_path / "labels.txt", "--no-serve"),
        *("--data", write_data(tmp_path / "data.npz"), "--target", "onnxruntime", "--precision", "int8"),
    )
    before = (repository / "stripes/configs/cpu.pbtxt").read_text()
    (tmp_path / "others.txt").write_text("e\nf\ng\nh\n")
    plansmith("build", model, "--repository", repository, "--labels", tmp_path / "others.txt", "--no-serve")
    assert not (repository / "stripes/configs").exists()
    done = plansmith("rollback", "stripes", "1", "--repository", repository, "--json")
    assert json.loads(done.stdout)["version"] == 3
    assert (repository / "stripes/configs/cpu.pbtxt").read_text() == before
    assert (repository / "stripes/labels.txt").read_text() == "a\nb\nc\nd\n"
    assert (repository / "stripes/3/model.int8.onnx").is_file()
    assert "0 errors, 0 warnings" in plansmith("verify", repository).stdout


@pytest.mark.parametrize("exchanged", [True, False])
def test_warm_up_samples_come_back_with_their_version_and_go_with_the_last_that_names_them(
    plansmith, repository, tmp_path, monkeypatch, exchanged
):
    if not exchanged:
        monkeypatch.setattr(publishing, "rename_exchange", no_exchange)
    adder = write(tmp_path / "adder.onnx", ADD)
    for seed in (1, 2, 3):
        build(adder, BuildOptions(repository=repository, warmup=2, seed=seed, serve=False))
    there = ModelRepository.at(repository)
    warmup = repository / "adder/warmup"
    before = {number: read_manifest(repository / f"adder/{number}/manifest.json") for number in (1, 2, 3)}
    samples = {
        number: {file.path.removeprefix("warmup/") for file in manifest.files if file.path.startswith("warmup/")}
        for number, manifest in before.items()
    }
    assert [len(names) for names in samples.values()] == [4, 4, 4]
    assert {path.name for path in warmup.iterdir()} == samples[1] | samples[2] | samples[3]
    roll_back(there, "adder", 1)
    assert all(name in (repository / "adder/config.pbtxt").read_text() for name in samples[1])
    assert "0 errors, 0 warnings" in plansmith("verify", repository).stdout
    assert inspect_model(there.existing_model("adder")).missing == ()
    assert prune(there, "adder", keep=1) == (1, 2, 3)
    assert {path.name for path in warmup.iterdir()} == samples[1]
    (warmup / min(samples[1])).write_bytes(b"changed")
    build(adder, BuildOptions(repository=repository, serve=False))
    with pytest.raises(InvalidModel, match="is not what was published as version 4"):
        roll_back(there, "adder", 4)


def test_what_cannot_come_back_is_refused_and_changes_nothing(three_versions, repository, plansmith):
    (repository / "adder/2/model.onnx").write_bytes(b"changed")
    before = snapshot(repository)
    with pytest.raises(InvalidOption, match="version 3 of 'adder' is the newest one"):
        roll_back(three_versions, "adder", 3)
    with pytest.raises(ModelNotFound, match="has no version 9; there are: 1, 2, 3"):
        roll_back(three_versions, "adder", 9)
    with pytest.raises(InvalidModel, match="is not what was published as version 2"):
        roll_back(three_versions, "adder", 2)
    assert "has no model 'nobody'" in plansmith("rollback", "nobody", "1", "--repository", repository, expect=2).stderr
    assert snapshot(repository) == before


def old_manifest(repository, version, **changes):
    """Make a manifest one of before they held configurations and labels."""
    path = repository / "adder" / str(version) / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "configs": {}, "labels": None, **changes}))


def test_a_version_whose_manifest_has_no_configuration_takes_the_present_one_only_if_it_fits(
    three_versions, repository, tmp_path
):
    old_manifest(repository, 1)
    with pytest.raises(InvalidModel, match="is not for version 1"):
        roll_back(three_versions, "adder", 1)
    build(tmp_path / "adder.onnx", BuildOptions(repository=repository, max_batch_size=1, serve=False))
    assert roll_back(three_versions, "adder", 1).version == 5


def test_files_in_folders_of_a_version_come_back_in_their_folders(three_versions, repository):
    model = repository / "adder/1/model.onnx"
    (model.parent / "weights").mkdir()
    (model.parent / "weights/model.onnx").write_bytes(b"weights")
    files = json.loads((repository / "adder/1/manifest.json").read_text())["files"]
    weights = {"path": "1/weights/model.onnx", "size": 7, "sha256": sha256_of(model.parent / "weights/model.onnx")}
    old_manifest(repository, 1, files=[*files, weights], configs={"config.pbtxt": 'backend: "onnxruntime"'})
    roll_back(three_versions, "adder", 1)
    assert (repository / "adder/4/weights/model.onnx").read_bytes() == b"weights"
    assert (repository / "adder/4/model.onnx").read_bytes() == model.read_bytes()


def test_a_manifest_cannot_bring_in_a_file_from_elsewhere(three_versions, repository, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    named = {"path": "1/../../../secret", "size": 6, "sha256": sha256_of(secret)}
    old_manifest(repository, 1, files=[named])
    with pytest.raises(InvalidModel, match="names a file outside of it"):
        roll_back(three_versions, "adder", 1)


def test_a_repository_that_is_not_there_is_not_made(plansmith, tmp_path):
    for words in (["adder"], ["--all"]):
        done = plansmith("prune", *words, "--keep", "1", "--repository", tmp_path / "nowhere", expect=2)
        assert "there is no repository" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_newest_versions_stay_and_their_numbers_are_never_given_again(
    three_versions, repository, plansmith, tmp_path
):
    done = plansmith("prune", "adder", "--keep", "2", "--repository", repository, "--dry-run")
    assert done.stdout == "adder: would remove 1\n"
    assert (repository / "adder/1").is_dir()
    assert plansmith("prune", "--all", "--keep", "1", "--repository", repository).stdout == "adder: removed 1, 2\n"
    assert three_versions.existing_model("adder").versions == (3,)
    assert build(tmp_path / "adder.onnx", BuildOptions(repository=repository, serve=False)).version == 4
    assert sorted(path.name for path in repository.parent.iterdir()) == [
        ".model_repository.plansmith",
        "adder.onnx",
        "model_repository",
    ]


def test_a_version_that_a_configuration_serves_stays(three_versions, repository):
    config = repository / "adder/config.pbtxt"
    config.write_text(config.read_text() + "version_policy { specific { versions: [1, 3] } }\n")
    assert prune(three_versions, "adder", keep=1) == (2,)
    assert three_versions.existing_model("adder").versions == (1, 3)


def test_nothing_is_removed_through_a_link(three_versions, repository, tmp_path, plansmith):
    (repository / "adder").rename(tmp_path / "elsewhere")
    (repository / "adder").symlink_to(tmp_path / "elsewhere")
    before = snapshot(tmp_path / "elsewhere")
    done = plansmith("prune", "--all", "--keep", "1", "--repository", repository, expect=2)
    assert "is a link, and nothing is removed from where it leads" in done.stderr
    assert snapshot(tmp_path / "elsewhere") == before


def test_more_warm_up_samples_than_there_are_are_refused(repository, tmp_path):
    adder = write(tmp_path / "adder.onnx", ADD)
    with pytest.raises(InvalidOption, match=r"--warmup 99: the verification has \d+ inputs: give more with --samples"):
        build(adder, BuildOptions(repository=repository, warmup=99, serve=False))


def test_warm_up_samples_are_not_removed_through_a_link(repository, tmp_path):
    adder = write(tmp_path / "adder.onnx", ADD)
    for seed in (1, 2):
        build(adder, BuildOptions(repository=repository, warmup=1, seed=seed, serve=False))
    there, warmup, elsewhere = ModelRepository.at(repository), repository / "adder/warmup", tmp_path / "elsewhere"
    warmup.rename(elsewhere)
    warmup.symlink_to(elsewhere)
    before = snapshot(elsewhere)
    with pytest.raises(InvalidOption, match="warmup is a link, and nothing is removed from where it leads"):
        prune(there, "adder", keep=1)
    assert snapshot(elsewhere) == before
    assert there.existing_model("adder").versions == (1, 2)
    # A sample that somebody made a folder of stays where it is.
    warmup.unlink()
    elsewhere.rename(warmup)
    first = read_manifest(repository / "adder/1/manifest.json")
    sample = repository / "adder" / next(file.path for file in first.files if file.path.startswith("warmup/"))
    sample.unlink()
    sample.mkdir()
    assert prune(there, "adder", keep=1) == (1,)
    assert sample.is_dir()


def test_nothing_is_removed_while_it_is_not_known_what_is_served(three_versions, repository):
    (repository / "adder/config.pbtxt").write_text("no configuration")
    with pytest.raises(InvalidModel, match="not known which versions it serves"):
        prune(three_versions, "adder", keep=1)
    assert three_versions.existing_model("adder").versions == (1, 2, 3)


def test_a_removal_that_fails_says_what_is_gone_already_and_that_leaves_the_signed_list(
    three_versions, repository, tmp_path, monkeypatch
):
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key], check=True)
    sign = Signer(key)
    for version in ("1", "2", "3"):
        sign.sign(repository / "adder" / version)
    assert sign.list_anew(repository) == {"adder": (1, 2, 3)}
    remove = pruning._remove

    def full(folder, aside):
        if folder.name == "2":
            raise OSError(errno.EBUSY, "Device or resource busy", str(folder))
        remove(folder, aside)

    monkeypatch.setattr(pruning, "_remove", full)
    with pytest.raises(
        PublishFailed, match=r"cannot remove version 2 .*; removed before that: 1; the others are there$"
    ):
        prune(three_versions, "adder", keep=1, sign=sign)
    assert three_versions.existing_model("adder").versions == (2, 3)
    assert sign.listed(repository) == {("adder", 2), ("adder", 3)}


def test_the_last_version_cannot_be_removed(three_versions, repository, plansmith):
    with pytest.raises(InvalidOption, match="keep 1 or more"):
        prune(three_versions, "adder", keep=0)
    assert plansmith("prune", "adder", "--keep", "0", "--repository", repository, expect=2).stderr
    assert "give --all" in plansmith("prune", "--keep", "1", "--repository", repository, expect=2).stderr
