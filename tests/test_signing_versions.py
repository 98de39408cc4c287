"""A signed version is what its owner published; anything else is told apart from it."""

from __future__ import annotations

import subprocess

import pytest
from build_models import ADD, write

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
    return plansmith("build", adder, "--repository", repository, "--sign-key", key, **options)


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
    plansmith("build", write(tmp_path / "adder.onnx", ADD), "--repository", repository)
    done = plansmith("verify", repository, "--public-key", keys / "own.pub", expect=3)
    assert "adder/1 is not signed: publish it with --sign-key" in done.stdout


def test_a_configuration_cannot_lead_past_the_signatures(plansmith, repository, tmp_path, keys):
    plansmith("build", write(tmp_path / "adder.onnx", ADD), "--repository", repository)
    build(plansmith, repository, tmp_path, keys / "own.pem")
    assert "0 errors" in plansmith("verify", repository, "--public-key", keys / "own.pub").stdout
    config = repository / "adder/config.pbtxt"
    config.write_text(config.read_text() + "version_policy { specific { versions: 1 } }\n")
    done = plansmith("verify", repository, "--public-key", keys / "own.pub", expect=3)
    assert "adder/1 is not signed" in done.stdout
    assert "adder/config.pbtxt: error: it is not what was signed with version 2" in done.stdout


def test_a_rollback_is_signed_anew(plansmith, repository, tmp_path, keys):
    build(plansmith, repository, tmp_path, keys / "own.pem")
    build(plansmith, repository, tmp_path, keys / "own.pem")
    plansmith("rollback", "adder", "1", "--repository", repository, "--sign-key", keys / "own.pem")
    assert "0 errors" in plansmith("verify", repository, "--public-key", keys / "own.pub").stdout


def test_the_password_of_a_key_comes_from_the_environment(plansmith, repository, tmp_path, keys, monkeypatch):
    done = build(plansmith, repository, tmp_path, keys / "locked.key", expect=2)
    assert "stands in PLANSMITH_KEY_PASSWORD" in done.stderr
    assert not list(repository.iterdir())


def test_a_key_of_another_kind_or_none_at_all_is_refused_and_nothing_published(plansmith, repository, tmp_path, keys):
    assert "elliptic-curve key" in build(plansmith, repository, tmp_path, keys / "rsa.pem", expect=2).stderr
    assert "cannot be read" in build(plansmith, repository, tmp_path, keys / "nowhere.pem", expect=2).stderr
    assert not list(repository.iterdir())
