"""A signed version is what its owner published; anything else is told apart from it."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess

import pytest
from build_models import ADD, snapshot, write

from plansmith_build.errors import PublishFailed
from plansmith_build.reading.regular_files import sha256_of
from plansmith_build.repository.signed_versions import Signer

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


def test_a_version_without_a_signature_is_named(plansmith, repository, tmp_path, keys):
    plansmith("build", write(tmp_path / "adder.onnx", ADD), "--repository", repository, "--no-serve")
    done = plansmith("verify", repository, "--public-key", keys / "own.pub", expect=3)
    assert "adder/1 is not signed: build it again with --sign-key" in done.stdout
    said = plansmith("verify", repository, "--public-key", keys / "own.pem", expect=2).stderr
    assert "own.pem is not a public key" in said


def test_a_configuration_cannot_lead_past_the_signatures(plansmith, repository, tmp_path, keys):
    plansmith("build", write(tmp_path / "adder.onnx", ADD), "--repository", repository, "--no-serve", "--warmup", "1")
    build(plansmith, repository, tmp_path, keys / "own.pem")
    said = plansmith("verify", repository, "--public-key", keys / "own.pub").stdout
    # The samples of the first version, which no configuration names any more.
    assert "adder/warmup/" in said
    assert "no signature covers it" in said
    words = ("rollback", "adder", "1", "--repository", repository, *signed_by(keys))
    assert "adder/1 is not signed: build the old file again with --sign-key" in plansmith(*words, expect=3).stderr
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
    shutil.copytree(signed[0].parent, repository, dirs_exist_ok=True)
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


def test_what_is_removed_from_a_signed_repository_leaves_the_list_with_the_key_alone(
    plansmith, signed, two_signed, keys, tmp_path
):
    repository, public = two_signed.parent, ("--public-key", keys / "own.pub")
    prune, key = ("prune", "--all", "--keep", "1", "--repository", repository), ("--sign-key", keys / "own.pem")
    anew = ("prune", "--all", *key, "--repository", repository)
    before = snapshot(repository)
    assert "give --sign-key" in plansmith(*prune, expect=2).stderr
    assert (
        "does not hold" in plansmith(*prune[:1], "adder", *prune[2:], "--sign-key", keys / "other.pem", expect=3).stderr
    )
    assert snapshot(repository) == before
    assert "removed 1" in plansmith(*prune, *key).stdout
    assert "0 errors, 0 warnings" in plansmith("verify", repository, *public).stdout
    # What somebody else removes stays listed when another version is published, until its owner signs what is there.
    shutil.rmtree(two_signed)
    with list_of(keys, repository):
        shutil.copytree(signed[0], repository / "another")
    assert listed(repository) == {"adder": [2], "another": [1, 2]}
    said = plansmith("verify", repository, *public, expect=3).stdout
    assert "adder: error: it was signed and is missing" in said
    assert f"plansmith prune --all --sign-key key.pem --repository {repository}" in said
    assert "say with --keep" in plansmith("prune", "--all", "--repository", repository, expect=2).stderr
    assert plansmith(*anew).stdout == "another: listed 1, 2\n"
    assert listed(repository) == {"another": [1, 2]}
    # Nothing is signed on top of versions that no list tells of, as those of before there was one.
    (repository / "signed.json").unlink()
    before = snapshot(repository)
    said = build(plansmith, repository, tmp_path, keys / "own.pem", expect=3).stderr
    assert f"list it with {shlex.join(['plansmith', *map(str, anew)])}" in said
    assert snapshot(repository) == before
    plansmith(*anew)
    # Known before the model is read.
    words = ("build", tmp_path / "nowhere.onnx", "--repository", repository, "--sign-key", keys / "other.pem")
    assert f"signed.json does not hold for {keys / 'other.pem'}" in plansmith(*words, "--no-serve", expect=3).stderr

    def publish_where_no_list_can_be_written():
        shutil.copytree(signed[0], repository / "third")
        (repository / "signed.json").unlink()
        (repository / "signed.json").mkdir()

    with pytest.raises(PublishFailed, match=r"is published, but .* cannot be written"), list_of(keys, repository):
        publish_where_no_list_can_be_written()
    assert {entry.name for entry in repository.iterdir()} == {"another", "signed.json", "third"}


def list_of(keys, repository):
    return Signer(keys / "own.pem").listing(repository)


def listed(repository):
    return json.loads((repository / "signed.json").read_text())["models"]


def test_the_password_of_a_key_comes_from_the_environment(plansmith, repository, tmp_path, keys, monkeypatch):
    done = build(plansmith, repository, tmp_path, keys / "locked.key", expect=2)
    assert "is read from PLANSMITH_KEY_PASSWORD" in done.stderr
    assert not list(repository.iterdir())


def test_a_key_of_another_kind_or_none_at_all_is_refused_and_nothing_published(plansmith, repository, tmp_path, keys):
    assert "elliptic-curve key" in build(plansmith, repository, tmp_path, keys / "rsa.pem", expect=2).stderr
    assert "cannot be read" in build(plansmith, repository, tmp_path, keys / "nowhere.pem", expect=2).stderr
    assert not list(repository.iterdir())
