"""INT8 as TensorRT fuses it: at the inputs of layers, and on one branch of a residual sum; all of it compiles."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from build_models import HEADER, answers
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from plansmith_build.engines.tensorrt import OptimizationProfile
from plansmith_build.engines.tensorrt_rtx import compile_engine
from plansmith_build.precision.calibration import CalibrationMethod, calibrate
from plansmith_build.precision.half import to_float16
from plansmith_build.precision.preparation import prepare
from plansmith_build.precision.quantization import quantize
from plansmith_build.precision.schemes import TENSORRT
from plansmith_build.reading.networks import detach

CHANNELS = 16
# One block after the other; each reads what the one before it gave.
BLOCKS = {
    "plain": "{o} = Conv <pads = [1, 1, 1, 1]> ({i}, w, b)",
    "relu": "{o}a = Conv <pads = [1, 1, 1, 1]> ({i}, w, b) {o} = Relu ({o}a)",
    "identity": "{o}a = Conv <pads = [1, 1, 1, 1]> ({i}, w, b) {o}s = Add ({o}a, {i}) {o} = Relu ({o}s)",
    "projection": (
        "{o}a = Conv <pads = [1, 1, 1, 1]> ({i}, w, b) {o}c = Conv <pads = [1, 1, 1, 1]> ({i}, v, b) "
        "{o}s = Add ({o}a, {o}c) {o} = Relu ({o}s)"
    ),
    "before": "{o}r = Relu ({i}) {o}a = Conv <pads = [1, 1, 1, 1]> ({o}r, w, b) {o} = Add ({i}, {o}a)",
    "sum of no layers": "{o}r = Relu ({i}) {o}t = Tanh ({i}) {o} = Add ({o}r, {o}t)",
}


def network(blocks, *, seed=0, opset=17) -> onnx.ModelProto:
    names = ["x", *[f"h{number}" for number in range(1, len(blocks))], "y"]
    body = " ".join(BLOCKS[block].format(i=names[n], o=names[n + 1]) for n, block in enumerate(blocks))
    shape = f"[N, {CHANNELS}, 6, 6]"
    model = onnx.parser.parse_model(f"{HEADER} m (float{shape} x) => (float{shape} y) {{ {body} }}")
    rng = np.random.default_rng(seed)
    for name, size in {"w": (CHANNELS, CHANNELS, 3, 3), "v": (CHANNELS, CHANNELS, 3, 3), "b": (CHANNELS,)}.items():
        scale = np.sqrt(1 / np.prod(size[1:])) if len(size) > 1 else 0.1
        value = (rng.standard_normal(size) * scale).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return prepare(detach(model), opset=opset)


def rows(count=4, seed=1):
    return {"x": np.random.default_rng(seed).standard_normal((count, CHANNELS, 6, 6)).astype(np.float32)}


def in_int8(model):
    return quantize(model, calibrate(model, [rows()], CalibrationMethod.MINMAX, TENSORRT), TENSORRT)


def makers(model, node):
    made_by = {name: maker for maker in model.graph.node for name in maker.output}
    return [made_by[name].op_type if name in made_by else "" for name in node.input]


def answer(model):
    return answers(model, optimized=False, **rows(seed=2))["y"]


def compiled(model, folder):
    onnx.save(model, folder / "model.onnx")
    three = [{"x": (count, CHANNELS, 6, 6)} for count in (1, 4, 8)]
    return compile_engine(folder / "model.onnx", folder / "model.engine", OptimizationProfile(*three))


ANY_NETWORK = st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=4).filter(
    lambda blocks: set(blocks) != {"sum of no layers"}
)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(blocks=ANY_NETWORK)
def test_layers_read_int8_and_what_they_fuse_with_reads_them_directly(blocks):
    model = in_int8(network(blocks))
    onnx.checker.check_model(model, full_check=True)
    for node in model.graph.node:
        reads = makers(model, node)
        if node.op_type == "Conv":
            assert reads[:2] == ["DequantizeLinear", "DequantizeLinear"]
        if node.op_type == "Relu" and node.name.startswith("Relu") and "Conv" in reads:
            assert reads == ["Conv"]
        if node.op_type == "Add" and "Conv" in reads:
            # The other branch, and not both.
            assert sorted(reads) == ["Conv", "DequantizeLinear"]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(blocks=ANY_NETWORK)
def test_nvidias_compiler_takes_every_such_network(blocks, tmp_path_factory):
    assert compiled(in_int8(network(blocks)), tmp_path_factory.mktemp("engine")).size > 0


def test_int8_of_residual_blocks_computes_what_fp32_does():
    exact = network(["relu", "identity", "projection", "before", "identity"])
    error = answer(in_int8(exact)) - answer(exact)
    assert np.abs(error).max() < 0.1 * np.abs(answer(exact)).max()


@pytest.mark.parametrize("blocks", [["relu", "identity", "projection"], ["before", "plain"]])
def test_int8_with_the_rest_in_fp16_compiles_and_computes_the_same(blocks, tmp_path):
    eight = in_int8(network(blocks, opset=19))
    mixed = to_float16(eight)
    assert compiled(mixed, tmp_path).size > 0
    np.testing.assert_allclose(answer(mixed), answer(eight), atol=0.05 * np.abs(answer(eight)).max())
