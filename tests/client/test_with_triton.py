"""The client against a real Triton, over gRPC and over HTTP: the same calls, the same answers, the same errors."""

from __future__ import annotations

import concurrent.futures
import shutil
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from client_faces import FACES, open_client, url_of
from client_servers import SHARED, held
from settled_counts import settled

from plansmith_client import (
    Client,
    ClientClosed,
    ClientError,
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ServerOverloaded,
    TensorSpec,
)
from plansmith_client.sampling import random_inputs
from plansmith_client.tensors import DATATYPES
from plansmith_server import ServerOptions, TritonServer

MODELS = Path(__file__).parents[1] / "models_python"


@pytest.fixture(scope="module", params=FACES)
def client(request, server):
    with open_client(request.param, url_of(request.param, server)) as client:
        yield client


@pytest.fixture(scope="module")
def server_with_a_broken_model(tmp_path_factory):
    """A server that counts itself not ready, because one of its models could not be loaded."""
    repository = tmp_path_factory.mktemp("broken") / "models"
    for name in ("broken", "double"):
        shutil.copytree(MODELS / name, repository / name)
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, config_name="none")
    with TritonServer(options) as running:
        yield running


def test_a_server_tells_about_itself(client):
    assert client.is_live()
    assert client.is_ready()
    client.wait_until_ready(timeout=5)
    metadata = client.server_metadata()
    assert metadata.name == "triton"
    assert metadata.version
    assert "binary_tensor_data" in metadata.extensions


def test_the_index_lists_what_is_loaded_and_what_is_not(client):
    states = {model.name: model.state for model in client.models()}
    assert {name for name, state in states.items() if state == "READY"} == set(SHARED)
    assert states["versions"] != "READY"


def test_metadata_has_the_batch_dimension_and_what_only_the_configuration_tells(client):
    metadata = client.model("add").metadata
    assert metadata.name == "add"
    assert metadata.versions == ("1",)
    assert metadata.inputs == (
        TensorSpec("a", "INT64", (-1, -1)),
        TensorSpec("b", "INT64", (-1, -1)),
        TensorSpec("bias", "INT64", (-1, 1), optional=True),
    )
    assert [spec.name for spec in metadata.outputs] == ["sum", "difference"]
    assert metadata.max_batch_size == 8
    assert client.model("every_type").metadata.max_batch_size == 0


def test_numpy_goes_in_and_comes_out(client):
    images = np.arange(12, dtype=np.float32).reshape(3, 4)
    result = client.model("double")(images)
    assert dict(result).keys() == {"y"}
    np.testing.assert_array_equal(result["y"], images * 2)
    np.testing.assert_array_equal(np.asarray(result), images * 2)
    assert result.array.dtype == np.float32
    assert (result.model_name, result.model_version) == ("double", "1")
    result.array[0, 0] = 7  # the array is the caller's own


def test_inputs_go_by_position_by_name_or_both(client):
    add = client.model("add")
    a, b = np.array([[1, 2]]), np.array([[10, 20]])
    for result in (add(a, b), add(a=a, b=b), add(a, b=b), add.infer({"b": b, "a": a})):
        np.testing.assert_array_equal(result["sum"], [[11, 22]])
        np.testing.assert_array_equal(result["difference"], [[-9, -18]])


def test_an_optional_input_may_be_left_out_or_given(client):
    add = client.model("add")
    assert add([[1]], [[2]])["sum"].tolist() == [[3]]
    assert add([[1]], [[2]], bias=[[100]])["sum"].tolist() == [[103]]


def test_only_the_outputs_asked_for_come_and_the_request_id_comes_back(client):
    result = client.model("add").infer(
        {"a": [[1]], "b": [[2]]},
        outputs=["difference"],
        request_id="täglich-7",
        parameters={"note": "a", "weight": 1.5, "count": 2**40, "flag": True},
    )
    assert list(result) == ["difference"]
    assert result.request_id == "täglich-7"


def test_a_result_of_several_outputs_is_no_single_array(client):
    result = client.model("add")([[1]], [[2]])
    with pytest.raises(InvalidInput, match=r"2 outputs.*'sum'"):
        _ = result.array
    with pytest.raises(InvalidInput, match="select one by name"):
        np.asarray(result)


