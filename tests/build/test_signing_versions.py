"""A signed version is what its owner published; anything else is told apart from it."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from build_models import ADD, snapshot, write
from stripes_models import write_stripes_classifier

from plansmith_build.repository.hashing import sha256_of

# The package warns of its own use of its dependencies.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Pairs of PEM files, private and public: a plain one, one with a password and one of another kind."""
    folder = tmp_path_factory.mktemp("keys")

    def openssl(*words):
        subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)

    for name in ("own", "other", "locked"):
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", folder / f"{name}.pem")
        openssl("ec", "-in", folder / f"{name}.pem", "-pubout", "-out", folder / f"{name}.pub")
    openssl(
        *("pkcs8", "-topk8", "-v2", "aes256", "-passout", "pass:open sesame"),
        *("-in", folder / "locked.pem", "-out", folder / "locked.key"),
    )
    openssl("genrsa", "-out", folder / "rsa.pem", "2048")
    return folder


def build(plansmith, repository, tmp_path, key, **options):
    adder = write(tmp_path / "adder.onnx", ADD)
    return plansmith("build", adder, "--repository", repository, "--no-serve", "--sign-key", key, **options)


def test_a_signed_version_verifies_by_its_owners_key_only(plansmith, repository, tmp_path, keys):
    build(plansmith, repository, tmp_path, keys / "own.pem")
    assert (repository / "adder/1/model.sig").is_file()
    assert "0 errors" in plansmith("verify", repository, "--public-key", keys / "own.pub").stdout
    done = plansmith("verify", repository, "--public-key", keys / "other.pub", expect=3)
    assert "the signature of adder/1 does not hold" in done.stdout


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json"])
def test_a_file_that_was_changed_breaks_the_signature(plansmith, repository, tmp_path, keys, file):
    build(plansmith, repository, tmp_path, keys / "own.pem")
    path = repository / "adder/1" / file
    path.write_bytes(path.read_bytes() + b" ")
    done = plansmith("verify", repository, "--public-key", keys / "own.pub", expect=3)
    assert "the signature of adder/1 does not hold" in done.stdout


def test_a_version_without_a_signature_is_named(plansmith, repository, tmp_path, keys):
    plansmith("build", write(tmp_path / "adder.onnx", ADD), "--repository", repository, "--no-serve")
    done = plansmith("verify", repository, "--public-key", keys / "own.pub", expect=3)
    assert "adder/1 is not signed: build it again with --sign-key" in done.stdout
    said = plansmith("verify", repository, "--public-key", keys / "own.pem", expect=2).stderr
    assert "own.pem is not a public key" in said


def test_a_configuration_cannot_lead_past_the_signatures(plansmith, repository, tmp_path, keys):
    plansmith("build", write(tmp_path / "adder.onnx", ADD), "--repository", repository, "--no-serve")
    build(plansmith, repository, tmp_path, keys / "own.pem")
    assert "0 errors" in plansmith("verify", repository, "--public-key", keys / "own.pub").stdout
    config = repository / "adder/config.pbtxt"
    config.write_text(config.read_text() + "version_policy { specific { versions: 1 } }\n")
    done = plansmith("verify", repository, "--public-key", keys / "own.pub", expect=3)
    assert "adder/1 is not signed" in done.stdout
    assert "adder/config.pbtxt: error: it differs from what was signed with version 2" in done.stdout


def test_a_rollback_is_signed_again(plansmith, repository, tmp_path, keys):
    build(plansmith, repository, tmp_path, keys / "own.pem")
    build(plansmith, repository, tmp_path, keys / "own.pem")
    plansmith("rollback", "adder", "1", "--repository", repository, *signed_by(keys))
    assert "0 errors, 0 warnings" in plansmith("verify", repository, "--public-key", keys / "own.pub").stdout


def signed_by(keys, public="own.pub"):
    return "--sign-key", keys / "own.pem", "--public-key", keys / public


