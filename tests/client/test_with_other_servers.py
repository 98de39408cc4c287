"""MLServer and KServe's own server, asked by all four faces of the client; and clients of others, which ask Triton."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from client_faces import FACES, open_client, url_of

from peers.environments import REQUIREMENTS, make_environment
from plansmith_client import Client, ClientError, InferenceFailed, InvalidInput, ModelNotFound, ProtocolError
from plansmith_server.launcher.ports import find_free

HERE = Path(__file__).parent / "other_servers"
# Beside the environment of the tests, so that each is made once; git ignores them.
ENVIRONMENTS = Path(sys.prefix) / "servers"


def mlserver(folder: Path, http: int, grpc: int) -> list[str | Path]:
    python = make_environment(REQUIREMENTS / "mlserver.txt", cache=ENVIRONMENTS).python
    shutil.copytree(HERE / "mlserver", folder, dirs_exist_ok=True)
    shutil.copy(folder / "mixed" / "model.py", folder / "bare")
    settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": find_free("127.0.0.1", 1)[0]}
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0}))
    return [python, "-c", "from mlserver.cli import main; main()", "start", folder]


def kserve_python() -> Path:
    return make_environment(HERE / "kserve.txt", cache=ENVIRONMENTS).python


def kserve(_folder: Path, http: int, grpc: int) -> list[str | Path]:
    return [kserve_python(), HERE / "kserve_models.py", f"--http_port={http}", f"--grpc_port={grpc}"]


@contextlib.contextmanager
def running(kind, folder: Path):
    """One of the servers, which may still be starting, and what says when it has started."""
    http, grpc = find_free("127.0.0.1", 2)
    log = folder / "log"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with (
        log.open("w") as output,
        subprocess.Popen(
            kind(folder, http, grpc), stdout=output, stderr=output, env=environment, cwd=folder
        ) as process,
    ):

        def wait() -> None:
            end = time.monotonic() + 100
            for url in (f"127.0.0.1:{grpc}", f"http://127.0.0.1:{http}"):
                with Client(url) as client:
                    while not client.model("bare").is_ready():
                        assert process.poll() is None, log.read_text()
                        assert time.monotonic() < end, log.read_text()
                        time.sleep(0.1)

        try:
            yield SimpleNamespace(
                name=kind.__name__, grpc_url=f"127.0.0.1:{grpc}", http_url=f"http://127.0.0.1:{http}", wait=wait
            )
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(running(kind, tmp_path_factory.mktemp("server"))) for kind in (mlserver, kserve)]
        for server in started:
            server.wait()
        yield {server.name: server for server in started}


@pytest.fixture(scope="module", params=["mlserver", "kserve"])
def server(request, servers):
    return servers[request.param]


@pytest.fixture(scope="module", params=FACES)
def face(request):
    return request.param


@pytest.fixture(scope="module")
def client(face, server):
    with open_client(face, url_of(face, server), timeout=20) as client:
        yield client


INPUTS = {"float": np.array([[0.1, -2, 3e38 / 3]], np.float32), "integer": np.array([2**61, -7]), "words": ["ü", "a b"]}


def test_it_is_live_and_tells_about_itself(client, server):
    assert client.is_live()
    assert client.is_ready()
    assert client.server_metadata().name == server.name
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


def test_a_version_that_mlserver_does_not_have_is_not_found(servers, face):
    with (
        open_client(face, url_of(face, servers["mlserver"]), timeout=20) as client,
        pytest.raises(ModelNotFound, match="version 7 not found"),
    ):
        client.model("mixed", version="7").infer(INPUTS)


def test_a_failing_model_is_an_error_of_the_model(client):
    with pytest.raises((InferenceFailed, InvalidInput), match="told to fail"):
        client.model("mixed").infer({**INPUTS, "words": ["fail"]})


def test_what_only_triton_has_is_said_to_be_missing(client, server):
    model = client.model("mixed")
    # MLServer has streams of another form.
    streams = [lambda: list(model.stream(INPUTS))] if server.name == "kserve" else []
    for ask in (client.statistics, client.log_settings, model.config, *streams):
        with pytest.raises(ProtocolError, match="does not know this call"):
            ask()


def test_large_inputs_go_the_usual_way(client):
    numbers = np.zeros((200_000, 3), np.float32)
    result = client.model("mixed").infer({**INPUTS, "float": numbers})
    assert result["float_twice"].shape == numbers.shape


def test_rows_are_mapped_one_request_each(client):
    items = list(client.model("mixed").map([INPUTS] * 5))
    assert [item["integer_twice"].reshape(-1).tolist() for item in items] == [[2**62, -14]] * 5


ROWS = np.arange(210, dtype=np.float32).reshape(70, 3)


@pytest.mark.parametrize("options", [{}, {"batch_size": 8}, {"batch_size": 8, "ordered": False}], ids=str)
def test_arrays_by_name_are_cut_for_a_model_that_declares_no_inputs(client, options):
    result = client.model("bare").map({"float": ROWS}, **options).collect()
    np.testing.assert_array_equal(result["float_twice"], ROWS * 2)


def test_items_of_a_model_that_declares_no_inputs_share_requests_where_that_is_asked_for(client):
    model = client.model("bare")
    rows = model.map([{"float": row} for row in ROWS], batch_size=16).collect()
    np.testing.assert_array_equal(rows["float_twice"], ROWS * 2)
    parts = model.map([{"float": ROWS[:10]}, {"float": ROWS[10:]}]).collect()
    np.testing.assert_array_equal(parts["float_twice"], ROWS * 2)
    batched = model.batched(max_batch_size=16)
    np.testing.assert_array_equal(batched(float=ROWS[:2])["float_twice"], ROWS[:2] * 2)


def test_a_model_that_declares_no_inputs_is_called_by_name(client):
    with pytest.raises(InvalidInput, match="does not declare its inputs: pass them by name"):
        client.model("bare")(ROWS)
    with pytest.raises(InvalidInput, match="does not declare its inputs: pass them by name"):
        client.model("bare").map(ROWS).collect()


def test_binary_tensors_are_sent_to_a_server_that_takes_them_without_saying_so(client, server, face):
    model = client.model("bare")
    if server.name == "kserve":
        assert np.isnan(model(float=np.full((1, 3), np.nan, np.float32))["float_twice"]).all()
        half = model(float=np.ones((1, 3), np.float16))["float_twice"]
        assert half.dtype == np.float16
    elif face.startswith("http"):
        with pytest.raises(InvalidInput, match="takes JSON only"):
            model(float=np.full((1, 3), np.nan, np.float32))


def test_the_models_are_listed_where_the_server_can(client, server, face):
    if server.name == "kserve" and face.startswith("grpc"):
        with pytest.raises(ProtocolError, match="does not know this call"):
            client.models()
        return
    assert {(model.name, model.state) for model in client.models()} == {("bare", "READY"), ("mixed", "READY")}


def test_nothing_but_the_clients_errors_escapes(client):
    for call in (
        lambda: client.load_model("nope"),
        lambda: client.unload_model("nope"),
        lambda: client.model("mixed").classify(*INPUTS.values(), output="float_twice"),
        lambda: client.model("mixed", version="7").infer(INPUTS),
        lambda: list(client.model("mixed").stream(INPUTS)),
    ):
        try:
            call()
        except ClientError:
            continue


PYTRITON = """
import sys, warnings
import numpy as np
warnings.simplefilter("ignore")
from pytriton.client import ModelClient
for url in sys.argv[1:]:
    with ModelClient(url, "digits") as client:
        assert client.model_config.max_batch_size > 1
        assert client.infer_batch(np.zeros((2, 8, 8), np.float32))["probabilities"].shape == (2, 10)
        assert client.infer_sample(np.zeros((8, 8), np.float32))["probabilities"].shape == (10,)
"""


def check(*words):
    done = subprocess.run([*words], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_kserves_own_clients_work_with_triton(committed_server):
    check(kserve_python(), HERE / "kserve_client.py", committed_server.grpc_url, committed_server.http_url)


def test_pytritons_own_client_works_with_triton(committed_server):
    pytest.importorskip("pytriton", reason="needs nvidia-pytriton, which brings the server")
    check(sys.executable, "-c", PYTRITON, committed_server.http_url, f"grpc://{committed_server.grpc_url}")