SAMPLES = {
    "BOOL": np.array([[True, False, True]]),
    "FP16": np.array([[0.1, -65504, np.inf]], np.float16),
    "FP32": np.array([[0.1, np.nan, 3.4e38]], np.float32),
    "FP64": np.array([[0.1, -np.inf, 1.7e308]]),
    "BF16": np.array([[0.1, 3.3e38, -2.5]], ml_dtypes.bfloat16),
    "BYTES": np.array([[b"a\0", "Grüße".encode(), b"", b"\xff\xfe\0\0"]], object),
    **{
        f"{sign}{bits}": np.array([[np.iinfo(kind).min, np.iinfo(kind).max, 1]], kind)
        for sign in ("INT", "UINT")
        for bits in (8, 16, 32, 64)
        for kind in [np.dtype(f"{sign.lower()}{bits}")]
    },
}


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_comes_back_bit_by_bit(client, datatype):
    name = "string" if datatype == "BYTES" else datatype.lower()
    sent = SAMPLES[datatype]
    result = client.model("every_type").infer({name: sent}, outputs=[f"{name}_out"])
    received = result[f"{name}_out"]
    assert received.shape == sent.shape
    assert received.dtype == sent.dtype
    assert received.tolist() == sent.tolist() if datatype == "BYTES" else received.tobytes() == sent.tobytes()


def test_arrays_of_any_layout_and_without_elements_are_sent(client):
    model = client.model("every_type")
    sliced = np.arange(24, dtype=np.int32).reshape(4, 6)[::2, ::-3]
    swapped = np.arange(6, dtype=">f8").reshape(2, 3)
    empty = np.zeros((0, 5), np.float32)
    result = model.infer({"int32": sliced.T, "fp64": swapped, "fp32": empty})
    np.testing.assert_array_equal(result["int32_out"], sliced.T)
    np.testing.assert_array_equal(result["fp64_out"], swapped)
    assert result["fp32_out"].shape == (0, 5)


def test_a_message_beyond_the_limits_that_grpc_sets_by_default_travels(client):
    large = np.random.default_rng(0).standard_normal((1500, 1500), np.float32)
    np.testing.assert_array_equal(client.model("every_type").infer({"fp32": large})["fp32_out"], large)


def test_random_inputs_fit_every_model(client):
    for name in ("double", "add", "every_type"):
        model = client.model(name)
        result = model.infer(random_inputs(model.metadata.inputs, seed=3))
        assert set(result) == {spec.name for spec in model.metadata.outputs}


@pytest.mark.parametrize(
    ("code", "error"), [("INTERNAL", InferenceFailed), ("exception", InferenceFailed), ("INVALID_ARG", InvalidInput)]
)
def test_a_failing_model_is_told_apart_and_its_words_are_kept(client, code, error):
    with pytest.raises(error, match=r"failing.*(the model failed with|divided by zero)"):
        client.model("failing")([code])


def test_a_model_that_answers_not_found_itself_is_not_taken_for_a_missing_one(client):
    with pytest.raises(InferenceFailed, match="the model failed with NOT_FOUND"):
        client.model("failing")(["NOT_FOUND"])


def test_a_missing_model_and_a_missing_version_are_named_with_what_there_is(client):
    with pytest.raises(ModelNotFound, match=r"'nope'.*add, .*double"):
        client.model("nope")([1])
    with pytest.raises(ModelNotFound, match=r"'double'.*no version 7.*it has 1"):
        _ = client.model("double", "7").metadata
    assert not client.model("nope").is_ready()
    assert client.model("double", "1").is_ready()


@pytest.mark.parametrize("face", FACES)
def test_a_model_that_failed_to_load_is_not_ready_and_nor_is_its_server(server_with_a_broken_model, face):
    server = server_with_a_broken_model
    with open_client(face, url_of(face, server)) as client:
        with pytest.raises(ModelNotReady, match=r"'broken'.*unavailable.*this model never loads"):
            client.model("broken")([1])
        assert not client.model("broken").is_ready()
        assert client.model("double").is_ready()
        assert client.is_live()
        assert not client.is_ready()
        with pytest.raises(DeadlineExceeded, match="was not ready within"):
            client.wait_until_ready(timeout=0.3)


