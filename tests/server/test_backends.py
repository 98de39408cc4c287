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
import onnx
import onnx.parser
import openvino
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from onnx import TensorProto, helper, numpy_helper
from settled_counts import settled
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BACKENDS = ("onnxruntime", "openvino")
# Values that a wrong width, sign or rounding would change. OpenVINO's CPU computes INT64 as INT32: small ones there.
EVERY_TYPE = {
    "BOOL": (TensorProto.BOOL, np.array([[True, False], [False, True]])),
    "UINT8": (TensorProto.UINT8, np.array([[0, 255], [1, 128]], np.uint8)),
    "UINT16": (TensorProto.UINT16, np.array([[0, 65535], [256, 1]], np.uint16)),
    "UINT32": (TensorProto.UINT32, np.array([[0, 2**31 - 1], [65536, 1]], np.uint32)),
    "UINT64": (TensorProto.UINT64, np.array([[0, 2**31 - 1], [65536, 1]], np.uint64)),
    "INT8": (TensorProto.INT8, np.array([[-128, 127], [0, -1]], np.int8)),
    "INT16": (TensorProto.INT16, np.array([[-32768, 32767], [0, -1]], np.int16)),
    "INT32": (TensorProto.INT32, np.array([[-(2**31), 2**31 - 1], [0, -1]], np.int32)),
    "INT64": (TensorProto.INT64, np.array([[-(2**31), 2**31 - 1], [0, -1]], np.int64)),
    "FP16": (TensorProto.FLOAT16, np.array([[1.5, -65504], [6e-5, 0]], np.float16)),
    "FP32": (TensorProto.FLOAT, np.array([[1.1, -3e38], [1e-30, 0]], np.float32)),
    "FP64": (TensorProto.DOUBLE, np.array([[1.1, -1e300], [1e-300, 0]], np.float64)),
    "BF16": (TensorProto.BFLOAT16, np.array([[1.5, -3e38], [1e-30, 0]], ml_dtypes.bfloat16)),
    "BYTES": (TensorProto.STRING, np.array([["", "naïve"], ["日本語", "a b"]], np.object_)),
}
# ONNX Runtime's Python API takes text and bfloat16 in ways that exclude each other; OpenVINO has no text.
MODELS_OF_TYPES = {
    "onnxruntime_types": tuple(name for name in EVERY_TYPE if name != "BYTES"),
    "onnxruntime_text": ("BYTES", "INT64"),
    "openvino_types": tuple(name for name in EVERY_TYPE if name != "BYTES"),
}
WIDE = {
    "INT64": np.array([[-(2**63), 2**63 - 1]], np.int64),
    "UINT64": np.array([[2**64 - 1, 0]], np.uint64),
}

PAIR = """
<ir_version: 10, opset_import: ["" : 21]>
pair (float[batch, 3] a, float[batch, 3] b) => (float[batch, 3] total, float[batch, 3] difference)
{
  total = Add (a, b)
  difference = Sub (a, b)
}
"""
LOOKUP = """
<ir_version: 10, opset_import: ["" : 21]>
lookup (int64[batch, 2] rows) => (float[batch, 2] values)
<float[3] table = {10, 20, 30}>
{
  values = Gather (table, rows)
}
"""
SCALAR = """
<ir_version: 10, opset_import: ["" : 21]>
scalar (float x) => (float y)
{
  y = Add (x, x)
}
"""
PER_ROW = """
<ir_version: 10, opset_import: ["" : 21]>
per_row (float[batch] x) => (float[batch] y)
{
  y = Add (x, x)
}
"""
OPTIONAL = """
<ir_version: 10, opset_import: ["" : 21]>
optional (float[2] x, float[2] bias) => (float[2] y)
<float[2] bias = {1, 2}>
{
  y = Add (x, bias)
}
"""
FIXED_BATCH = """
<ir_version: 10, opset_import: ["" : 21]>
fixed_batch (float[1, 3] x) => (float[1, 3] y)
{
  y = Add (x, x)
}
"""
PRODUCT = """
<ir_version: 10, opset_import: ["" : 21]>
product (float[batch, 64] x) => (float[batch, 64] y)
{
  y = MatMul (x, w)
}
"""
# What is greater than 0.5 in the rows, one row of the answer each; and two rows of the answer for each row.
FOUND = """
<ir_version: 10, opset_import: ["" : 21]>
found (float[batch, 3] x) => (float[%s] y)
<float limit = {0.5}>
{
  mask = Greater (x, limit)
  where = NonZero (mask)
  places = Transpose <perm = [1, 0]> (where)
  y = GatherND (x, places)
}
"""
TWO_FOR_ONE = """
<ir_version: 10, opset_import: ["" : 21]>
two_for_one (float[batch, 2] x) => (float[M0, 1] y)
<int64[2] column = {-1, 1}>
{
  y = Reshape (x, column)
}
"""
IS_KNOWN = """
<ir_version: 10, opset_import: ["" : 21]>
is_known (string[batch, 1] x) => (bool[batch, 1] y)
<string[1] known = {"known"}>
{
  y = Equal (x, known)
}
"""
# As tf2onnx and torch.onnx with lists of dynamic axes write them.
OTHER_NAME = """
<ir_version: 10, opset_import: ["" : 21]>
other_name (float[unk__6, 16] var_0) => (float[unk__7, 16] var_1, float[unk__8, 16] var_2)
{
  var_1 = Abs (var_0)
  var_2 = Neg (var_0)
}
"""
SQUARE = """
<ir_version: 10, opset_import: ["" : 21]>
square (float[n, n] x) => (float[n, n] y)
{
  y = Transpose (x)
}
"""

