"""How config.pbtxt, model files and Triton's log are read: the rules that need no server to be checked."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import onnx
import onnx.parser
import onnxruntime
import pytest
from configurations import configure, signature_from

from plansmith_server import ModelError
from plansmith_server.backends import threads
from plansmith_server.backends.autocomplete import complete, is_complete
from plansmith_server.backends.model_file import find_model_file
from plansmith_server.backends.onnx_signature import read_onnx_signature
from plansmith_server.backends.onnxruntime.providers import TENSORRT_KEYS, choose_providers, wants_rtx_plugin
from plansmith_server.backends.onnxruntime.rtx_plugin import RTX, add_rtx_plugin, register_rtx_plugin
from plansmith_server.backends.onnxruntime.settings import SessionSettings
from plansmith_server.backends.openvino.settings import OpenVinoSettings
from plansmith_server.launcher.logs import Level, clean_reason, parse_line

if TYPE_CHECKING:
    from plansmith_server.backends.config import ModelConfig
    from plansmith_server.backends.signature import Signature

GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
CPU_ONLY = ("CPUExecutionProvider",)


def accelerated(*gpu: dict[str, Any], cpu: tuple[dict[str, Any], ...] = (), **parameters: str) -> ModelConfig:
    accelerators = {"gpu_execution_accelerator": list(gpu), "cpu_execution_accelerator": list(cpu)}
    return configure(optimization={"execution_accelerators": accelerators}, parameters=parameters)


@pytest.fixture
def signature_of(tmp_path):
    def read(inputs: str, outputs: str, nodes: str = "y = Identity (x)") -> Signature:
        return signature_from(tmp_path, inputs, outputs, nodes)

    return read


@pytest.mark.parametrize(
    ("inputs", "outputs", "batched"),
    [
        ("float[batch, 3] x", "float[batch, 3] y", True),
        ("float[?, 3] x", "float[?, 3] y", True),
        ("float[batch, 3] a, float[batch] x", "float[batch] y", True),
        ("float[batch, 3] x", "float[?, 3] y", True),
        ("float[1, 3] x", "float[1, 3] y", False),
        ("float[batch, 3] x", "float[3] y", False),
        ("float[rows] a, float[columns] x", "float[columns] y", False),
        ("float[n, n] x", "float[n, n] y", False),
        ("float x", "float y", False),
    ],
)
def test_a_model_batches_if_everything_has_the_same_free_first_dimension(inputs, outputs, batched, signature_of):
    assert signature_of(inputs, outputs).is_batched is batched


@pytest.mark.parametrize(
    ("graph", "batched"),
    [
        ("(float[unk__6, 4] x) => (float[unk__7, 4] y) { y = Relu (x) }", True),
        ("(float[rows, 4] x) => (float[results, 4] y) { y = Relu (x) }", True),
        ("(float[?, 2, 2] x) => (float[?, 4] y) <int64[2] s = {-1, 4}> { y = Reshape (x, s) }", True),
        ("(float[?, 4] x) => (float[?, 2] y) <int64[2] s = {-1, 2}> { y = Reshape (x, s) }", False),
        ("(float[a0, 4] x, float[b0, 4] z) => (float[c0, 4] y) { y = Add (x, z) }", True),
        ("(float[?, 4] x, int64[?] z) => (float[?, 4] y) { y = Gather (x, z) }", False),
        ("(float[a0, 4] x, float[b0, 4] z) => (float[c0, 4] y) { y = Concat <axis = 0> (x, z) }", False),
        ("(float[n, 4] x) => (float[?, ?] y) { t = Transpose <perm = [1, 0]> (x) y = MatMul (x, t) }", False),
        ("(float[?] x) => (int64[?, 1] y) { t = NonZero (x) y = Transpose <perm = [1, 0]> (t) }", False),
        ("(float[n, m] x) => (float[k, m] y) { s = Shape (x) y = Reshape (x, s) }", True),
    ],
)
def test_a_model_batches_where_its_graph_keeps_rows_whatever_the_names(graph, batched, tmp_path):
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g {graph}')
    onnx.save(model, tmp_path / "model.onnx")
    assert read_onnx_signature(tmp_path / "model.onnx").is_batched is batched


@pytest.mark.parametrize("key", ["input", "output"])
@pytest.mark.parametrize(("dims", "max_batch_size"), [([3], 4), ([-1, 3], 0)])
def test_inputs_complete_outputs_and_outputs_inputs(key, dims, max_batch_size, signature_of):
    """Whether the batch is counted is told by the dims that are there."""
    signature = signature_of("float[batch, 3] x", "float[batch, 3] y")
    name, missing = ("x", "output") if key == "input" else ("y", "input")
    completed = complete({"name": "m", key: [{"name": name, "data_type": "TYPE_FP32", "dims": dims}]}, signature)
    assert completed["max_batch_size"] == max_batch_size
    assert completed[missing][0]["dims"] == dims
    assert ("dynamic_batching" in completed) is bool(max_batch_size)


def test_batching_that_nobody_asked_for_is_said_once(signature_of, caplog):
    signature = signature_of("float[batch, 3] x", "float[batch, 3] y")
    with caplog.at_level(logging.INFO, "plansmith_server"):
        complete({"name": "m"}, signature)
        complete({"name": "m", "max_batch_size": 8}, signature)
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "model 'm': batching is turned on with max_batch_size 4"
    ]


def test_an_output_without_a_shape_gets_the_inferred_one(tmp_path):
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 21]> g (float[b, 3] x) => (float[b, 3] y) { y = Abs (x) }'
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "model.onnx")
    assert read_onnx_signature(tmp_path / "model.onnx").outputs[0].shape == ("b", 3)


def test_a_shape_that_nobody_knows_must_be_configured(tmp_path):
    text = (
        '<ir_version: 10, opset_import: ["" : 21]> g (float[a, b] x, int64[n] s) => (float[a] y) { y = Reshape (x, s) }'
    )
    model = onnx.parser.parse_model(text)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "model.onnx")
    signature = read_onnx_signature(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="does not declare the number of dimensions of 'y': write its dims"):
        complete({"name": "m"}, signature)
    given = {"name": "m", "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1]}]}
    assert complete(given, signature)["output"] == given["output"]


def test_initializers_that_are_inputs_are_no_inputs_of_a_request(tmp_path):
    text = (
        '<ir_version: 3, opset_import: ["" : 8]> g (float[2] x, float[2] w) => (float[2] y)'
        " <float[2] w = {1, 2}> { y = Add (x, w) }"
    )
    for version, optional in ((3, []), (4, ["w"])):
        model = onnx.parser.parse_model(text)
        model.ir_version = version
        onnx.save(model, tmp_path / "model.onnx")
        signature = read_onnx_signature(tmp_path / "model.onnx")
        assert [tensor.name for tensor in signature.inputs] == ["x"]
        assert [tensor.name for tensor in signature.optional_inputs] == optional


def test_a_configuration_that_says_everything_is_complete():
    tensor = {"name": "x", "data_type": "TYPE_FP32", "dims": [3]}
    assert is_complete({"input": [tensor], "output": [tensor]})
    assert not is_complete({"input": [tensor], "output": []})
    assert not is_complete({"input": [tensor], "output": [{**tensor, "dims": []}]})
    assert not is_complete({"input": [{**tensor, "data_type": "TYPE_INVALID"}], "output": [tensor]})


def test_completion_leaves_a_chosen_scheduler_and_batch_size_alone(signature_of):
    signature = signature_of("float[batch, 3] x", "float[batch, 3] y")
    completed = complete({"name": "m", "max_batch_size": 32, "sequence_batching": {}}, signature)
    assert completed["max_batch_size"] == 32
    assert "dynamic_batching" not in completed
    assert complete({"name": "m", "max_batch_size": 1}, signature).get("dynamic_batching") is None


def test_control_inputs_of_a_sequence_are_not_inputs_of_a_request(signature_of):
    signature = signature_of("float[batch, 1] start, float[batch, 3] x", "float[batch, 3] y")
    config = {"name": "m", "max_batch_size": 4, "sequence_batching": {"control_input": [{"name": "start"}]}}
    assert [tensor["name"] for tensor in complete(config, signature)["input"]] == ["x"]


def test_states_of_a_sequence_are_neither_inputs_of_a_request_nor_outputs_of_an_answer(signature_of):
    signature = signature_of(
        "float[batch, 3] x, float[batch, 2] h", "float[batch, 3] y, float[batch, 2] hn", "y = Identity (x) hn = Neg (h)"
    )
    state = {"input_name": "h", "output_name": "hn", "data_type": "TYPE_FP32", "dims": [2]}
    config = {"name": "m", "max_batch_size": 4, "sequence_batching": {"state": [state]}}
    completed = complete(config, signature)
    assert [[tensor["name"] for tensor in completed[key]] for key in ("input", "output")] == [["x"], ["y"]]


@pytest.mark.parametrize(
    ("name", "message"),
    [("../secret.onnx", "points outside"), ("/etc/passwd", "points outside"), ("a" * 300, "cannot be used")],
)
def test_a_model_file_outside_its_version_is_not_read(name, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        find_model_file(tmp_path, name)


def test_a_model_file_may_be_a_folder_or_have_the_usual_name(tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "model.onnx").touch()
    assert find_model_file(tmp_path, "net") == tmp_path / "net" / "model.onnx"
    (tmp_path / "model.onnx").touch()
    assert find_model_file(tmp_path, "model.xml") == tmp_path / "model.onnx"


def test_another_file_is_not_served_for_one_that_is_named(tmp_path):
    (tmp_path / "model.onnx").touch()
    with pytest.raises(ModelError, match=r"there is no other\.onnx in version"):
        find_model_file(tmp_path, "other.onnx")


def test_the_cpu_computes_where_there_is_no_gpu(caplog):
    config = accelerated({"name": "tensorrt", "parameters": {"precision_mode": "FP16"}}, {"name": "cuda"})
    with caplog.at_level(logging.INFO, "plansmith_server"):
        assert choose_providers(config, "CPU", 0, GPU_PROVIDERS) == [("CPUExecutionProvider", {})]
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_a_gpu_gets_the_accelerators_and_their_options():
    config = accelerated(
        {
            "name": "tensorrt",
            "parameters": {
                "precision_mode": "FP16",
                "max_workspace_size_bytes": "1073741824",
                "trt_engine_cache_enable": "true",
                "trt_engine_cache_path": "/engines",
            },
        },
        {"name": "cuda", "parameters": {"use_ep_level_unified_stream": "1"}},
        cudnn_conv_algo_search="1",
        gpu_mem_limit="4294967200",
        arena_extend_strategy="1",
    )
    assert choose_providers(config, "GPU", 3, GPU_PROVIDERS) == [
        (
            "TensorrtExecutionProvider",
            {
                "trt_fp16_enable": "1",
                "trt_max_workspace_size": "1073741824",
                "trt_engine_cache_enable": "true",
                "trt_engine_cache_path": "/engines",
                "device_id": "3",
            },
        ),
        (
            "CUDAExecutionProvider",
            {
                "device_id": "3",
                "use_ep_level_unified_stream": "1",
                "gpu_mem_limit": "4294967200",
                "cudnn_conv_algo_search": "HEURISTIC",
                "arena_extend_strategy": "kSameAsRequested",
            },
        ),
        ("CPUExecutionProvider", {}),
    ]


def test_the_plugin_of_tensorrt_for_rtx_stands_alone_where_it_is_registered():
    parameters = {"nv_runtime_cache_path": "/cache", "enable_cuda_graph": "1"}
    config = accelerated({"name": "tensorrt_rtx", "parameters": parameters})
    assert wants_rtx_plugin(config, "GPU")
    assert not wants_rtx_plugin(config, "CPU")
    assert choose_providers(config, "GPU", 0, (*GPU_PROVIDERS, RTX))[0] == (RTX, parameters)
    assert RTX not in dict(choose_providers(config, "GPU", 0, GPU_PROVIDERS))


def test_without_the_plugin_or_a_gpu_the_log_says_what_is_missing(caplog, monkeypatch, tmp_path):
    with caplog.at_level(logging.WARNING, "plansmith_server"):
        assert not register_rtx_plugin()
        package = tmp_path / "onnxruntime_ep_nv_tensorrt_rtx.py"
        package.write_text(f"def get_library_path(): return {str(tmp_path / 'missing.so')!r}")
        monkeypatch.syspath_prepend(str(tmp_path))
        assert not register_rtx_plugin()
    assert "pip install onnxruntime-ep-nv-tensorrt-rtx-cu12" in caplog.text
    assert "cannot be used: [ONNXRuntimeError]" in caplog.text
    with pytest.raises(ModelError, match="finds 0 RTX GPUs"):
        add_rtx_plugin(onnxruntime.SessionOptions(), 0, {})


def test_accelerators_are_used_where_they_are_installed_and_else_left_out_with_a_warning(caplog):
    config = accelerated({"name": "tensorrt"}, cpu=({"name": "openvino"},))
    with caplog.at_level(logging.WARNING, "plansmith_server"):
        assert choose_providers(config, "GPU", 0, CPU_ONLY) == [("CPUExecutionProvider", {})]
    warned = " ".join(record.getMessage() for record in caplog.records)
    assert all(what in warned for what in ("no TensorRT provider", "no CUDA provider", "no OpenVINO provider"))
    available = ("OpenVINOExecutionProvider", *CPU_ONLY)
    assert choose_providers(config, "CPU", 0, available)[0] == ("OpenVINOExecutionProvider", {"device_type": "CPU"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (accelerated({"name": "warp"}), "unknown GPU accelerator 'warp': use tensorrt"),
        (accelerated(cpu=({"name": "warp"},)), "unknown CPU accelerator 'warp': use openvino"),
        (accelerated({"name": "tensorrt", "parameters": {"trt_fp16": "1"}}), "tensorrt has no parameter 'trt_fp16'"),
        (
            accelerated({"name": "tensorrt", "parameters": {"precision_mode": "FP8"}}),
            "precision_mode 'FP8' is not valid",
        ),
        (accelerated({"name": "tensorrt_rtx", "parameters": {"trt_x": "1"}}), "tensorrt_rtx has no parameter 'trt_x'"),
        (accelerated({"name": "tensorrt", "parameters": {"trt_sparsity_enable": "maybe"}}), "must be 1 or 0"),
        (accelerated({"name": "tensorrt", "parameters": {"trt_dla_core": "x"}}), "must be a whole number"),
        (accelerated({"name": "cuda", "parameters": {"do_copy_in_default_stream": "2"}}), "must be 1 or 0"),
        (accelerated(cudnn_conv_algo_search="3"), "'cudnn_conv_algo_search' must be from 0 to 2, got 3"),
    ],
)
def test_what_the_native_backend_refuses_on_a_gpu_is_refused(config, message):
    with pytest.raises(ModelError, match=message):
        choose_providers(config, "GPU", 0, GPU_PROVIDERS)


@pytest.mark.parametrize(
    ("accelerator", "reason"),
    [
        ({"name": "tensorrt", "parameters": {"trt_fp16": "1"}}, "the accelerator tensorrt has no parameter 'trt_fp16'"),
        ({"name": "warp"}, "unknown GPU accelerator 'warp': use tensorrt, cuda or tensorrt_rtx"),
    ],
)
def test_what_a_gpu_would_refuse_is_warned_about_on_the_cpu(accelerator, reason, caplog):
    with caplog.at_level(logging.WARNING, "plansmith_server"):
        choose_providers(accelerated(accelerator), "CPU", 0, CPU_ONLY)
    assert f"model 'm' will not load on a GPU: {reason}" in caplog.text


@pytest.mark.parametrize("key", TENSORRT_KEYS)
def test_every_key_of_the_tensorrt_accelerator_is_taken(key):
    value = {"switch": "1", "number": "2", "text": "some/path"}[TENSORRT_KEYS[key]]
    config = accelerated({"name": "tensorrt", "parameters": {key: value}})
    assert value in choose_providers(config, "GPU", 0, GPU_PROVIDERS)[0][1].values()


@pytest.mark.parametrize(
    ("level", "name"),
    [(-1, "ORT_ENABLE_BASIC"), (0, "ORT_ENABLE_ALL"), (1, "ORT_ENABLE_EXTENDED"), (2, "ORT_DISABLE_ALL")],
)
def test_the_graph_level_is_that_of_the_native_backend(level, name):
    assert SessionSettings.from_config(configure(optimization={"graph": {"level": level}}), "CPU").graph_level == name


def test_session_parameters_are_those_of_the_native_backend():
    settings = SessionSettings.from_config(
        configure(
            parameters={
                "intra_op_thread_count": "3",
                "inter_op_thread_count": "2",
                "execution_mode": "1",
                "enable_mem_arena": "0",
                "enable_mem_pattern": "true",
                "memory.enable_memory_arena_shrinkage": "cpu:0",
            },
        ),
        "CPU",
    )
    assert (settings.intra_op_threads, settings.inter_op_threads, settings.parallel) == (3, 2, True)
    assert (settings.memory_arena, settings.memory_pattern) == (False, True)
    assert settings.run_entries == {"memory.enable_memory_arena_shrinkage": "cpu:0"}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"intra_op_thread_count": "all"}, "'intra_op_thread_count' must be a whole number"),
        ({"execution_mode": "2"}, "'execution_mode' must be 0"),
        ({"enable_mem_arena": "yes"}, "'enable_mem_arena' must be 1 or 0"),
    ],
)
def test_session_parameters_that_make_no_sense_are_refused(parameters, message):
    with pytest.raises(ModelError, match=message):
        SessionSettings.from_config(configure(parameters=parameters), "CPU")


def test_instances_on_the_cpu_share_the_cores(monkeypatch):
    monkeypatch.setattr(threads, "available_cores", lambda: 8)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [threads.threads_per_instance(count) for count in (1, 2, 3, 8, 20)] == [8, 4, 2, 1, 1]
    groups = [{"kind": "KIND_CPU", "count": 2}, {"kind": "KIND_GPU", "count": 4}]
    assert SessionSettings.from_config(configure(instance_group=groups), "CPU").intra_op_threads == 4
    assert SessionSettings.from_config(configure(instance_group=groups), "GPU").intra_op_threads == 0


def test_openvino_numbers_count_for_all_instances_together():
    parameters = {"INFERENCE_NUM_THREADS": "12", "NUM_STREAMS": "6", "COMPILATION_NUM_THREADS": "2", "HINT_BF16": "yes"}
    groups = [{"kind": "KIND_CPU", "count": 3}]
    properties = OpenVinoSettings.from_config(configure(parameters=parameters, instance_group=groups)).properties
    assert properties == {
        "INFERENCE_NUM_THREADS": 4,
        # Each instance is a process of its own: pinned, the threads of all of them shared the first cores.
        "ENABLE_CPU_PINNING": False,
        "NUM_STREAMS": 2,
        "COMPILATION_NUM_THREADS": 2,
        "INFERENCE_PRECISION_HINT": "bf16",
    }


def test_openvino_choices_are_read_whatever_their_case():
    parameters = {"PERFORMANCE_HINT": "throughput", "NUM_STREAMS": "auto", "INFERENCE_PRECISION_HINT": "F32"}
    settings = OpenVinoSettings.from_config(configure(parameters=parameters))
    assert settings.properties["PERFORMANCE_HINT"] == "THROUGHPUT"
    assert settings.properties["NUM_STREAMS"] == "AUTO"
    assert settings.properties["INFERENCE_PRECISION_HINT"] == "f32"
    assert (settings.fixed_batch, settings.pad_batch, settings.reshape) == (False, False, False)


@pytest.mark.parametrize(
    ("line", "level", "shown"),
    [
        (
            'I1120 22:19:10.643108 8335 model_lifecycle.cc:472] "loading: bf:1"',
            Level.INFO,
            "22:19:10 info    loading: bf:1",
        ),
        ('W1120 22:19:53.566180 8575 model.py:15] "one\\ntwo"', Level.WARNING, "22:19:53 warning one\ntwo"),
        (
            'E1120 22:33:17.261398 1 model_lifecycle.cc:642] "failed: Internal: a\\n\\nAt:\\n  /m.py(6): f\\n"',
            Level.ERROR,
            "22:33:17 error   failed: Internal: a",
        ),
        ('E1120 22:19:10.643177 8335 server.cc:241] "CudaDriverHelper has not been initialized."', Level.DEBUG, None),
        ("+---------+------+--------+", Level.DEBUG, None),
        ("printed by a model", Level.INFO, "         info    printed by a model"),
        ("E1120 22:18:44.004415040    8097 chttp2_server.cc:1060]   UNKNOWN:No address", Level.ERROR, None),
    ],
)
def test_a_line_of_tritons_log_becomes_readable(line, level, shown):
    record = parse_line(line)
    assert record.level == level
    if shown is not None:
        assert str(record) == shown


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Internal: ModelError: it is broken\n\nAt:\n  /m.py(3): load\n", "it is broken"),
        (
            "Invalid argument: unable to find backend library for backend 'tensorrt', try",
            "its backend 'tensorrt' is not",
        ),
        ("Internal: Unavailable: c10.CudaError: no\nmemory", "no memory"),
        ("at least one version must be available under the version policy of model 'm'", "it has no version folder"),
        ("Could not determine backend for model 'm' with no backend", "it has neither a config.pbtxt nor"),
    ],
)
def test_a_reason_is_one_sentence(text, sentence):
    assert clean_reason(text).startswith(sentence)
    assert "\n" not in clean_reason(text)
