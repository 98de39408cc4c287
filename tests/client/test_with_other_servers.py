"""The client against MLServer, an independent server of the Open Inference Protocol, over all four faces."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from client_faces import FACES, open_client, url_of

from plansmith_client import Client, ClientError, InferenceFailed, InvalidInput, ModelNotFound, ProtocolError

HERE = Path(__file__).parent / "mlserver_model"
# Beside the environment of the tests, so that it is made once; git ignores both.
ENVIRONMENT = Path(sys.prefix) / "mlserver"


def make_environment() -> Path:
    """The environment's Python; made anew where the pinned versions have changed."""
    pinned, made = (HERE / "requirements.txt").read_text(), ENVIRONMENT / "requirements.txt"
    python = ENVIRONMENT / "bin" / "python"
    if made.exists() and made.read_text() == pinned:
        return python
    shutil.rmtree(ENVIRONMENT, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    installer = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    done = subprocess.run(
        [*installer, "--quiet", "--require-hashes", "-r", HERE / "requirements.txt"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    made.write_text(pinned)
    return python


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    python = make_environment()
    folder = tmp_path_factory.mktemp("mlserver")
    shutil.copytree(HERE / "mixed", folder / "mixed")
    http, grpc, metrics = free_ports(3)
    settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0}))
    log = folder / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [python.with_name("mlserver"), "start", folder],
            stdout=output,
            stderr=output,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        ) as process,
    ):
        running = SimpleNamespace(grpc_url=f"127.0.0.1:{grpc}", http_url=f"http://127.0.0.1:{http}")
        try:
            for url in (running.grpc_url, running.http_url):
                with Client(url) as client:
                    end = time.monotonic() + 100
                    while not client.model("mixed").is_ready():
                        assert process.poll() is None, log.read_text()
                        assert time.monotonic() < end, log.read_text()
                        time.sleep(0.1)
            yield running
        finally:
            process.terminate()


@pytest.fixture(scope="module", params=FACES)
def client(request, server):
    with open_client(request.param, url_of(request.param, server), timeout=20) as client:
        yield client


INPUTS = {"float": np.array([[0.1, -2, 3e38 / 3]], np.float32), "integer": np.array([2**61, -7]), "words": ["ü", "a b"]}


def test_it_is_live_and_tells_about_itself(client):
    assert client.is_live()
    assert client.is_ready()
    assert client.server_metadata().name == "mlserver"
    assert client.model("mixed").is_ready()
    assert not client.model("nope").is_ready()


def test_metadata_has_what_the_protocol_has_and_not_what_only_triton_has(client):
    metadata = client.model("mixed").metadata
    assert [(spec.name, spec.datatype, spec.shape) for spec in metadata.inputs] == [
        ("float", "FP32", (-1, 3)),
        ("integer", "INT64", (-1,)),
        ("words", "BYTES", (-1,)),
    ]
    assert metadata.max_batch_size is None


def test_numbers_and_words_go_in_and_come_out(client):
    result = client.model("mixed").infer(INPUTS, request_id="seven")
    np.testing.assert_array_equal(result["float_twice"], INPUTS["float"] * 2)
    assert result["float_twice"].dtype == np.float32
    assert result["integer_twice"].reshape(-1).tolist() == [2**62, -14]
    assert result["upper"].reshape(-1).tolist() == ["Ü".encode(), b"A B"]
    assert result.request_id == "seven"
    assert result.model_name == "mixed"


def test_wrong_inputs_are_refused_before_they_are_sent(client):
    with pytest.raises(InvalidInput, match=r"'float'.*expected FP32 \[-1, 3\]"):
        client.model("mixed").infer({**INPUTS, "float": np.zeros((2, 4), np.float32)})
    with pytest.raises(InvalidInput, match="missing"):
        client.model("mixed").infer({"float": INPUTS["float"]})


def test_a_missing_model_is_named(client):
    with pytest.raises(ModelNotFound, match="nope"):
        client.model("nope").infer({})


def test_a_failing_model_is_an_error_of_the_model(client):
    with pytest.raises((InferenceFailed, InvalidInput), match="told to fail"):
        client.model("mixed").infer({**INPUTS, "words": ["fail"]})


def test_what_only_triton_has_is_said_to_be_missing(client):
    for ask in (client.statistics, client.log_settings, client.model("mixed").config):
        with pytest.raises(ProtocolError, match="does not know this call"):
            ask()


def test_large_inputs_go_the_usual_way(client):
    numbers = np.zeros((200_000, 3), np.float32)
    result = client.model("mixed").infer({**INPUTS, "float": numbers})
    assert result["float_twice"].shape == numbers.shape


def test_rows_are_mapped_one_request_each(client):
    items = list(client.model("mixed").map([INPUTS] * 5))
    assert [item["integer_twice"].reshape(-1).tolist() for item in items] == [[2**62, -14]] * 5


def test_nothing_but_the_clients_errors_escapes(client):
    for call in (client.models, lambda: client.load_model("nope"), lambda: client.unload_model("nope")):
        try:
            call()
        except ClientError:
            continue