# Declared to take batches by mistake: how many rows an answer has is told by what is found, or not that of the request.
ANSWERS_WITHOUT_ROWS = [
    ("found_by_name", FOUND % "detections", 3, "dims: 1 reshape { }"),
    ("found", FOUND % "M0", 3, "dims: 1 reshape { }"),
    ("two_for_one", TWO_FOR_ONE, 2, "dims: 1"),
]

# As users of the container write them, after the examples in the README of Triton's ONNX Runtime backend.
STOCK_TENSORRT = """
name: "stock_tensorrt"
platform: "onnxruntime_onnx"
max_batch_size: 8
input [ { name: "a" data_type: TYPE_FP32 dims: [ 3 ] }, { name: "b" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "total" data_type: TYPE_FP32 dims: [ 3 ] }, { name: "difference" data_type: TYPE_FP32 dims: [ 3 ] } ]
instance_group [ { count: 1 kind: KIND_AUTO } ]
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }
optimization { execution_accelerators {
  gpu_execution_accelerator : [ {
    name : "tensorrt"
    parameters { key: "precision_mode" value: "FP16" }
    parameters { key: "max_workspace_size_bytes" value: "1073741824" }
    parameters { key: "trt_engine_cache_enable" value: "1" }
    parameters { key: "trt_engine_cache_path" value: "/tmp/engines" }
  } ]
}}
"""
STOCK_THREADS = """
name: "stock_threads"
backend: "onnxruntime"
max_batch_size: 16
input [ { name: "a" data_type: TYPE_FP32 dims: [ 3 ] }, { name: "b" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "total" data_type: TYPE_FP32 dims: [ 3 ] } ]
instance_group [ { count: 2 kind: KIND_CPU } ]
optimization { graph : { level : 1 } }
parameters { key: "intra_op_thread_count" value: { string_value: "2" } }
parameters { key: "inter_op_thread_count" value: { string_value: "1" } }
parameters { key: "execution_mode" value: { string_value: "1" } }
parameters { key: "enable_mem_arena" value: { string_value: "1" } }
parameters { key: "enable_mem_pattern" value: { string_value: "0" } }
parameters { key: "memory.enable_memory_arena_shrinkage" value: { string_value: "cpu:0" } }
parameters { key: "session.use_device_allocator_for_initializers" value: { string_value: "1" } }
dynamic_batching { }
"""
STOCK_CUDA = """
name: "stock_cuda"
backend: "onnxruntime"
max_batch_size: 4
input [ { name: "a" data_type: TYPE_FP32 dims: [ 3 ] }, { name: "b" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "total" data_type: TYPE_FP32 dims: [ 3 ] } ]
instance_group [ { count: 1 kind: KIND_AUTO } ]
optimization { execution_accelerators {
  gpu_execution_accelerator : [ { name : "cuda" parameters { key: "cudnn_conv_use_max_workspace" value: "0" } } ]
  cpu_execution_accelerator : [ { name : "openvino" } ]
}}
parameters { key: "cudnn_conv_algo_search" value: { string_value: "0" } }
parameters { key: "gpu_mem_limit" value: { string_value: "4294967200" } }
"""
STOCK_OPENVINO = """
name: "stock_openvino"
backend: "openvino"
default_model_filename: "model.onnx"
max_batch_size: 8
input [ { name: "a" data_type: TYPE_FP32 dims: [ 3 ] }, { name: "b" data_type: TYPE_FP32 dims: [ 3 ] } ]
output [ { name: "total" data_type: TYPE_FP32 dims: [ 3 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
parameters: [
  { key: "NUM_STREAMS" value: { string_value: "1" } },
  { key: "PERFORMANCE_HINT" value: { string_value: "LATENCY" } }
]
parameters { key: "INFERENCE_NUM_THREADS" value: { string_value: "1" } }
parameters { key: "SKIP_OV_DYNAMIC_BATCHSIZE" value: { string_value: "YES" } }
parameters { key: "ENABLE_BATCH_PADDING" value: { string_value: "YES" } }
"""
STOCK = {
    "stock_tensorrt": STOCK_TENSORRT,
    "stock_threads": STOCK_THREADS,
    "stock_cuda": STOCK_CUDA,
    "stock_openvino": STOCK_OPENVINO,
}

