"""The models and configurations that the tests of the backends serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import openvino
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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

# What it was given so far, and an error for 99.
RUNNING_SUM = """
<ir_version: 10, opset_import: ["" : 21]>
running_sum (float[batch, 1] x, float[batch, 1] sum_before) => (float[batch, 1] sum, float[batch, 1] sum_after)
<float[3] table = {0, 1, 2}>
{
  place = Cast <to = 7> (x)
  value = Gather (table, place)
  sum_after = Add (sum_before, value)
  sum = Identity (sum_after)
}
"""
# What the sequence batcher adds to each request: 1000 for a first one, 10 times the sequence's id.
CONTROLLED = """
<ir_version: 10, opset_import: ["" : 21]>
controlled (float[batch, 1] x, float[batch, 1] begins, int32[batch, 1] id) => (float[batch, 1] sum)
<float thousand = {1000}, float ten = {10}>
{
  beginning = Mul (begins, thousand)
  number = Cast <to = 1> (id)
  tens = Mul (number, ten)
  both = Add (beginning, tens)
  sum = Add (x, both)
}
"""
CONTROLS = """
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 1 } output { name: "sum" data_type: TYPE_FP32 dims: 1 }
sequence_batching {
  control_input { name: "begins" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } }
  control_input { name: "id" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_INT32 } }
}
"""
BEGINS_AT_100 = 'name: "hundred" data_file: "hundred"'
BEGINS_AT_0 = 'name: "zero" zero_data: true'

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


def running_sum_config(backend: str, begin: str) -> str:
    state = 'input_name: "sum_before" output_name: "sum_after" data_type: TYPE_FP32 dims: 1'
    strategy = "oldest { preferred_batch_size: 8 max_queue_delay_microseconds: 500000 max_candidate_sequences: 8 }"
    return f"""
        backend: "{backend}" {ONE_INSTANCE} max_batch_size: 8
        input {{ name: "x" data_type: TYPE_FP32 dims: 1 }} output {{ name: "sum" data_type: TYPE_FP32 dims: 1 }}
        sequence_batching {{
          {strategy}
          max_sequence_idle_microseconds: 60000000
          state {{ {state} initial_state {{ {begin} data_type: TYPE_FP32 dims: 1 }} }}
        }}
    """


def fill(folder: Path) -> None:
    """Put every model and configuration of these tests into a repository."""
    for model, names in MODELS_OF_TYPES.items():
        backend = model.partition("_")[0]
        add_model(folder, model, identity(names), f'backend: "{backend}" {ONE_INSTANCE}')
        add_model(folder, f"{model}_unbatched", identity(names), unbatched_config(backend, names))
    for backend in BACKENDS:
        alone = f'backend: "{backend}" {ONE_INSTANCE}'
        add_model(folder, f"{backend}_pair", PAIR, f"{alone} {TOGETHER}")
        add_model(folder, f"{backend}_lookup", LOOKUP, f"{alone} {TOGETHER}")
        add_model(folder, f"{backend}_scalar", SCALAR, alone)
        add_model(folder, f"{backend}_controlled", CONTROLLED, f"{alone} {CONTROLS}")
        add_model(folder, f"{backend}_per_row", PER_ROW, alone)
        for name, model, columns, dims in ANSWERS_WITHOUT_ROWS:
            tensors = f'input {{ name: "x" data_type: TYPE_FP32 dims: {columns} }}'
            tensors += f' output {{ name: "y" data_type: TYPE_FP32 {dims} }}'
            add_model(folder, f"{backend}_{name}", model, f"{alone} {TOGETHER} {tensors}")
    for backend, begin in {"onnxruntime": BEGINS_AT_100, "openvino": BEGINS_AT_0}.items():
        add_model(folder, f"{backend}_running_sum", RUNNING_SUM, running_sum_config(backend, begin))
    initial = folder / "onnxruntime_running_sum" / "initial_state"
    initial.mkdir()
    (initial / "hundred").write_bytes(np.float32(100).tobytes())
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


def openvino_ir_with_layout(path: Path) -> None:
    x = openvino.opset13.parameter([1, 4], np.float32, name="x")
    x.set_layout(openvino.Layout("[N,C]"))
    # What it is multiplied with stands in model.bin.
    y = openvino.opset13.multiply(openvino.opset13.abs(x), np.float32([[1, 2, 3, 4]]))
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