@pytest.fixture(scope="module")
def signed(plansmith, tmp_path_factory, keys):
    """The folder of a model with two signed versions, and one like it that a stranger signed."""
    folder = tmp_path_factory.mktemp("signed")
    for repository, key, versions in (("own", "own.pem", 2), ("strangers", "other.pem", 1)):
        for _ in range(versions):
            build(plansmith, folder / repository, folder, keys / key)
    return folder / "own/adder", folder / "strangers/adder"


@pytest.fixture
def two_signed(signed, repository):
    """The folder of a model with two signed versions, which the test may change."""
    shutil.copytree(signed[0], repository / "adder")
    return repository / "adder"


def edit_manifest(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_the_model(folder):
    """Another model, with its hash in the manifest, as one who knows the format would do it."""
    model = write(folder / "model.onnx", ADD.replace("Add", "Sub"))
    files = json.loads((folder / "manifest.json").read_text())["files"]
    for file in files:
        if file["path"].endswith("model.onnx"):
            file.update(size=model.stat().st_size, sha256=sha256_of(model))
    edit_manifest(folder / "manifest.json", files=files)


def change_a_configuration(folder):
    configs = json.loads((folder / "manifest.json").read_text())["configs"]
    configs["config.pbtxt"] += "instance_group { count: 7 }\n"
    edit_manifest(folder / "manifest.json", configs=configs)


def forget_the_configurations(folder):
    edit_manifest(folder / "manifest.json", configs={})


def take_away_the_signature(folder):
    change_the_model(folder)
    (folder / "model.sig").unlink()


def put_another_version_in_its_place(folder):
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("2"), folder)


@pytest.mark.parametrize(
    "tamper",
    [
        change_the_model,
        change_a_configuration,
        forget_the_configurations,
        take_away_the_signature,
        put_another_version_in_its_place,
    ],
)
def test_a_rollback_never_signs_what_was_changed(plansmith, two_signed, keys, tamper):
    tamper(two_signed / "1")
    before = snapshot(two_signed)
    words = ("rollback", "adder", "1", "--repository", two_signed.parent)
    done = plansmith(*words, "--sign-key", keys / "own.pem", expect=2)
    assert "name the public key with --public-key" in done.stderr
    status = 2 if tamper is put_another_version_in_its_place else 3
    done = plansmith(*words, *signed_by(keys), expect=status)
    assert "adder/1" in done.stderr
    assert snapshot(two_signed) == before


def test_a_rollback_by_the_wrong_key_or_of_a_strangers_version_is_refused(plansmith, signed, two_signed, keys):
    words = ("rollback", "adder", "1", "--repository", two_signed.parent)
    before = snapshot(two_signed)
    assert "does not hold" in plansmith(*words, *signed_by(keys, "other.pub"), expect=3).stderr
    assert snapshot(two_signed) == before
    shutil.rmtree(two_signed / "1")
    shutil.copytree(signed[1] / "1", two_signed / "1")
    assert "does not hold" in plansmith(*words, *signed_by(keys), expect=3).stderr
    assert not (two_signed / "3").exists()


def test_what_was_never_signed_can_be_signed_by_a_rollback(plansmith, repository, tmp_path, keys):
    for _ in range(2):
        plansmith("build", write(tmp_path / "adder.onnx", ADD), "--repository", repository, "--no-serve")
    plansmith("rollback", "adder", "1", "--repository", repository, "--sign-key", keys / "own.pem")
    assert "0 errors" in plansmith("verify", repository, "--public-key", keys / "own.pub").stdout


def copy_over_the_newest(model):
    shutil.rmtree(model / "2")
    shutil.copytree(model / "1", model / "2")


def copy_as_the_newest(model):
    shutil.copytree(model / "1", model / "3")


def exchange_two(model):
    (model / "1").rename(model / "aside")
    (model / "2").rename(model / "1")
    (model / "aside").rename(model / "2")


def remove_the_newest(model):
    shutil.rmtree(model / "2")


def empty_the_history(model):
    (model / "history.json").write_text("{}")


def remove_the_history(model):
    (model / "history.json").unlink()


def date_back(model):
    path = model / "history.json"
    history = json.loads(path.read_text())
    history["versions"][-1]["created"] = "2020-01-01T00:00:00Z"
    path.write_text(json.dumps(history))