ONE_INSTANCE = "instance_group { kind: KIND_CPU count: 1 }"
# Waits long enough for the requests that a test sends together to become one batch.
TOGETHER = "max_batch_size: 8 dynamic_batching { preferred_batch_size: 8 max_queue_delay_microseconds: 500000 }"
PAIR_INPUTS = (
    'input { name: "a" data_type: TYPE_FP32 dims: 3 } input { name: "b" data_type: TYPE_FP32 dims: 3 }'
    ' output { name: "total" data_type: TYPE_FP32 dims: 3 }'
)

TEXT_SEQUENCE_ID = 'name: "a" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING }'
# What must not load: the configuration, the model, and what the reason says.
REFUSED = {
    "no_such_backend": ('backend: "tensorrt"', PAIR, "backend 'tensorrt' is not part of this server"),
    "config_syntax": ('backend: "onnxruntime', PAIR, "config.pbtxt cannot be read: line 1, column"),
    "no_such_accelerator": (
        'backend: "onnxruntime" optimization { execution_accelerators { cpu_execution_accelerator { name: "warp" } } }',
        PAIR,
        "unknown CPU accelerator 'warp'",
    ),
    "execution_mode_7": (
        'backend: "onnxruntime" parameters { key: "execution_mode" value: { string_value: "7" } }',
        PAIR,
        "'execution_mode' must be 0 (sequential) or 1 (parallel), got 7",
    ),
    "text_sequence_id": (
        f'backend: "onnxruntime" max_batch_size: 2 sequence_batching {{ control_input {{ {TEXT_SEQUENCE_ID} }} }}',
        PAIR,
        "a sequence id as TYPE_STRING (CONTROL_SEQUENCE_CORRID) is not supported by this server's backends",
    ),
    "wrong_type": (
        f'backend: "onnxruntime" max_batch_size: 2 {PAIR_INPUTS}'.replace("TYPE_FP32", "TYPE_INT32", 1),
        PAIR,
        "input 'a' is TYPE_INT32 in the configuration and TYPE_FP32 in the model",
    ),
    "wrong_dims": (
        f'backend: "onnxruntime" max_batch_size: 2 {PAIR_INPUTS}'.replace("dims: 3", "dims: 4", 1),
        PAIR,
        "input 'a' has shape [-1, 4] in the configuration (the first is the batch) and [-1, 3] in the model",
    ),
    "no_such_output": (
        f'backend: "onnxruntime" max_batch_size: 2 {PAIR_INPUTS}'.replace('"total"', '"totl"'),
        PAIR,
        "the model has no output 'totl'; it has total, difference",
    ),
    "forgotten_input": (
        'backend: "onnxruntime" max_batch_size: 2 input { name: "a" data_type: TYPE_FP32 dims: 3 }',
        PAIR,
        "the model has an input 'b', which the configuration omits",
    ),
    "batch_not_free": (
        'backend: "onnxruntime" max_batch_size: 8',
        FIXED_BATCH,
        "max_batch_size is 8, but the first dimension of the model's inputs and outputs is fixed",
    ),
    "gone": ('backend: "onnxruntime" default_model_filename: "net.onnx"', "", "there is no net.onnx in version 1"),
    "openvino_threads": (
        'backend: "openvino" parameters { key: "INFERENCE_NUM_THREADS" value: { string_value: "many" } }',
        PAIR,
        "'INFERENCE_NUM_THREADS' must be a whole number of at least 0, got 'many'",
    ),
    "openvino_hint": (
        'backend: "openvino" parameters { key: "PERFORMANCE_HINT" value: { string_value: "FASTER" } }',
        PAIR,
        "'PERFORMANCE_HINT' must be LATENCY or THROUGHPUT or CUMULATIVE_THROUGHPUT, got 'FASTER'",
    ),
}