def test_a_model_that_was_never_loaded_is_not_ready_rather_than_missing(client):
    with pytest.raises(ModelNotReady, match=r"'versions'.*is not loaded"):
        _ = client.model("versions").metadata


def test_a_deadline_bounds_the_call_and_the_client_goes_on(client):
    slow = client.model("slow")
    with pytest.raises(DeadlineExceeded, match=r"'slow'.*within 0\.2 s"):
        slow.infer({"seconds": [[1.0]]}, timeout=0.2)
    assert slow([[0.0]]).array.tolist() == [[0.0]]


def test_a_full_queue_is_overload_and_not_an_outage(client, server):
    slow = client.model("slow")
    slow([[0.0]])
    before = settled(slow.statistics)[0]

    def call(seconds):
        try:
            return slow([[seconds]])
        except ClientError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(call, -1.0)]
        with held(server):
            calls += [pool.submit(call, 0.0) for _ in range(5)]
            # Two have a place in the queue.
            concurrent.futures.wait(calls, timeout=60, return_when=concurrent.futures.FIRST_COMPLETED)
        outcomes = [each.result() for each in calls]
    refused = [outcome for outcome in outcomes if isinstance(outcome, ClientError)]
    assert refused
    assert {type(error) for error in refused} == {ServerOverloaded}
    assert not refused[0].retryable
    assert len(refused) < len(outcomes)
    # None was sent again.
    after = settled(slow.statistics)[0]
    assert after.success.count - before.success.count + after.fail.count - before.fail.count <= len(outcomes)


def test_a_request_that_expires_in_the_servers_queue_is_past_its_deadline(client, server):
    slow = client.model("slow")
    slow([[0.0]])
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(slow, [[-1.0]])
        with held(server), pytest.raises(DeadlineExceeded, match="queue"):
            slow.infer({"seconds": [[0.0]]}, parameters={"timeout": 1000})
        ahead.result()


def test_many_threads_share_one_client(client):
    model = client.model("double")
    barrier = threading.Barrier(16)

    def work(number):
        barrier.wait()
        for step in range(20):
            images = np.full((1 + step % 8, 4), number * 1000 + step, np.float32)
            np.testing.assert_array_equal(model(images).array, images * 2)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))


@pytest.mark.parametrize("face", FACES)
def test_a_closed_client_says_so_and_closing_twice_is_fine(server, face):
    with open_client(face, url_of(face, server)) as client:
        model = client.model("double")
        model(np.zeros((1, 4), np.float32))
        client.close()
        client.close()
        for call in (client.is_live, client.models, lambda: model(np.zeros((1, 4), np.float32))):
            with pytest.raises(ClientClosed, match="is closed"):
                call()


def test_a_grpc_call_ended_by_close_says_so(server):
    client = Client(server.grpc_url)
    model = client.model("slow")
    _ = model.metadata
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        call = pool.submit(model, [[-1.0]])
        with held(server):
            client.close()
            with pytest.raises(ClientClosed):
                call.result()


def test_the_wrong_port_is_explained(server):
    swapped = server.http_url.removeprefix("http://")
    with Client(swapped) as client, pytest.raises(ClientError, match=f"HTTP port is http://{swapped}"):
        client.server_metadata()
    with Client(f"http://{server.grpc_url}") as client, pytest.raises(ClientError, match="leave out http://"):
        client.server_metadata()


def test_urls_may_name_the_protocol_and_a_path_that_is_not_there_is_explained(server):
    with Client(f"grpc://{server.grpc_url}") as client:
        assert client.is_ready()
    with Client(f"{server.http_url}/v2/") as client:
        assert client.model("double").is_ready()
    with Client(f"{server.http_url}/elsewhere") as client:
        for call in (client.server_metadata, lambda: client.model("double").metadata):
            with pytest.raises(ClientError, match=r"'/elsewhere' of the URL stands before /v2: leave it out unless"):
                call()
