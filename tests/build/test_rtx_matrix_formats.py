"""MatMul and Gemm with weights of 8 and 4 bits and in FP8: each computes what FP32 does, nearly, and compiles."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx.parser
import pytest
from build_models import HEADER, answers
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from plansmith_build.checking import CheckOptions, check
from plansmith_build.engines.tensorrt import OptimizationProfile, PlanOptions
from plansmith_build.engines.tensorrt_rtx import WITH_FP8, compile_engine
from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.precision.half import to_float16
from plansmith_build.precision.matrix_formats import FP8, W4A16, W8A16, narrow_weights, to_matrix_format
from plansmith_build.precision.preparation import prepare
from plansmith_build.reading.networks import detach
from plansmith_build.search.targets import Precision, Target

SIZE = 64
# By format, the most that may be lost of the largest value, and the bytes of a weight.
FORMATS = {W8A16: (0.03, 1), W4A16: (0.35, 0.5), FP8: (0.15, 1)}
LAYERS = {
    "matmul": "{o} = MatMul ({i}, w)",
    "gemm": "{o} = Gemm ({i}, w, b)",
    "turned": "{o} = Gemm <transB = 1> ({i}, w, b)",
    "relu": "{o}a = MatMul ({i}, w) {o} = Relu ({o}a)",
    "residual": "{o}a = Gemm <transB = 1> ({i}, v, b) {o} = Add ({o}a, {i})",
    "two readers": "{o}a = MatMul ({i}, v) {o}c = MatMul ({i}, w) {o} = Add ({o}a, {o}c)",
}


def network(layers, *, opset):
    names = ["x", *[f"h{number}" for number in range(1, len(layers))], "y"]
    body = " ".join(LAYERS[layer].format(i=names[n], o=names[n + 1]) for n, layer in enumerate(layers))
    model = onnx.parser.parse_model(f"{HEADER} m (float[N, {SIZE}] x) => (float[N, {SIZE}] y) {{ {body} }}")
    rng = np.random.default_rng(0)
    for name, shape in {"w": (SIZE, SIZE), "v": (SIZE, SIZE), "b": (SIZE,)}.items():
        value = (rng.standard_normal(shape) / 8).astype(np.float32)
        if name == "w":
            # A column of nothing has no scale of its own.
            value[:, 3] = 0
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return prepare(detach(model), opset=opset)


def rows():
    return {"x": np.random.default_rng(1).standard_normal((8, SIZE)).astype(np.float32)}


def in_format(model, form, keep=()):
    weights, largest = narrow_weights(model, form, [rows()])
    return to_matrix_format(model, form, weights, largest, keep=keep)


def answer(model):
    return answers(model, optimized=False, **rows())["y"]


def weight_bytes(model):
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer if tensor.name.endswith(("narrow", "scale")))


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(layers=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=3))
def test_every_network_of_matrices_computes_nearly_the_same_and_compiles(form, layers, tmp_path_factory):
    exact = network(layers, opset=form.opset)
    narrow = in_format(exact, form)
    loss, size = FORMATS[form]
    expected = answer(exact)
    np.testing.assert_allclose(answer(narrow), expected, atol=loss * np.abs(expected).max())
    readers = sum(node.op_type in {"MatMul", "Gemm"} for node in narrow.graph.node)
    assert weight_bytes(narrow) < readers * SIZE * SIZE * size * 1.2
    folder = tmp_path_factory.mktemp("engine")
    onnx.save(to_float16(narrow), folder / "model.onnx")
    three = [{"x": (count, SIZE)} for count in (1, 4, 8)]
    capabilities = WITH_FP8 if form.inputs else ()
    engine = compile_engine(folder / "model.onnx", folder / "model.engine", OptimizationProfile(*three), capabilities)
    assert engine.size > 0


def test_layers_that_are_kept_read_the_weights_that_they_share_as_they_were():
    model = network(["matmul", "matmul"], opset=21)
    first, second = (node.name for node in model.graph.node)
    narrow = in_format(model, W4A16, keep=[first])
    reads = {node.name: node.input[1] for node in narrow.graph.node if node.op_type == "MatMul"}
    assert reads[first] == "w"
    assert reads[second] != "w"


def test_a_network_without_large_matrices_says_so():
    model = onnx.parser.parse_model(f"{HEADER} m (float[N, 8] x) => (float[N, 8] y) {{ y = Relu (x) }}")
    with pytest.raises(ConversionFailed, match="no MatMul or Gemm has constant weights"):
        in_format(prepare(detach(model), opset=21), W4A16)


def test_fp8_for_a_gpu_that_lacks_it_is_refused_with_the_way_out(tmp_path):
    onnx.save(network(["gemm"], opset=17), tmp_path / "model.onnx")
    options = CheckOptions(
        targets=(Target.TENSORRT,),
        precisions=(Precision.FP8,),
        plan=PlanOptions(compute_capabilities=("8.6",)),
    )
    (refused,) = check(tmp_path / "model.onnx", options).answers
    assert refused.verdict == "no"
    assert "FP8 8.9: name those with --compute-capability" in refused.said


def test_a_build_judges_and_compiles_them_where_they_are_asked_for(plansmith, tmp_path):
    onnx.save(network(["relu", "residual"], opset=17), tmp_path / "model.onnx")
    precisions = [word for name in ("w8a16", "w4a16", "fp8") for word in ("--precision", name)]
    done = plansmith(
        *("build", tmp_path / "model.onnx", "--repository", tmp_path / "repository", "--target", "tensorrt-rtx"),
        *("--data", "random:32", "--max-error", "60%", "--no-serve", "--json", *precisions),
    )
    found = json.loads(done.stdout)["manifest"]["search"]["candidates"]
    assert {entry["precision"]: entry["status"] for entry in found} == dict.fromkeys(
        ("w8a16", "w4a16", "fp8"), "compiled, not measured"
    )
    assert all(entry["drop"] is not None for entry in found)
    (eight,) = (entry for entry in found if entry["precision"] == "fp8")
    assert "for 8.9, 12.0 and 12.1" in eight["reason"]
    (served,) = (entry for entry in found if entry["config"])
    assert served["precision"] == "w8a16"
