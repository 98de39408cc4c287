"""What the backends `onnxruntime` and `openvino` do with models and requests, asked over gRPC and HTTP."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from backend_models import BACKENDS, EVERY_TYPE, MODELS_OF_TYPES, REFUSED, STOCK, WIDE, fill, product_model
from onnx import numpy_helper
from settled_counts import settled
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Of configurations, and of files: of types that no runtime serves, damaged, or with weights elsewhere.
REASONS = {name: reason for name, (_, _, reason) in REFUSED.items()} | {
    "openvino_text": "is text, which OpenVINO cannot serve",
    "text_and_bfloat16": "has both text and bfloat16",
    **dict.fromkeys(("truncated", "no_model"), "model.onnx is not an ONNX model, or only a part of one"),
    **{f"weights_{name}": "outside its folder" for name in ("outside", "absolute", "symlink")},
    "weights_missing": "keeps weights in 'nowhere.bin', which is missing",
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backends")
    fill(folder)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[TritonServer]:
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, config_name="none")
    with TritonServer(options) as started:
        yield started


@pytest.fixture(scope="module")
def grpc(server: TritonServer) -> Iterator[grpc_client.InferenceServerClient]:
    with grpc_client.InferenceServerClient(server.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def http(server: TritonServer) -> Iterator[http_client.InferenceServerClient]:
    with http_client.InferenceServerClient(server.http_url.removeprefix("http://")) as client:
        yield client


def make_inputs(module: Any, arrays: Mapping[str, np.ndarray]) -> list[Any]:
    inputs = []
    for name, array in arrays.items():
        datatype = "BF16" if array.dtype == ml_dtypes.bfloat16 else np_to_triton_dtype(array.dtype)
        tensor = module.InferInput(name, array.shape, datatype)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return inputs


def ask(client: Any, model: str, arrays: Mapping[str, np.ndarray], outputs: Sequence[str] = ()) -> Any:
    module = grpc_client if isinstance(client, grpc_client.InferenceServerClient) else http_client
    wanted = [module.InferRequestedOutput(name) for name in outputs] or None
    return client.infer(model, make_inputs(module, arrays), outputs=wanted)


def ask_together(
    client: grpc_client.InferenceServerClient,
    model: str,
    requests: Sequence[tuple[Mapping[str, np.ndarray], tuple[str, ...]]],
) -> list[Any]:
    """Send all requests at once; the answers, or the errors, in their order."""
    answers: queue.Queue[tuple[int, Any]] = queue.Queue()
    for number, (arrays, outputs) in enumerate(requests):
        wanted = [grpc_client.InferRequestedOutput(name) for name in outputs] or None

        def keep(result: Any, error: Any, number: int = number) -> None:
            answers.put((number, error or result))

        client.async_infer(model, make_inputs(grpc_client, arrays), keep, outputs=wanted)
    received = dict(answers.get(timeout=60) for _ in requests)
    return [received[number] for number in range(len(requests))]


def ask_sequences(client: grpc_client.InferenceServerClient, model: str, values: Sequence[float], **flags: bool) -> Any:
    """The next request of sequences 1, 2, ..., all at once: the sum that each gives, or its error."""
    answers: queue.Queue[tuple[int, Any]] = queue.Queue()
    for number, value in enumerate(values):

        def keep(result: Any, error: Any, number: int = number) -> None:
            answers.put((number, error or float(result.as_numpy("sum").item())))

        inputs = make_inputs(grpc_client, {"x": np.array([[value]], np.float32)})
        client.async_infer(model, inputs, keep, sequence_id=number + 1, **flags)
    received = dict(answers.get(timeout=60) for _ in values)
    return [received[number] for number in range(len(values))]


def executions(client: grpc_client.InferenceServerClient, model: str) -> tuple[int, int]:
    """How many rows the model computed, and in how many runs."""

    def counted() -> tuple[int, int]:
        statistics = client.get_inference_statistics(model).model_stats[0]
        return statistics.inference_count, statistics.execution_count

    return settled(counted)


def as_text(array: np.ndarray) -> np.ndarray:
    return np.array([item.decode() for item in array.reshape(-1)], np.object_).reshape(array.shape)


def rows_of(model: str, rows: slice) -> dict[str, np.ndarray]:
    return {f"in_{name}": np.ascontiguousarray(EVERY_TYPE[name][1][rows]) for name in MODELS_OF_TYPES[model]}


@pytest.fixture(scope="module")
def every_answer(
    grpc: grpc_client.InferenceServerClient, http: http_client.InferenceServerClient
) -> dict[tuple[str, str], Any]:
    return {
        (model, protocol): ask(client, model, rows_of(model, slice(None)))
        for model in MODELS_OF_TYPES
        for protocol, client in {"grpc": grpc, "http": http}.items()
    }


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize(
    ("model", "name"), [(model, name) for model, names in MODELS_OF_TYPES.items() for name in names]
)
def test_every_type_of_tensor_goes_through_unchanged(model, name, protocol, every_answer):
    sent = EVERY_TYPE[name][1]
    received = every_answer[model, protocol].as_numpy(f"out_{name}")
    if name == "BYTES":
        received = as_text(received)
    assert received.dtype == sent.dtype
    np.testing.assert_array_equal(received, sent)


@pytest.mark.parametrize("name", WIDE)
def test_onnxruntime_keeps_all_64_bits(name, grpc):
    arrays = {**rows_of("onnxruntime_types", slice(1)), f"in_{name}": WIDE[name]}
    answer = ask(grpc, "onnxruntime_types", arrays, [f"out_{name}"])
    np.testing.assert_array_equal(answer.as_numpy(f"out_{name}"), WIDE[name])


@pytest.mark.parametrize("model", MODELS_OF_TYPES)
def test_tensors_without_elements_go_through(model, grpc):
    answer = ask(grpc, f"{model}_unbatched", rows_of(model, slice(0)))
    shapes = {name: answer.as_numpy(f"out_{name}").shape for name in MODELS_OF_TYPES[model]}
    assert shapes == dict.fromkeys(MODELS_OF_TYPES[model], (0, 2))


@pytest.mark.parametrize("model", MODELS_OF_TYPES)
def test_every_type_is_batched_and_split_again(model, grpc):
    requests = [(rows_of(model, slice(row, row + 1)), ()) for row in (0, 1, 1, 0)]
    for (sent, _), answer in zip(requests, ask_together(grpc, model, requests), strict=True):
        for name in MODELS_OF_TYPES[model]:
            received = answer.as_numpy(f"out_{name}")
            np.testing.assert_array_equal(as_text(received) if name == "BYTES" else received, sent[f"in_{name}"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_scalar_is_served_as_one_value(backend, http):
    answer = ask(http, f"{backend}_scalar", {"x": np.array([21], np.float32)})
    np.testing.assert_array_equal(answer.as_numpy("y"), np.array([42], np.float32))


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_value_for_each_row_is_batched(backend, grpc):
    config = grpc.get_model_config(f"{backend}_per_row").config
    assert (config.max_batch_size, list(config.input[0].dims), list(config.input[0].reshape.shape)) == (4, [1], [])
    answer = ask(grpc, f"{backend}_per_row", {"x": np.array([[1], [2], [3]], np.float32)})
    np.testing.assert_array_equal(answer.as_numpy("y"), np.array([[2], [4], [6]], np.float32))


@pytest.mark.parametrize("backend", BACKENDS)
def test_requests_that_come_together_are_computed_in_one_run(backend, grpc):
    model = f"{backend}_pair"
    rows_before, runs_before = executions(grpc, model)
    requests = [
        ({"a": np.full((count, 3), count, np.float32), "b": np.full((count, 3), 10, np.float32)}, outputs)
        for count, outputs in [(1, ("total",)), (2, ("difference",)), (3, ()), (2, ("difference", "total"))]
    ]
    answers = ask_together(grpc, model, requests)
    rows, runs = executions(grpc, model)
    assert (rows - rows_before, runs - runs_before) == (8, 1)
    for (arrays, outputs), answer in zip(requests, answers, strict=True):
        expected = {"total": arrays["a"] + arrays["b"], "difference": arrays["a"] - arrays["b"]}
        assert {output.name for output in answer.get_response().outputs} == set(outputs or expected)
        for name in outputs or expected:
            np.testing.assert_array_equal(answer.as_numpy(name), expected[name])


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_outputs_that_are_asked_for_come_back(backend, http):
    arrays = {"a": np.ones((1, 3), np.float32), "b": np.ones((1, 3), np.float32)}
    answer = ask(http, f"{backend}_pair", arrays, ["difference"])
    assert [output["name"] for output in answer.get_response()["outputs"]] == ["difference"]


def test_a_request_that_fails_in_a_batch_fails_alone(grpc):
    rows = [np.array([[0, 1]]), np.array([[2, 2]]), np.array([[0, 99]]), np.array([[1, 0]])]
    padding = [np.array([[0, 0]])] * 4  # fills the batch of 8, so that nothing waits
    answers = ask_together(grpc, "onnxruntime_lookup", [({"rows": row}, ()) for row in rows + padding])
    assert isinstance(answers[2], InferenceServerException)
    assert "onnxruntime_lookup" in answers[2].message()
    assert "out of data bounds" in answers[2].message()
    assert "At:" not in answers[2].message()
    table = np.array([10, 20, 30], np.float32)
    for number in (0, 1, 3):
        np.testing.assert_array_equal(answers[number].as_numpy("values"), table[rows[number]])


@pytest.mark.parametrize(("backend", "begin"), [("onnxruntime", 100), ("openvino", 0)])
def test_eight_sequences_at_once_are_computed_in_one_run_and_each_keeps_its_own_state(backend, begin, grpc):
    model = f"{backend}_running_sum"
    config = grpc.get_model_metadata(model)
    assert ([t.name for t in config.inputs], [t.name for t in config.outputs]) == (["x"], ["sum"])
    rows_before, runs_before = executions(grpc, model)
    values = np.array([0, 1, 2, 0, 1, 2, 0, 1])
    assert ask_sequences(grpc, model, values, sequence_start=True) == list(begin + values)
    assert ask_sequences(grpc, model, values) == list(begin + 2 * values)
    assert ask_sequences(grpc, model, values, sequence_end=True) == list(begin + 3 * values)
    rows, runs = executions(grpc, model)
    assert (rows - rows_before, runs - runs_before) == (24, 3)
    # An id begins anew with the initial state.
    assert ask_sequences(grpc, model, values, sequence_start=True, sequence_end=True) == list(begin + values)


def test_a_request_that_fails_leaves_its_sequence_and_others_as_they_were(grpc):
    model = "onnxruntime_running_sum"
    ask_sequences(grpc, model, [1] * 8, sequence_start=True)
    answers = ask_sequences(grpc, model, [1, 99, 1, 1, 1, 1, 1, 1])
    assert isinstance(answers[1], InferenceServerException)
    assert "out of data bounds" in answers[1].message()
    assert answers[:1] + answers[2:] == [102] * 7
    assert ask_sequences(grpc, model, [1] * 8, sequence_end=True) == [103, 102, 103, 103, 103, 103, 103, 103]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_is_given_the_controls_of_a_sequence(backend, grpc):
    model = f"{backend}_controlled"
    assert ask_sequences(grpc, model, [1, 2], sequence_start=True) == [1011, 1022]
    assert ask_sequences(grpc, model, [1, 2], sequence_end=True) == [11, 22]


def test_a_sequence_whose_first_request_failed_does_not_continue_the_one_that_had_its_id_before(grpc):
    model = "onnxruntime_running_sum"
    assert ask_sequences(grpc, model, [1], sequence_start=True) == [101]
    (failed,) = ask_sequences(grpc, model, [99], sequence_start=True)
    assert "out of data bounds" in failed.message()
    (refused,) = ask_sequences(grpc, model, [1], sequence_end=True)
    assert "sequence 1 has no state: its first request failed" in refused.message()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model", ["found_by_name", "found"])
def test_requests_never_get_what_was_found_in_another(backend, model, grpc, server):
    rows = [np.array([row], np.float32) for row in ([7, 8, 0], [0, 0, 0], [9, 0, 0], [0, 0, 0])] * 4
    for row, answer in zip(rows, ask_together(grpc, f"{backend}_{model}", [({"x": r}, ()) for r in rows]), strict=True):
        np.testing.assert_array_equal(answer.as_numpy("y").ravel(), row[row > 0.5])
    assert f"model '{backend}_{model}': requests are computed one at a time, because " in server.log_path.read_text()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_answer_without_the_rows_of_its_requests_is_not_cut_up(backend, grpc, server):
    rows = [np.array([[number, -number]], np.float32) for number in range(16)]
    answers = ask_together(grpc, f"{backend}_two_for_one", [({"x": row}, ()) for row in rows])
    for row, answer in zip(rows, answers, strict=True):
        np.testing.assert_array_equal(answer.as_numpy("y"), row.T)
    log = server.log_path.read_text()
    assert f"model '{backend}_two_for_one': requests are computed one at a time, because output 'y' had " in log


def test_text_that_is_not_utf8_cannot_be_an_answer(grpc):
    arrays = {**rows_of("onnxruntime_text", slice(1)), "in_BYTES": np.array([[b"\xff\xfe", b"a"]], np.object_)}
    with pytest.raises(InferenceServerException, match="an output is text that is not UTF-8"):
        ask(grpc, "onnxruntime_text", arrays)


def test_text_that_is_not_utf8_reaches_the_model_as_it_is(grpc):
    """Also among requests of one batch with other text."""
    texts = [b"\xff\xfe", b"known", b"\xff\xfe", "gr\u00fcn".encode(), b"known"] * 3
    requests = [({"x": np.array([[text]], np.object_)}, ()) for text in texts]
    for text, answer in zip(texts, ask_together(grpc, "onnxruntime_is_known", requests), strict=True):
        assert answer.as_numpy("y").item() is (text == b"known")


def test_an_optional_input_may_be_left_out(grpc):
    x = np.array([10, 20], np.float32)
    without = ask(grpc, "optional", {"x": x}).as_numpy("y")
    np.testing.assert_array_equal(without, x + np.array([1, 2], np.float32))
    given = ask(grpc, "optional", {"x": x, "bias": np.array([5, 5], np.float32)}).as_numpy("y")
    np.testing.assert_array_equal(given, x + 5)


def test_a_missing_config_is_completed_from_the_model(grpc):
    config = grpc.get_model_config("bare").config
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 4)
    assert config.HasField("dynamic_batching")
    tensors = [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in (*config.input, *config.output)]
    assert tensors == [(name, 11, [3]) for name in ("a", "b", "total", "difference")]


def test_a_model_whose_outputs_name_the_batch_otherwise_is_batched(grpc, server):
    config = grpc.get_model_config("bare_other_name").config
    assert config.max_batch_size == 4
    assert config.HasField("dynamic_batching")
    assert [list(tensor.dims) for tensor in (*config.input, *config.output)] == [[16]] * 3
    assert "model 'bare_other_name': batching is turned on with max_batch_size 4" in server.log_path.read_text()
    sent = np.arange(48, dtype=np.float32).reshape(3, 16)
    np.testing.assert_array_equal(ask(grpc, "bare_other_name", {"var_0": sent}).as_numpy("var_2"), -sent)


def test_an_openvino_model_whose_layout_has_a_batch_is_batched(grpc):
    config = grpc.get_model_config("openvino_layout").config
    assert (config.max_batch_size, list(config.input[0].dims), list(config.output[0].dims)) == (4, [4], [4])
    sent = np.arange(12, dtype=np.float32).reshape(3, 4)
    answered = ask(grpc, "openvino_layout", {"x": sent}).as_numpy("y")
    np.testing.assert_array_equal(answered, np.abs(sent) * np.float32([1, 2, 3, 4]))


def test_a_partial_config_is_completed_and_what_it_says_is_kept(grpc):
    config = grpc.get_model_config("partial").config
    assert config.max_batch_size == 2
    assert [tensor.name for tensor in config.input] == ["a", "b"]
    assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.output] == [("total", 11, [3])]


def test_a_dimension_that_is_no_batch_is_not_taken_for_one(grpc):
    config = grpc.get_model_config("square").config
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [-1, -1])
    sent = np.arange(9, dtype=np.float32).reshape(3, 3)
    np.testing.assert_array_equal(ask(grpc, "square", {"x": sent}).as_numpy("y"), sent.T)


@pytest.mark.parametrize("name", STOCK)
def test_a_stock_config_of_the_container_serves_unchanged(name, grpc, server):
    assert {model.name: model.state for model in server.models()}[name] == "READY"
    a, b = np.array([[1, 2, 3]], np.float32), np.array([[10, 20, 30]], np.float32)
    np.testing.assert_array_equal(ask(grpc, name, {"a": a, "b": b}).as_numpy("total"), a + b)


def test_the_log_says_which_accelerator_is_not_used(server):
    log = server.log_path.read_text()
    assert "model 'stock_tensorrt': the accelerator tensorrt needs a GPU; the CPU is used" in log
    assert "model 'stock_cuda': this ONNX Runtime has no OpenVINO provider" in log


def test_each_instance_is_a_process_of_its_own(server):
    log = server.log_path.read_text()
    assert log.count("TRITONBACKEND_ModelInstanceInitialize: stock_threads") == 2
    assert log.count("model 'stock_threads': ONNX Runtime") == 2


def test_openvino_frees_a_fixed_batch(grpc):
    sent = np.arange(9, dtype=np.float32).reshape(3, 3)
    np.testing.assert_array_equal(ask(grpc, "openvino_freed_batch", {"x": sent}).as_numpy("y"), 2 * sent)


def test_openvino_computes_in_full_precision_when_told_so(grpc, server):
    sent = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)
    weights = numpy_helper.to_array(product_model().graph.initializer[0])
    received = ask(grpc, "openvino_full_precision", {"x": sent}).as_numpy("y")
    # bfloat16, which a CPU with AMX takes by itself, keeps two to three digits.
    np.testing.assert_allclose(received, sent @ weights, rtol=0, atol=1e-4)
    assert "model 'openvino_full_precision': OpenVINO" in server.log_path.read_text()


def test_openvino_takes_whole_batches_only_when_told_so(grpc):
    whole = np.ones((4, 3), np.float32)
    np.testing.assert_array_equal(ask(grpc, "openvino_whole_batches", {"x": whole}).as_numpy("y"), 2 * whole)
    with pytest.raises(InferenceServerException, match="expected a batch of exactly 4 rows, got 3"):
        ask(grpc, "openvino_whole_batches", {"x": whole[:3]})


@pytest.mark.parametrize(("name", "reason"), REASONS.items())
def test_a_model_that_cannot_be_served_is_refused_with_the_reason(name, reason, server):
    models = {model.name: model for model in server.models()}
    assert models[name].state == "UNAVAILABLE"
    assert reason in models[name].reason
    assert "\n" not in models[name].reason


@pytest.mark.parametrize("command", ["models", "health"])
def test_commands_show_the_reason_without_lines_of_source_code(command, server):
    plansmith = Path(sys.executable).with_name("plansmith")
    environment = {**os.environ, "COLUMNS": "300", "NO_COLOR": "1"}
    outcome = subprocess.run(
        [plansmith, command, "--url", server.grpc_url], capture_output=True, text=True, check=False, env=environment
    )
    shown = outcome.stdout + outcome.stderr
    assert "'execution_mode' must be 0 (sequential) or 1 (parallel), got 7" in shown
    assert ".py(" not in shown


def test_weights_beside_the_model_are_read(grpc):
    answer = ask(grpc, "weights_inside", {"x": np.array([1, 1], np.float32)})
    np.testing.assert_array_equal(answer.as_numpy("y"), np.array([6, 8], np.float32))