def identity(names: Sequence[str]) -> onnx.ModelProto:
    def tensor(prefix: str, name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(f"{prefix}_{name}", EVERY_TYPE[name][0], ["batch", 2])

    graph = helper.make_graph(
        [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in names],
        "identity",
        [tensor("in", name) for name in names],
        [tensor("out", name) for name in names],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def add_model(repository: Path, name: str, model: onnx.ModelProto | str, config: str = "") -> Path:
    """Put a model into the repository as its version 1 and return that folder."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    if model:
        onnx.save(onnx.parser.parse_model(model) if isinstance(model, str) else model, version / "model.onnx")
    if config:
        (repository / name / "config.pbtxt").write_text(config)
    return version


def product_model() -> onnx.ModelProto:
    model = onnx.parser.parse_model(PRODUCT)
    weights = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return model


def unbatched_config(backend: str, names: Sequence[str]) -> str:
    types = {"BYTES": "STRING"}
    tensors = [
        f'{kind} {{ name: "{prefix}_{name}" data_type: TYPE_{types.get(name, name)} dims: [ -1, 2 ] }}'
        for kind, prefix in (("input", "in"), ("output", "out"))
        for name in names
    ]
    return f'backend: "{backend}" {ONE_INSTANCE} {" ".join(tensors)}'


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backends")
    for model, names in MODELS_OF_TYPES.items():
        backend = model.partition("_")[0]
        add_model(folder, model, identity(names), f'backend: "{backend}" {ONE_INSTANCE}')
        add_model(folder, f"{model}_unbatched", identity(names), unbatched_config(backend, names))
    for backend in BACKENDS:
        alone = f'backend: "{backend}" {ONE_INSTANCE}'
        add_model(folder, f"{backend}_pair", PAIR, f"{alone} {TOGETHER}")
        add_model(folder, f"{backend}_lookup", LOOKUP, f"{alone} {TOGETHER}")
        add_model(folder, f"{backend}_scalar", SCALAR, alone)
        add_model(folder, f"{backend}_per_row", PER_ROW, alone)
        for name, model, columns, dims in ANSWERS_WITHOUT_ROWS:
            tensors = f'input {{ name: "x" data_type: TYPE_FP32 dims: {columns} }}'
            tensors += f' output {{ name: "y" data_type: TYPE_FP32 {dims} }}'
            add_model(folder, f"{backend}_{name}", model, f"{alone} {TOGETHER} {tensors}")
    add_model(folder, "bare", PAIR)
    add_model(folder, "square", SQUARE)
    add_model(folder, "bare_other_name", OTHER_NAME)
    add_model(folder, "onnxruntime_is_known", IS_KNOWN, f'backend: "onnxruntime" {ONE_INSTANCE} {TOGETHER}')
    add_model(
        folder, "partial", PAIR, f'backend: "onnxruntime" {ONE_INSTANCE} max_batch_size: 2 output {{ name: "total" }}'
    )
    inputs = 'input { name: "x" data_type: TYPE_FP32 dims: 2 } input { name: "bias" optional: true }'
    add_model(folder, "optional", OPTIONAL, f'backend: "onnxruntime" {ONE_INSTANCE} {inputs}')
    for name, config in STOCK.items():
        add_model(folder, name, PAIR, config)
    freed = f'backend: "openvino" {ONE_INSTANCE} max_batch_size: 4'
    add_model(folder, "openvino_freed_batch", FIXED_BATCH, freed)
    full = 'parameters { key: "INFERENCE_PRECISION_HINT" value: { string_value: "f32" } }'
    add_model(folder, "openvino_full_precision", product_model(), f"{freed} {full}")
    whole = 'parameters { key: "SKIP_OV_DYNAMIC_BATCHSIZE" value: { string_value: "YES" } }'
    add_model(folder, "openvino_whole_batches", FIXED_BATCH, f"{freed} {whole}")
    layout = add_model(folder, "openvino_layout", "", 'backend: "openvino"')
    openvino_ir_with_layout(layout / "model.xml")
    add_model(folder, "openvino_text", identity(["BYTES"]), 'backend: "openvino"')
    add_model(folder, "text_and_bfloat16", identity(["BYTES", "BF16"]), f'backend: "onnxruntime" {ONE_INSTANCE}')
    for name, (config, model, _) in REFUSED.items():
        add_model(folder, name, model, config)
    truncated = add_model(folder, "truncated", PAIR) / "model.onnx"
    truncated.write_bytes(truncated.read_bytes()[:60])
    (add_model(folder, "no_model", "") / "model.onnx").write_text("this is no model\n")
    for name, location in {
        "outside": "../../weights.bin",
        "absolute": "/etc/hostname",
        "missing": "nowhere.bin",
    }.items():
        add_model(folder, f"weights_{name}", model_with_weights_at(location))
    (add_model(folder, "weights_symlink", model_with_weights_at("link.bin")) / "link.bin").symlink_to("/etc/hostname")
    inside = add_model(
        folder, "weights_inside", model_with_weights_at("weights.bin"), f'backend: "onnxruntime" {ONE_INSTANCE}'
    )
    (inside / "weights.bin").write_bytes(np.array([5, 7], np.float32).tobytes())
    return folder


def openvino_ir_with_layout(path: Path) -> None:
    x = openvino.opset13.parameter([1, 4], np.float32, name="x")
    x.set_layout(openvino.Layout("[N,C]"))
    y = openvino.opset13.abs(x)
    x.output(0).set_names({"x"})
    y.output(0).set_names({"y"})
    openvino.save_model(openvino.Model([y], [x], "layout"), path, compress_to_fp16=False)


def model_with_weights_at(location: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(OPTIONAL)
    del model.graph.input[1]
    weights = numpy_helper.from_array(np.zeros(2, np.float32), "bias")
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "8"}.items():
        weights.external_data.add(key=key, value=value)
    model.graph.initializer[0].CopyFrom(weights)
    return model


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
    np.testing.assert_array_equal(ask(grpc, "openvino_layout", {"x": sent}).as_numpy("y"), np.abs(sent))


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


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_be_served_is_refused_with_the_reason(name, server):
    models = {model.name: model for model in server.models()}
    assert models[name].state == "UNAVAILABLE"
    assert REFUSED[name][2] in models[name].reason
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


@pytest.mark.parametrize(
    ("name", "reason"),
    {
        "openvino_text": "is text, which OpenVINO cannot serve",
        "text_and_bfloat16": "has both text and bfloat16",
    }.items(),
)
def test_types_that_a_runtime_cannot_serve_are_refused(name, reason, server):
    models = {model.name: model for model in server.models()}
    assert models[name].state == "UNAVAILABLE"
    assert reason in models[name].reason


@pytest.mark.parametrize("name", ["truncated", "no_model"])
def test_a_file_that_is_no_model_is_refused(name, server):
    models = {model.name: model for model in server.models()}
    assert models[name].state == "UNAVAILABLE"
    assert "model.onnx is not an ONNX model, or only a part of one" in models[name].reason


@pytest.mark.parametrize("name", ["outside", "absolute", "symlink"])
def test_weights_outside_the_models_folder_are_not_read(name, server):
    models = {model.name: model for model in server.models()}
    assert models[f"weights_{name}"].state == "UNAVAILABLE"
    assert "outside its folder" in models[f"weights_{name}"].reason


def test_missing_weights_are_named(server):
    models = {model.name: model for model in server.models()}
    assert "keeps weights in 'nowhere.bin', which is missing" in models["weights_missing"].reason


def test_weights_beside_the_model_are_read(grpc):
    answer = ask(grpc, "weights_inside", {"x": np.array([1, 1], np.float32)})
    np.testing.assert_array_equal(answer.as_numpy("y"), np.array([6, 8], np.float32))