def garble_the_history(model):
    (model / "history.json").write_text("{")


def add_a_backend_library(model):
    (model / "libtriton_onnxruntime.so").write_bytes(b"code")


def add_a_stub(model):
    (model / "triton_python_backend_stub").write_bytes(b"code")


def add_a_configuration(model):
    (model / "configs").mkdir()
    (model / "configs/cpu.pbtxt").write_text((model / "config.pbtxt").read_text())


def take_another_models_version(model):
    edit_manifest(model / "2/manifest.json", model="another")


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (copy_over_the_newest, "is the manifest of 'adder' version 1, not of 'adder' version 2"),
        (copy_as_the_newest, "is the manifest of 'adder' version 1, not of 'adder' version 3"),
        (exchange_two, "is the manifest of 'adder' version 1, not of 'adder' version 2"),
        (take_another_models_version, "is the manifest of 'another' version 2, not of 'adder' version 2"),
        (remove_the_newest, "adder/2: error: it was published last and is missing"),
        (empty_the_history, "adder/2: error: history.json does not list it"),
        (remove_the_history, "adder/history.json: error: it is missing, and version 2 is signed"),
        (date_back, "history.json: error: it differs from the signed manifest of version 2"),
        (garble_the_history, "adder/history.json: error: it cannot be read"),
        (add_a_backend_library, "libtriton_onnxruntime.so: error: it differs from what was signed with version 2"),
        (add_a_stub, "triton_python_backend_stub: error: it differs from what was signed with version 2"),
        (add_a_configuration, "adder/configs/cpu.pbtxt: error: it differs from what was signed with version 2"),
    ],
)
def test_an_old_version_and_what_lies_beside_the_versions_never_pass(plansmith, two_signed, keys, tamper, said):
    tamper(two_signed)
    assert said in plansmith("verify", two_signed.parent, "--public-key", keys / "own.pub", expect=3).stdout
    only_with_the_key = {add_a_backend_library, add_a_stub, add_a_configuration, remove_the_history, date_back}
    done = plansmith("verify", two_signed.parent, expect=0 if tamper in only_with_the_key else 3)
    # What was there when a version was published is in its signed manifest alone.
    assert tamper is date_back or "0 errors, 0 warnings" not in done.stdout


def test_labels_that_were_exchanged_are_not_what_was_signed(plansmith, repository, tmp_path, keys):
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\n")
    model = write_stripes_classifier(tmp_path / "stripes.onnx")
    plansmith(
        *("build", model, "--repository", repository, "--labels", tmp_path / "labels.txt", "--no-serve"),
        *("--sign-key", keys / "own.pem"),
    )
    assert "0 errors" in plansmith("verify", repository, "--public-key", keys / "own.pub").stdout
    (repository / "stripes/labels.txt").write_text("b\na\nc\nd\n")
    done = plansmith("verify", repository, "--public-key", keys / "own.pub", expect=3)
    assert "stripes/labels.txt: error: it differs from what was signed with version 1" in done.stdout


def test_a_users_own_file_beside_the_versions_is_named(plansmith, two_signed, keys):
    (two_signed / "notes.md").write_text("mine")
    done = plansmith("verify", two_signed.parent, "--public-key", keys / "own.pub")
    assert "adder/notes.md: warning: no signature covers it" in done.stdout
    assert "0 errors, 1 warning" in done.stdout


def test_the_password_of_a_key_comes_from_the_environment(plansmith, repository, tmp_path, keys, monkeypatch):
    done = build(plansmith, repository, tmp_path, keys / "locked.key", expect=2)
    assert "is read from PLANSMITH_KEY_PASSWORD" in done.stderr
    assert not list(repository.iterdir())


def test_a_key_of_another_kind_or_none_at_all_is_refused_and_nothing_published(plansmith, repository, tmp_path, keys):
    assert "elliptic-curve key" in build(plansmith, repository, tmp_path, keys / "rsa.pem", expect=2).stderr
    assert "cannot be read" in build(plansmith, repository, tmp_path, keys / "nowhere.pem", expect=2).stderr
    assert not list(repository.iterdir())
