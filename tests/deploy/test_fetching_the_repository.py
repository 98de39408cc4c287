"""The program of a pod's init container against a real S3 server: what it lets through, and what it does not."""

from __future__ import annotations

import hashlib
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
import yaml
from build_models import ADD, write
from containers import ROOT
from serving import wait_for

from plansmith_server.launcher.ports import find_free

COMPONENT = ROOT / "deploy/components/repository-init"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "a-secret", "AWS_DEFAULT_REGION": "us-east-1"}
MODEL = "models/adder/1/model.onnx"
# moto's own use of the protocol.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A repository with a signed version, and the pair of keys beside it."""
    folder = tmp_path_factory.mktemp("signed")
    write(folder / "adder.onnx", ADD)
    plansmith = Path(sys.executable).with_name("plansmith")
    for command in (
        "openssl ecparam -name prime256v1 -genkey -noout -out own.pem",
        "openssl ec -in own.pem -pubout -out public-key.pem",
        f"{plansmith} build adder.onnx --no-serve --repository models --sign-key own.pem",
    ):
        subprocess.run(shlex.split(command), check=True, capture_output=True, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def storage():
    """Variables with which programs find a server of S3, and a client of it."""
    port = find_free("127.0.0.1", 1)[0]
    server = subprocess.Popen(
        [Path(sys.executable).with_name("moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with socket.socket() as probe:
            wait_for(lambda: server.poll() is not None or probe.connect_ex(("127.0.0.1", port)) == 0)
        assert server.poll() is None
        variables = {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
        names = ("aws_access_key_id", "aws_secret_access_key", "region_name", "endpoint_url")
        yield variables, boto3.client("s3", **dict(zip(names, variables.values(), strict=True)))
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def bucket(storage, signed, request):
    """A bucket with the signed repository below `models/`, which the test may change."""
    _, client = storage
    name = f"b{abs(hash(request.node.name))}"
    client.create_bucket(Bucket=name)
    for path in (signed / "models").rglob("*"):
        if path.is_file():
            client.upload_file(str(path), name, path.relative_to(signed).as_posix())
    return name


def fetch(storage, bucket, folder, key, place="models", *, url=None, expect=3):
    """Run the init container's command, with its paths of this machine."""
    variables, _ = storage
    patch = yaml.safe_load((COMPONENT / "deployment.yaml").read_text())
    (container,) = patch["spec"]["template"]["spec"]["initContainers"]
    here = {
        "/opt/plansmith/bin/python3": sys.executable,
        "/repository-scripts/fetch_repository.py": str(COMPONENT / "fetch_repository.py"),
        "/models": str(folder),
    }
    url = f"s3://{bucket}/{place}" if url is None else url
    values = {"REPOSITORY_URL": url, "REPOSITORY_PUBLIC_KEY": str(key)}
    assert set(values) == {entry["name"] for entry in container["env"]}
    words = [here.get(word, word) for word in container["command"]]
    environment = {**os.environ, **variables, **values}
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment, cwd=folder)
    assert "Traceback" not in done.stderr, done.stderr
    assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in done.stdout + done.stderr
    assert done.returncode == (expect if "Error: " in done.stderr else 0), done.stderr
    return done.stdout + done.stderr


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_signed_repository_is_fetched_whole_over_what_an_earlier_try_left(storage, bucket, signed, tmp_path):
    (tmp_path / "adder").mkdir()
    (tmp_path / "adder" / "half").touch()
    said = fetch(storage, bucket, tmp_path, signed / "public-key.pem")
    assert contents(tmp_path) == contents(signed / "models")
    assert f"fetched {len(contents(tmp_path))} files, signed" in said


def test_a_model_is_built_from_the_same_storage_with_what_the_environment_knows(storage, bucket, tmp_path):
    variables, client = storage
    digest = hashlib.sha256(client.get_object(Bucket=bucket, Key=MODEL)["Body"].read()).hexdigest()
    nobody = {"AWS_ENDPOINT_URL": variables["AWS_ENDPOINT_URL"], "AWS_EC2_METADATA_DISABLED": "true"}
    for place, environment, code, why in (
        (f"{MODEL}#sha256={digest}", nobody, 2, "Unable to locate credentials"),
        ("models/none.onnx", variables, 2, "models/none.onnx does not exist"),
        (f"{MODEL}#sha256={digest}", variables, 0, ""),
    ):
        command = [Path(sys.executable).with_name("plansmith"), "build", f"s3://{bucket}/{place}", "--no-serve"]
        environment = {**os.environ, **environment, "COLUMNS": "300"}  # noqa: PLW2901
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == code, done.stderr
        assert why in done.stderr
        assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in done.stdout + done.stderr
        assert (tmp_path / "model_repository" / "adder").exists() == (code == 0)


def test_a_file_that_was_changed_in_the_bucket_is_not_served(storage, bucket, signed, tmp_path):
    _, client = storage
    changed = client.get_object(Bucket=bucket, Key=MODEL)["Body"].read() + b"\0"
    client.put_object(Bucket=bucket, Key=MODEL, Body=changed)
    said = fetch(storage, bucket, tmp_path, signed / "public-key.pem")
    assert f"Error: s3://{bucket}/models is not served: plansmith verify finds errors in it" in said
    assert contents(tmp_path) == {}


def test_a_model_that_nobody_signed_is_served_only_where_the_key_is_given_up(storage, bucket, signed, tmp_path):
    _, client = storage
    for key in [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"] if ".sig" in entry["Key"]]:
        client.delete_object(Bucket=bucket, Key=key)
    assert "is not signed" in fetch(storage, bucket, tmp_path, signed / "public-key.pem")
    assert contents(tmp_path) == {}
    assert "there is no key" in fetch(storage, bucket, tmp_path, signed / "absent.pem")
    assert contents(tmp_path) == {}
    assert "files, checked by their hashes alone" in fetch(storage, bucket, tmp_path, "")
    assert (tmp_path / "adder" / "1" / "model.onnx").is_file()


def test_a_name_that_leads_out_and_a_place_without_files_are_refused(storage, bucket, signed, tmp_path):
    _, client = storage
    folder = tmp_path / "models"
    folder.mkdir()
    key = signed / "public-key.pem"
    assert "there are no files" in fetch(storage, bucket, folder, key, place="model")
    client.put_object(Bucket=bucket, Key="models/../../outside", Body=b"x")
    assert "leads out of the folder" in fetch(storage, bucket, folder, key)
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("url", ["", "bucket/models", "s3://key:a-secret@[bucket/models"])
def test_what_is_not_a_url_is_said_in_one_sentence(storage, tmp_path, url):
    (tmp_path / "half").touch()
    said = fetch(storage, "", tmp_path, "", url=url, expect=2)
    assert said == "Error: REPOSITORY_URL is not a valid URL: write one such as s3://bucket/folder\n"
    assert contents(tmp_path) == {}
