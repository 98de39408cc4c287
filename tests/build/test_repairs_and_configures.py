"""What is legal but awkward is repaired, batches are found, and the configuration says what the graph says."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from build_models import ADD, write, write_external
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from plansmith_build import BuildOptions, InvalidOption, build
from plansmith_build.reading.signatures import Signature
from plansmith_build.repository.config import config_from_text, model_config, text_from_config
from plansmith_client.tensors import TensorSpec

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def built(tmp_path, repository):
    """Builds a model that is given as text; gives the result, its configuration and a session over its file.

    No server tries it where a test does not say so.
    """

    def run(text: str, *, header: str | None = None, **options):
        path = write(tmp_path / "model.onnx", text, **({"header": header} if header else {}))
        return opened(build(path, BuildOptions(repository=repository, **{"serve": False, **options})))

    return run


def opened(result):
    config = config_from_text((result.path.parent / "config.pbtxt").read_text())
    session = onnxruntime.InferenceSession(result.path / "model.onnx", providers=["CPUExecutionProvider"])
    return result, config, session


def test_a_plain_model_gets_a_portable_configuration_with_batches(built):
    result, config, _ = built(ADD, name="adder", max_batch_size=8, serve=True)
    assert (result.name, result.version) == ("adder", 1)
    assert (config.name, config.backend, config.max_batch_size) == ("adder", "onnxruntime", 8)
    assert [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in config.input] == [
        ("a", model_config_pb2.TYPE_FP32, [4]),
        ("b", model_config_pb2.TYPE_FP32, [4]),
    ]
    assert [(tensor.name, list(tensor.dims)) for tensor in config.output] == [("sum", [4])]
    assert config.HasField("dynamic_batching")
    assert [group.kind for group in config.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_AUTO]
    (gpu,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert gpu.name == "tensorrt"
    assert gpu.parameters["precision_mode"] == "FP32"
    # An engine's file name has no weights in it: another version must not find this one's.
    assert not [key for key in gpu.parameters if key.startswith("trt_engine_cache")]


def test_the_configuration_reads_back_equal(built):
    _, config, _ = built(ADD)
    assert text_format.Parse(text_from_config(config), model_config_pb2.ModelConfig()) == config


def test_without_batches_the_first_dimension_is_one_like_the_others(built):
    result, config, _ = built(ADD, max_batch_size=0)
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [-1, 4]
    assert result.manifest.batching.reason == "--max-batch-size 0 asks for none"


def test_a_bound_of_the_queue_stands_in_the_configuration_or_is_refused(built):
    _, config, _ = built(ADD, max_queue_size=8)
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 8
    # Triton may stall with one.
    assert config.instance_group[0].count == 2
    with pytest.raises(InvalidOption, match="--max-queue-size 8: Triton bounds the queue of models that take batches"):
        built(ADD, max_queue_size=8, max_batch_size=0)


def test_weights_listed_as_inputs_and_an_old_ir_version_are_repaired(tmp_path, repository):
    model = onnx.parser.parse_model(
        '<ir_version: 3, opset_import: ["" : 9]> m (float[1, 2] x, float[2, 2] w) => (float[1, 2] y)'
        " <float[2, 2] w = {1, 2, 3, 4}> { y = MatMul (x, w) }"
    )
    onnx.save(model, tmp_path / "old.onnx")
    result, config, session = opened(build(tmp_path / "old.onnx", BuildOptions(repository=repository)))
    assert [tensor.name for tensor in config.input] == ["x"]
    assert [value.name for value in session.get_inputs()] == ["x"]
    assert "removed 1 weight from the list of inputs" in result.manifest.graph.repairs
    assert "raised the IR version from 3 to 4" in result.manifest.graph.repairs
    np.testing.assert_allclose(session.run(None, {"x": np.float32([[1, 1], [2, 0]])})[0], [[4, 6], [2, 4]])


def test_a_fixed_batch_baked_into_a_reshape_becomes_any_batch(built):
    result, config, session = built(
        "m (float[1, 2, 3] x) => (float[1, 6] y) <int64[2] shape = {1, 6}> { y = Reshape (x, shape) }"
    )
    assert result.manifest.batching.made_dynamic
    assert result.manifest.batching.reshapes_rewritten == 1
    assert config.max_batch_size == 32
    rows = np.arange(30, dtype=np.float32).reshape(5, 2, 3)
    np.testing.assert_array_equal(session.run(None, {"x": rows})[0], rows.reshape(5, 6))


def test_a_fixed_batch_is_left_alone_when_asked(built):
    result, config, _ = built("m (float[1, 3] x) => (float[1, 3] y) { y = Relu (x) }", dynamic_batch=False)
    assert not result.manifest.batching.made_dynamic
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [1, 3]


def test_the_optimiser_removes_what_does_nothing_and_the_answer_stays(built):
    text = (
        "m (float[N, 2] x) => (float[N, 2] y) <float two = {2}, float three = {3}>"
        " { six = Mul (two, three) same = Identity (x) again = Identity (same) y = Mul (again, six) }"
    )
    result, _, session = built(text)
    assert (result.manifest.graph.nodes_before, result.manifest.graph.nodes_after) == (4, 1)
    np.testing.assert_array_equal(session.run(None, {"x": np.float32([[1, 2]])})[0], [[6, 12]])
    result, _, session = built(text, optimize=False)
    assert result.manifest.graph.nodes_after == 4
    assert not result.manifest.graph.optimized


TYPES = {
    "int8": "INT8",
    "int64": "INT64",
    "uint8": "UINT8",
    "bool": "BOOL",
    "string": "STRING",
    "double": "FP64",
    "float16": "FP16",
    "bfloat16": "BF16",
}


@pytest.mark.parametrize(("onnx_type", "triton_type"), TYPES.items(), ids=TYPES)
def test_every_kind_of_tensor_is_verified_and_declared(built, onnx_type, triton_type):
    _, config, _ = built(f"m ({onnx_type}[N, 2] x) => ({onnx_type}[N, 2] y) {{ y = Identity (x) }}")
    assert model_config_pb2.DataType.Name(config.input[0].data_type) == f"TYPE_{triton_type}"
    assert model_config_pb2.DataType.Name(config.output[0].data_type) == f"TYPE_{triton_type}"


def test_control_flow_is_kept_working(built):
    _, _, session = built(
        """m (float[N, 2] x, bool flag) => (float[N, 2] y) {
             y = If (flag) <
               then_branch = one () => (float[N, 2] t) { t = Neg (x) },
               else_branch = two () => (float[N, 2] e) { e = Abs (x) }
             >
           }"""
    )
    x = np.float32([[1, -2]])
    for flag, expected in [(True, -x), (False, np.abs(x))]:
        np.testing.assert_array_equal(session.run(None, {"x": x, "flag": np.asarray([flag])})[0], expected)


def test_a_single_number_becomes_a_vector_of_one_as_triton_wants_it(built):
    result, config, session = built("m (float[N] x) => (float total) { total = ReduceSum <keepdims = 0> (x) }")
    assert config.max_batch_size == 0
    assert list(config.output[0].dims) == [1]
    assert not config.output[0].HasField("reshape")
    assert "made output 'total', a single number, a vector of one" in result.manifest.graph.repairs
    np.testing.assert_array_equal(session.run(None, {"x": np.float32([1, 2])})[0], [3])


def test_functions_of_the_models_own_are_kept_or_inlined(built):
    _, _, session = built(
        """m (float[N, 2] x) => (float[N, 2] y) { y = own.twice (x) }
           <domain: "own", opset_import: ["" : 17]> twice (a) => (b) { b = Add (a, a) }""",
        header='<ir_version: 8, opset_import: ["" : 17, "own" : 1]>',
    )
    np.testing.assert_array_equal(session.run(None, {"x": np.float32([[1, 2]])})[0], [[2, 4]])


def test_external_weights_are_brought_into_the_version(tmp_path, repository):
    source = write_external(tmp_path / "model.onnx")
    reference = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    result, _, _ = opened(build(source, BuildOptions(repository=repository, serve=False)))
    summed = subprocess.run(
        "sha256sum model.onnx weights.bin | sha256sum",
        shell=True,
        check=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.manifest.source.sha256 == summed.stdout.split()[0]
    (tmp_path / "weights.bin").unlink()
    session = onnxruntime.InferenceSession(result.path / "model.onnx", providers=["CPUExecutionProvider"])
    rows = np.random.default_rng(1).standard_normal((5, 64), dtype=np.float32)
    np.testing.assert_allclose(session.run(None, {"x": rows})[0], reference.run(None, {"x": rows})[0], rtol=1e-6)


def test_labels_go_to_the_output_that_has_as_many_classes(built, tmp_path: Path):
    (tmp_path / "labels.txt").write_text("cat\ndog\nhorse\nfish\n")
    result, config, _ = built(ADD, labels=tmp_path / "labels.txt")
    assert config.output[0].label_filename == "labels.txt"
    assert (result.path.parent / "labels.txt").read_text() == "cat\ndog\nhorse\nfish\n"


def test_the_manifest_says_where_a_version_comes_from_and_what_it_is(plansmith, tmp_path, repository):
    path = write(tmp_path / "adder.onnx", ADD)
    said = json.loads(plansmith("build", path, "--repository", repository, "--json").stdout)
    manifest = json.loads((repository / "adder" / "1" / "manifest.json").read_text())
    assert said["manifest"] == manifest
    assert (said["name"], said["version"]) == ("adder", 1)
    assert manifest["source"]["file"] == "adder.onnx"
    assert manifest["verification"]["inputs"] == "random"
    assert {file["path"] for file in manifest["files"]} == {"1/model.onnx", "config.pbtxt"}


@pytest.mark.parametrize(
    ("dims", "said"),
    [
        ((3, 224, 224), "FORMAT_NCHW"), ((1, -1, -1), "FORMAT_NCHW"), ((28, 28, 1), "FORMAT_NHWC"),
        ((3, 8, 3), "FORMAT_NONE"), ((16, 8, 8), "FORMAT_NONE"), ((3, 64), "FORMAT_NONE"), ((), "FORMAT_NONE"),
    ],
)  # fmt: skip
def test_an_input_that_looks_like_an_image_says_how_it_is_laid_out(dims, said):
    images = TensorSpec("x", "FP32", (-1, *dims))
    signature = Signature((images,), (TensorSpec("y", "FP32", (-1, 10)),), {}, frozenset())
    config = model_config("m", signature, max_batch_size=8)
    assert model_config_pb2.ModelInput.Format.Name(config.input[0].format) == said


@pytest.mark.parametrize(("datatype", "max_batch_size"), [("FP32", 0), ("BYTES", 8), ("BOOL", 8)])
def test_what_is_no_batch_of_numbers_is_no_image(datatype, max_batch_size):
    spec = TensorSpec("x", datatype, (3, 8, 8) if not max_batch_size else (-1, 3, 8, 8))
    config = model_config("m", Signature((spec,), (spec,), {}, frozenset()), max_batch_size=max_batch_size)
    assert config.input[0].format == model_config_pb2.ModelInput.FORMAT_NONE
