"""What TensorRT refuses, NVIDIA's compiler refuses here, by the node's name and with what to do about it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import pytest
from build_models import HEADER
from onnx import numpy_helper

from plansmith_build.engines.tensorrt import OptimizationProfile
from plansmith_build.engines.tensorrt_rtx import (
    EngineFailed,
    compile_engine,
    in_words,
    parse_capabilities,
    unavailable_because,
)
from plansmith_build.errors import InvalidOption
from plansmith_build.precision.tensorrt_layout import to_tensorrt_layout
from plansmith_build.reading.networks import attach, detach

if TYPE_CHECKING:
    from pathlib import Path

MATRIX = np.random.default_rng(0).integers(-100, 100, (64, 64))


def parsed(body: str, *, header: str = HEADER, **constants: np.ndarray) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f"{header} m {body}")
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type.lower()}_{number}"
    return model


def quantized(*, zero_point: int = 0, scale: float = 0.05, weights: type = np.int8) -> onnx.ModelProto:
    """A MatMul between Q/DQ pairs."""
    body = (
        "(float[8, 64] x) => (float[8, 64] y) { q = QuantizeLinear (x, s, z) a = DequantizeLinear (q, s, z) "
        "b = DequantizeLinear (w, t, zw) y = MatMul (a, b) }"
    )
    matrix = (MATRIX + 100 if weights is np.uint8 else MATRIX).astype(weights)
    constants = {"s": np.float32(scale), "t": np.float32(0.05), "z": np.int8(zero_point), "zw": weights(0), "w": matrix}
    return parsed(body, **{name: np.asarray(value) for name, value in constants.items()})


def in_fp8() -> onnx.ModelProto:
    body = (
        "(float[64, 64] x) => (float[64, 64] y) { q = QuantizeLinear (x, s, z) a = DequantizeLinear (q, s, z) "
        "b = DequantizeLinear (w, s, z) y = MatMul (a, b) }"
    )
    zero, matrix = np.zeros((), ml_dtypes.float8_e4m3fn), MATRIX.astype(ml_dtypes.float8_e4m3fn)
    header = '<ir_version: 9, opset_import: ["" : 19]>'
    return parsed(body, header=header, s=np.asarray(np.float32(1)), z=zero, w=matrix)


def with_transposed_int8_weights() -> onnx.ModelProto:
    body = (
        "(float[8, 64] x) => (float[8, 64] y) { q = QuantizeLinear (x, s, z) a = DequantizeLinear (q, s, z) "
        "wt = Transpose <perm = [1, 0]> (w) b = DequantizeLinear (wt, s, z) y = MatMul (a, b) }"
    )
    return parsed(body, s=np.asarray(np.float32(0.05)), z=np.asarray(np.int8(0)), w=MATRIX.astype(np.int8))


def for_cpus() -> onnx.ModelProto:
    """The same as x86 CPUs want it: UINT8, read by two, weights around 100, a bias of whole numbers."""
    body = (
        "(float[8, 64] x) => (float[8, 64] y) { q = QuantizeLinear (x, s, z) a = DequantizeLinear (q, s, z) "
        "b = DequantizeLinear (w, t, zw) c = DequantizeLinear (bias, u) g = Gemm (a, b, c) "
        "a2 = DequantizeLinear (q, s, z) y = Add (g, a2) }"
    )
    constants = {"s": np.float32(0.05), "t": np.float32(0.05), "u": np.float32(0.0025), "z": np.uint8(128)}
    constants |= {"zw": np.uint8(100), "w": (MATRIX + 100).astype(np.uint8), "bias": MATRIX[0].astype(np.int32)}
    return parsed(body, **{name: np.asarray(value) for name, value in constants.items()})


FLOATS = MATRIX.astype(np.float32)
SYMMETRIC = "TensorRT quantizes symmetrically only: quantize with zero points of 0"
# By the rule that is broken: the graph, what TensorRT is asked to compile for, and what must be said.
BREAKERS = {
    "a zero point other than 0": (quantized(zero_point=3), "8.9", ["node 'quantizelinear_0'", SYMMETRIC]),
    "UINT8 weights": (quantized(weights=np.uint8), "8.9", ["node 'dequantizelinear_2'", "quantize to INT8"]),
    "a scale below 0": (quantized(scale=-0.05), "8.9", ["node 'quantizelinear_0'", "positive scales only"]),
    "INT8 weights that something else reads first": (
        with_transposed_int8_weights(),
        "8.9",
        ["the INT8 weight 'w' must go straight into a DequantizeLinear"],
    ),
    "quantization while it runs": (
        parsed(
            "(float[8, 64] x) => (float[8, 64] y) "
            "{ q, s, z = DynamicQuantizeLinear (x) y = DequantizeLinear (q, s, z) }"
        ),
        "8.9",
        ["node 'dynamicquantizelinear_0'", "TensorRT has no DynamicQuantizeLinear: build from the FP32 model"],
    ),
    "a product of whole numbers": (
        parsed("(int8[8, 64] x) => (int32[8, 64] y) { y = MatMulInteger (x, w) }", w=MATRIX.astype(np.int8)),
        "8.9",
        ["node 'matmulinteger_0'", "pairs of QuantizeLinear and DequantizeLinear"],
    ),
    "two types in one product": (
        parsed("(float[8, 64] x) => (float16[8, 64] y) { h = Cast <to = 10> (x) y = MatMul (h, w) }", w=FLOATS),
        "8.9",
        ["node 'matmul_1'", "of the types Half and Float", "put a Cast before it"],
    ),
    "FP8 before Ada": (in_fp8(), "8.0", ["fp8_e4m3", "FP8 8.9"]),
    "an FP32 product on Turing": (
        parsed("(float[8, 64] x) => (float[8, 64] y) { y = MatMul (x, w) }", w=FLOATS),
        "7.5",
        ["does not run on Turing (7.5)", "--precision fp16"],
    ),
    "branches of different rank": (
        parsed(
            "(float[4, 4] x, bool c) => (float y) { y = If (c) <then_branch = t () => (float[4] a) "
            "{ a = ReduceMax <axes = [1], keepdims = 0> (x) }, "
            "else_branch = e () => (float[4, 4] b) { b = Relu (x) }> }"
        ),
        "8.9",
        ["the branches of an If give different numbers of dimensions"],
    ),
    "a reshape over a free height": (
        parsed(
            "(float[2, H] x) => (float[4, 6] y) { y = Reshape (x, shape) }", shape=np.asarray([4, 6], dtype=np.int64)
        ),
        "8.9",
        ["node 'reshape_0'", "which fits one size of the input only", "--profile"],
    ),
    "more of the greatest values than it gives": (
        parsed(
            "(float[1, 9000] x) => (float[1, 5000] v, int64[1, 5000] i) { v, i = TopK (x, k) }",
            k=np.asarray([5000], dtype=np.int64),
        ),
        "8.9",
        ["node 'topk_0'", "more than the 3840 greatest values"],
    ),
    "text": (
        parsed("(string[8] x) => (string[8] y) { y = Identity (x) }"),
        "8.9",
        ["a tensor has a type that TensorRT does not have"],
    ),
    "an operator that it does not have": (
        parsed("(float[4, 4] x) => (float y) { y = Det (x) }"),
        "8.9",
        ["node 'det_0' (Det)", "--target onnxruntime"],
    ),
}


def profile_of(model: onnx.ModelProto, *, free: int = 8) -> OptimizationProfile:
    """Free dimensions from 1 over `free` to 32."""
    three = [
        {
            value.name: tuple(dim.dim_value or size for dim in value.type.tensor_type.shape.dim)
            for value in model.graph.input
        }
        for size in (1, free, 32)
    ]
    return OptimizationProfile(*three)


def compiled(model: onnx.ModelProto, folder: Path, capabilities: str):
    onnx.save(model, folder / "model.onnx")
    return compile_engine(
        folder / "model.onnx", folder / "model.engine", profile_of(model), parse_capabilities(capabilities)
    )


@pytest.mark.parametrize("rule", BREAKERS)
def test_a_graph_that_breaks_one_of_nvidias_rules_is_refused_with_the_node_and_the_way_out(rule, tmp_path):
    model, capabilities, said = BREAKERS[rule]
    with pytest.raises(EngineFailed) as refused:
        compiled(model, tmp_path, capabilities)
    for words in said:
        assert words in str(refused.value)
    # Places in NVIDIA's source help nobody here.
    assert "/_src/" not in str(refused.value)
    assert not (tmp_path / "model.engine").exists()


def test_what_keeps_the_rules_compiles_and_begins_as_engines_do(tmp_path):
    engine = compiled(quantized(), tmp_path, "8.6,8.9,12.0")
    content = engine.path.read_bytes()
    assert content[:4] == b"vtrt"
    assert (engine.size, engine.capabilities) == (len(content), ("8.6", "8.9", "12.0"))
    assert compiled(in_fp8(), tmp_path, "8.9").size > 0


def test_what_is_quantized_for_cpus_compiles_once_it_is_converted(tmp_path):
    with pytest.raises(EngineFailed, match=SYMMETRIC):
        compiled(for_cpus(), tmp_path, "8.9")
    assert compiled(attach(to_tensorrt_layout(detach(for_cpus()))), tmp_path, "8.9").size > 0


def test_a_dynamic_input_without_shapes_in_the_profile_is_named(tmp_path):
    model = parsed("(float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }")
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(EngineFailed, match="--profile name:min,opt,max"):
        compile_engine(tmp_path / "model.onnx", tmp_path / "model.engine", OptimizationProfile({}, {}, {}))


def test_a_file_that_is_no_model_ends_the_compilers_process_at_worst(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08" + bytes(range(256)) * 8)
    with pytest.raises(EngineFailed):
        compile_engine(tmp_path / "model.onnx", tmp_path / "model.engine", OptimizationProfile({}, {}, {}))


def test_weights_beside_the_model_are_found(tmp_path):
    model = parsed("(float[8, 64] x) => (float[8, 64] y) { y = MatMul (x, w) }", w=FLOATS)
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    engine = compile_engine(tmp_path / "model.onnx", tmp_path / "model.engine", profile_of(model))
    assert engine.size > FLOATS.nbytes


def test_without_the_package_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    assert unavailable_because() == "TensorRT for RTX is not installed: plansmith[rtx] brings it"
    with pytest.raises(EngineFailed, match="is not installed"):
        compiled(quantized(), tmp_path, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("9.0", "build plans on such a GPU with --target tensorrt"),
        ("7.5,8.6", "only alone"),
        ("ada", "compiles for 7.5"),
    ],
)
def test_a_compute_capability_that_cannot_be_compiled_for_is_refused(text, said):
    with pytest.raises(InvalidOption, match=said):
        parse_capabilities(text)


def test_capabilities_are_said_in_words():
    assert in_words(parse_capabilities("")) == "Ampere and later"
    assert in_words(parse_capabilities("8.9")) == "8.9"
    assert in_words(parse_capabilities(" 8.6, 8.9,12.0")) == "8.6, 8.9 and 12.0"
