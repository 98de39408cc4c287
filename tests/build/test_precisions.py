"""A precision is written into the graph, in the layout of its device, and nodes that it breaks stay in FP32."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
from build_models import HEADER, answers
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from stripes_models import stripes, write_stripes_classifier

from plansmith_build.engines.onnxruntime import Session
from plansmith_build.errors import InvalidOption
from plansmith_build.judging.budget import Budget
from plansmith_build.judging.judge import Judge
from plansmith_build.judging.measures import choose_measures
from plansmith_build.precision.calibration import CalibrationMethod, calibrate
from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.precision.half import HalfType, convertible_nodes, rounded, to_bfloat16, to_float16
from plansmith_build.precision.preparation import BFLOAT16_OPSET, QUANTIZATION_OPSET, prepare
from plansmith_build.precision.quantization import quantizable_nodes, quantize
from plansmith_build.precision.schemes import TENSORRT, x86_scheme
from plansmith_build.precision.sensitivity import fewest_to_keep, noisiest_first
from plansmith_build.precision.sparsity import parse_sparsity, prunable_nodes, prune
from plansmith_build.precision.variants import (
    Judges,
    bfloat16_variant,
    float16_variant,
    inside_budget,
    static_conversion,
)
from plansmith_build.reading.loading import load_onnx
from plansmith_build.reading.networks import detach
from plansmith_build.reading.signatures import signature_of
from plansmith_build.search.graph_variants import GraphFile, GraphVariants
from plansmith_build.search.targets import Device, Pairing, Precision, Target

X86 = x86_scheme(vnni=True)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The stripes classifier, prepared."""
    path = write_stripes_classifier(tmp_path_factory.mktemp("stripes") / "stripes.onnx")
    return prepare(load_onnx(path).network, opset=QUANTIZATION_OPSET)


@pytest.fixture(scope="module")
def fragile(tmp_path_factory):
    """The one that INT8 breaks in the middle, prepared."""
    path = write_stripes_classifier(tmp_path_factory.mktemp("fragile") / "fragile.onnx", fragile=True)
    return prepare(load_onnx(path).network, opset=QUANTIZATION_OPSET)


def batches(rows, *, seed):
    images, _ = stripes(rows, seed=seed)
    return [{"images": images[start : start + 8]} for start in range(0, rows, 8)]


def judges_for(model, requests, *, optimized=True):
    signature = signature_of(model)
    judges = [
        Judge.of(
            Session(model.SerializeToString(), signature, optimized=True),
            part,
            None,
            batched=True,
            choose=partial(choose_measures, classes=4),
        )
        for part in (requests[::2], requests[1::2])
    ]
    return Judges(signature, *judges, Budget(), optimized=optimized)


def types_of_weights(model):
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def scores(model, images, *, optimized=True):
    return next(iter(answers(model, optimized=optimized, images=images).values()))


def test_fp16_halves_the_weights_and_leaves_inputs_and_outputs_in_fp32(classifier):
    converted = to_float16(classifier)
    onnx.checker.check_model(converted, full_check=True)
    assert {types_of_weights(converted)[name] for name in ("w1", "w2", "w3", "matrix")} == {TensorProto.FLOAT16}
    values = [*converted.graph.input, *converted.graph.output]
    assert {value.type.tensor_type.elem_type for value in values} == {TensorProto.FLOAT}
    images, _ = stripes(16, seed=3)
    np.testing.assert_allclose(scores(converted, images), scores(classifier, images), rtol=0.02, atol=0.05)


@pytest.fixture
def overflowing():
    """A model whose first node overflows in FP16, and data for it."""
    model = onnx.parser.parse_model(
        f"""{HEADER} m (float[N, 8] x) => (float[N, 8] y) {{
            big = MatMul (x, up) small = Mul (big, down) a = MatMul (small, w) r = Relu (a) y = MatMul (r, w)
        }}"""
    )
    rng = np.random.default_rng(0)
    for name, array in {
        "up": rng.standard_normal((8, 8)) * 5e4,
        "down": np.full(8, 1e-4),
        "w": rng.standard_normal((8, 8)),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    for number, node in enumerate(model.graph.node):
        node.name = f"node_{number}"
    return model, [{"x": rng.standard_normal((4, 8)).astype(np.float32)} for _ in range(4)]


def test_a_node_that_overflows_in_fp16_stays_in_fp32(overflowing):
    model, requests = overflowing
    model = prepare(detach(model), opset=QUANTIZATION_OPSET)
    judges = judges_for(model, requests, optimized=False)
    assert judges.estimate(rounded(model, HalfType.FLOAT16)) == (np.inf, np.inf)
    variant = float16_variant(model, judges)
    # What the first gives is too large to be read in FP16, too.
    assert variant.kept == ("node_0", "node_1")
    assert judges.accepts(variant.accuracy)
    assert types_of_weights(variant.model)["w"] == TensorProto.FLOAT16


def test_what_the_cpu_computes_in_fp16_hides_no_overflow_on_a_gpu(overflowing, tmp_path):
    model, requests = overflowing
    judges = judges_for(model, requests)
    path = tmp_path / "model.onnx"
    graphs = GraphVariants(GraphFile(path, (path,)), detach(model), judges, tmp_path)
    cpu, gpu = (
        graphs.graph_for(Pairing(Target.ONNXRUNTIME, device, Precision.FP16)) for device in (Device.CPU, Device.GPU)
    )
    assert "node_0" in gpu.kept
    assert cpu.path != gpu.path


def test_what_a_cpu_was_given_in_4_bits_is_never_taken_for_a_gpu(tmp_path):
    model = onnx.parser.parse_model(f"{HEADER} m (float[N, 64] x) => (float[N, 8] y) {{ y = MatMul (x, w) }}")
    rng = np.random.default_rng(0)
    model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=(64, 8)).astype(np.float32), "w"))
    requests = [{"x": rng.normal(size=(2, 64)).astype(np.float32)} for _ in range(4)]
    path = tmp_path / "model.onnx"
    graphs = GraphVariants(GraphFile(path, (path,)), detach(model), judges_for(model, requests), tmp_path)
    assert graphs.graph_for(Pairing(Target.ONNXRUNTIME, Device.CPU, Precision.W4)).path.exists()
    for target in (Target.ONNXRUNTIME, Target.TENSORRT):
        with pytest.raises(ConversionFailed, match="w4 is for CPUs: ask for w4a16"):
            graphs.graph_for(Pairing(target, Device.GPU, Precision.W4))


HALF_NUMBERS = {
    "convolution": "(float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }",
    "resize_and_sum": """(float[N, 3, 8, 8] x) => (float[N, 4, 16, 16] y)
        <float[4] scales = {1.0, 1.0, 2.0, 2.0}, int64 axis = {1}> {
        c = Conv <pads = [1, 1, 1, 1]> (x, w) r = Resize (c, , scales) y = CumSum (r, axis)
    }""",
    "best": """(float[N, 3, 8, 8] x) => (float[N, 2, 8, 8] y, int64[N, 2, 8, 8] i) <int64[1] k = {2}> {
        c = Conv <pads = [1, 1, 1, 1]> (x, w) y, i = TopK <axis = 1> (c, k)
    }""",
    "branch": """(float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) <float zero = {0.0}> {
        c = Conv <pads = [1, 1, 1, 1]> (x, w) m = ReduceMean <keepdims = 0> (c) b = Greater (m, zero)
        y = If (b) <
            then_branch = yes () => (float[N, 4, 8, 8] t) { t = Relu (c) },
            else_branch = no () => (float[N, 4, 8, 8] e) { e = Sigmoid (c) }
        >
    }""",
    "loop": """(float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) <int64 rounds = {3}, bool on = {1}> {
        c = Conv <pads = [1, 1, 1, 1]> (x, w)
        y = Loop (rounds, on, c) <body = step (int64 i, bool go, float[N, 4, 8, 8] v)
            => (bool stay, float[N, 4, 8, 8] n) { stay = Identity (go) n = Relu (v) }>
    }""",
}


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.BF16, Precision.INT8])
@pytest.mark.parametrize("name", HALF_NUMBERS)
def test_every_graph_for_a_gpu_is_valid_and_takes_and_gives_what_the_file_does_or_is_refused(tmp_path, name, precision):
    model = onnx.parser.parse_model(f"{HEADER} m {HALF_NUMBERS[name]}")
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    requests = [{"x": rng.normal(size=(2, 3, 8, 8)).astype(np.float32)} for _ in range(8)]
    signature = signature_of(model)
    judges = [
        Judge.of(Session(model.SerializeToString(), signature, optimized=True), part, None, batched=True)
        for part in (requests[::2], requests[1::2])
    ]
    path = tmp_path / "model.onnx"
    graphs = GraphVariants(
        GraphFile(path, (path,)),
        detach(model),
        Judges(signature, *judges, Budget(max_error=0.5, max_drop=0.9)),
        tmp_path,
    )
    try:
        made = graphs.graph_for(Pairing(Target.TENSORRT, Device.GPU, precision))
    except ConversionFailed:
        # Better no candidate than a file that no engine loads; 16 bits are possible for all of them.
        assert precision is Precision.INT8
        assert name != "convolution"
        return
    written = onnx.load(made.path)
    onnx.checker.check_model(written, full_check=True)
    given = signature_of(written)
    for before, after in zip((*signature.inputs, *signature.outputs), (*given.inputs, *given.outputs), strict=True):
        assert (before.name, before.datatype, len(before.shape)) == (after.name, after.datatype, len(after.shape))


def test_what_joins_into_an_output_stays_in_floating_point():
    model = onnx.parser.parse_model(
        f"""{HEADER} m (float[N, 3, 8, 8] x) => (float[N, 5, 64] y) {{
            a = Conv <pads = [1, 1, 1, 1]> (x, w0) b = Conv <pads = [1, 1, 1, 1]> (x, w1)
            inner = Concat <axis = 1> (a, b)
            boxes = Conv (inner, w2) scores = Conv (inner, w3)
            joined = Concat <axis = 1> (boxes, scores) y = Reshape (joined, shape)
        }}"""
    )
    shapes = {"w0": (4, 3, 3, 3), "w1": (4, 3, 3, 3), "w2": (4, 8, 1, 1), "w3": (1, 8, 1, 1)}
    for name, shape in shapes.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 5, 64]), "shape"))
    for node in model.graph.node:
        node.name = f"make_{node.output[0]}"
    prepared = prepare(detach(model), opset=QUANTIZATION_OPSET)
    found = quantizable_nodes(prepared, X86)
    assert "make_inner" in found
    assert "make_joined" not in found
    assert exact_at_the_end(prepared, {"x": (4, 3, 8, 8)}, {"boxes", "scores", "joined", "y"})


@pytest.mark.parametrize("end", ["Sigmoid", "Softmax", "Relu", "GlobalAveragePool", "Transpose <perm = [0, 2, 3, 1]>"])
def test_what_a_layer_gives_an_output_by_way_of_another_node_is_not_rounded(end):
    model = onnx.parser.parse_model(
        f"""{HEADER} m (float[N, 3, 8, 8] x) => (float[N, A, B, C] y) {{
            a = Conv <pads = [1, 1, 1, 1]> (x, w0) r = Relu (a) last = Conv <pads = [1, 1, 1, 1]> (r, w1, bias)
            y = {end} (last)
        }}"""
    )
    rng = np.random.default_rng(0)
    for name, shape in {"w0": (4, 3, 3, 3), "w1": (4, 4, 3, 3), "bias": (4,)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    prepared = prepare(detach(model), opset=QUANTIZATION_OPSET)
    assert exact_at_the_end(prepared, {"x": (4, 3, 8, 8)}, {"last", "y"})


def exact_at_the_end(prepared, shapes, final):
    """Whether the graph is quantized, but for the tensors named, and runs."""
    rng = np.random.default_rng(0)
    requests = [{name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}]
    quantized = quantize(prepared, calibrate(prepared, requests, CalibrationMethod.MINMAX, X86), X86)
    onnx.checker.check_model(quantized, full_check=True)
    given = {node.input[0] for node in quantized.graph.node if node.op_type == "QuantizeLinear"}
    assert "x" in given
    onnxruntime.InferenceSession(quantized.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, requests[0]
    )
    return not any(name == tensor or name.startswith(f"{tensor}_Quantize") for tensor in final for name in given)


@pytest.mark.parametrize("convert", [to_float16, to_bfloat16])
@pytest.mark.parametrize("seed", range(6))
def test_whichever_nodes_stay_in_fp32_every_node_gets_inputs_of_one_type(convert, seed, tmp_path):
    # Four of the layers read one weight, and three one offset.
    model = onnx.parser.parse_model(
        f"{HEADER} m (float[N, 8] x) => (float[N, 8] y) {{ a = Gemm (x, w, b) r = Relu (a) c = Gemm (r, w, b) "
        "d = Add (c, b) e = MatMul (d, w) f = Relu (e) y = MatMul (f, w) }"
    )
    rng = np.random.default_rng(seed)
    for name, shape in {"w": (8, 8), "b": (8,)}.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    onnx.save(model, tmp_path / "shared.onnx")
    opset = BFLOAT16_OPSET if convert is to_bfloat16 else QUANTIZATION_OPSET
    prepared = prepare(load_onnx(tmp_path / "shared.onnx").network, opset=opset)
    names = [node.name for node in prepared.graph.node]
    keep = [name for name in names if rng.random() < 0.5]
    converted = convert(prepared, keep=keep)
    onnx.checker.check_model(converted, full_check=True)
    assert [value.type.tensor_type.elem_type for value in converted.graph.output] == [TensorProto.FLOAT]


@pytest.mark.parametrize("convert", [to_float16, to_bfloat16])
def test_a_model_that_makes_numbers_of_its_mask_by_itself_is_converted_whole(convert):
    # As every text encoder does.
    model = onnx.parser.parse_model(
        f"{HEADER} m (float[N, 4] x, int64[N, 4] mask) => (float[N, 4] y, float[N, 4] kept) "
        "{ kept = Cast <to = 1> (mask) free = Sub (one, kept) bias = Mul (free, low) y = Add (x, bias) }"
    )
    for name, value in {"one": 1.0, "low": -10_000.0}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.float32([value]), name))
    opset = BFLOAT16_OPSET if convert is to_bfloat16 else QUANTIZATION_OPSET
    converted = convert(prepare(detach(model), opset=opset))
    onnx.checker.check_model(converted, full_check=True)
    assert [value.type.tensor_type.elem_type for value in converted.graph.output] == [TensorProto.FLOAT] * 2
    if convert is to_float16:
        session = onnxruntime.InferenceSession(converted.SerializeToString(), providers=["CPUExecutionProvider"])
        x, mask = np.ones((1, 4), np.float32), np.array([[1, 1, 0, 0]])
        y, kept = session.run(None, {"x": x, "mask": mask})
        np.testing.assert_allclose(y, [[1, 1, -10_000, -10_000]], rtol=1e-3)
        assert kept.tolist() == mask.tolist()


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("keep_inner", [False, True])
def test_what_branches_and_bodies_compute_has_16_bits_too(rows, keep_inner):
    # As voice detectors are exported: most of the network is in the branches, and they read weights from outside.
    model = onnx.parser.parse_model(
        f"""{HEADER} m (float[N, 8] x) => (float[N, 8] y, float[N, 8] last) <int64 rounds = {{3}}, bool on = {{1}}> {{
            h = MatMul (x, outer) total = ReduceSum <keepdims = 0> (h) positive = Greater (total, zero)
            y = If (positive) <
                then_branch = yes () => (float[N, 8] t) {{ a = MatMul (h, outer) t = Relu (a) }},
                else_branch = no () => (float[N, 8] e) {{
                    k = Constant <value_float = 2.0> () b = Mul (h, k) e = Tanh (b)
                }}
            >
            last = Loop (rounds, on, y) <body = step (int64 i, bool go, float[N, 8] v)
                => (bool stay, float[N, 8] n) {{ stay = Identity (go) s = MatMul (v, outer) n = Sigmoid (s) }}>
        }}"""
    )
    rng = np.random.default_rng(0)
    for name, array in {"outer": rng.standard_normal((8, 8)) / 3, "zero": np.zeros(())}.items():
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), name))
    prepared = prepare(detach(model), opset=QUANTIZATION_OPSET)
    inner = [node.name for node in prepared.graph.node[3].attribute[0].g.node]
    converted = to_float16(prepared, keep=inner if keep_inner else ())
    onnx.checker.check_model(converted, full_check=True)
    assert set(inner) <= set(convertible_nodes(prepared))
    stand_in = rounded(prepared, HalfType.FLOAT16, keep=inner if keep_inner else ())
    for sign in (1, -1):
        feed = {"x": sign * np.abs(rng.standard_normal((rows, 8)).astype(np.float32))}
        exact, half, simulated = (
            onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)
            for graph in (prepared, converted, stand_in)
        )
        for one, other, third in zip(exact, half, simulated, strict=True):
            np.testing.assert_allclose(other, one, atol=0.01)
            np.testing.assert_allclose(third, other, atol=0.005)
            assert np.abs(other - one).max() > 0
    if keep_inner:
        # A weight that a node in FP32 reads as well is there twice.
        assert types_of_weights(converted)["outer"] == TensorProto.FLOAT


def test_an_output_whose_node_stays_in_fp32_is_not_rounded_on_its_way_out():
    # 100,000 is more than FP16 can hold.
    model = onnx.parser.parse_model(
        f"{HEADER} m (float[N, 4] x) => (float[N, 4] y) {{ r = Relu (x) y = Mul (r, scale) }}"
    )
    model.graph.initializer.append(numpy_helper.from_array(np.float32([100_000]), "scale"))
    prepared = prepare(detach(model), opset=QUANTIZATION_OPSET)
    converted = to_float16(prepared, keep=[prepared.graph.node[-1].name])
    session = onnxruntime.InferenceSession(converted.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.ones((1, 4), np.float32)})[0].tolist() == [[100_000] * 4]


def test_bf16_is_valid_onnx_and_computes_what_was_judged_in_its_place(tmp_path):
    path = write_stripes_classifier(tmp_path / "stripes.onnx")
    prepared = prepare(load_onnx(path).network, opset=BFLOAT16_OPSET)
    converted = to_bfloat16(prepared)
    onnx.checker.check_model(converted, full_check=True)
    assert set(types_of_weights(converted).values()) >= {TensorProto.BFLOAT16}
    assert TensorProto.FLOAT16 not in set(types_of_weights(converted).values())
    images, _ = stripes(2, seed=3)
    exact = scores(prepared, images)
    stand_in = scores(rounded(prepared, HalfType.BFLOAT16), images, optimized=False)
    itself = np.asarray(ReferenceEvaluator(converted).run(None, {"images": images})[0], dtype=np.float32)
    assert 0 < np.abs(stand_in - exact).max() < 0.1 * np.abs(exact).max()
    np.testing.assert_allclose(itself, stand_in, atol=0.05 * np.abs(exact).max())


def test_bf16_inside_the_budget_keeps_nothing(tmp_path):
    path = write_stripes_classifier(tmp_path / "stripes.onnx")
    prepared = prepare(load_onnx(path).network, opset=BFLOAT16_OPSET)
    variant = bfloat16_variant(prepared, judges_for(prepared, batches(64, seed=2), optimized=False))
    assert variant.kept == ()
    assert TensorProto.BFLOAT16 in types_of_weights(variant.model).values()


@pytest.mark.parametrize("method", list(CalibrationMethod))
def test_int8_keeps_the_answers_with_every_calibration_method(classifier, method):
    quantized = quantize(classifier, calibrate(classifier, batches(32, seed=1), method, X86), X86)
    onnx.checker.check_model(quantized, full_check=True)
    images, labels = stripes(64, seed=3)
    assert np.mean(scores(quantized, images).argmax(axis=1) == labels) > 0.95


def test_int8_for_x86_has_unsigned_activations_and_signed_weights_a_channel(classifier):
    quantized = quantize(classifier, calibrate(classifier, batches(16, seed=1), CalibrationMethod.MINMAX, X86), X86)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    zero_points = [weights[node.input[2]] for node in quantized.graph.node if node.op_type == "QuantizeLinear"]
    assert {array.dtype for array in zero_points} == {np.dtype(np.uint8)}
    assert weights["w1_quantized"].dtype == np.int8
    assert weights["w1_scale"].shape == (32,)


def test_int8_without_vnni_leaves_a_bit_free(classifier):
    scheme = x86_scheme(vnni=False)
    quantized = quantize(
        classifier, calibrate(classifier, batches(16, seed=1), CalibrationMethod.MINMAX, scheme), scheme
    )
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    assert np.abs(weights["w1_quantized"].astype(int)).max() <= 64


def test_int8_for_tensorrt_is_symmetric_with_floating_point_biases(classifier):
    ranges = calibrate(classifier, batches(16, seed=1), CalibrationMethod.MINMAX, TENSORRT)
    quantized = quantize(classifier, ranges, TENSORRT)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    pairs = [node for node in quantized.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    for node in pairs:
        zero_point = weights[node.input[2]]
        assert zero_point.dtype == np.int8
        assert not zero_point.any()
        assert (weights[node.input[1]] > 0).all()
    assert not [name for name, array in weights.items() if array.dtype == np.int32]
    convolution = next(node for node in quantized.graph.node if node.name == "first")
    assert convolution.input[2] == "b1"
    axes = [attribute.i for node in pairs if node.input[0] == "w1_quantized" for attribute in node.attribute]
    assert axes == [0]


def test_int8_for_tensorrt_leaves_narrow_matrices_alone(classifier):
    # The classifier has four classes, and TensorRT wants at least 16 columns.
    assert "classifier" in quantizable_nodes(classifier, X86)
    assert "classifier" not in quantizable_nodes(classifier, TENSORRT)


def test_a_model_without_weights_to_quantize_says_so():
    model = onnx.parser.parse_model(f"{HEADER} m (float[N, 4] a) => (float[N, 4] b) {{ b = Relu (a) }}")
    judge = judges_for(model, [{"a": np.zeros((1, 4), np.float32)}, {"a": np.ones((1, 4), np.float32)}])
    with pytest.raises(ConversionFailed, match="no Conv, Gemm or MatMul has constant weights"):
        static_conversion(model, X86, judge, [CalibrationMethod.MINMAX])


def test_the_nodes_that_int8_breaks_are_found_and_left_out(fragile):
    judges = judges_for(fragile, batches(64, seed=2))
    ranges = calibrate(fragile, judges.search.requests, CalibrationMethod.MINMAX, X86)
    assert not judges.accepts(judges.verdict(quantize(fragile, ranges, X86), 1))
    variant = inside_budget(static_conversion(fragile, X86, judges, list(CalibrationMethod)), judges)
    assert judges.accepts(variant.accuracy)
    assert set(variant.kept) & {"middle", "last"}
    assert "first" not in variant.kept
    assert "calibration" in variant.layout


NODES = [f"node_{number:03}" for number in range(100)]


def ranked(noise, *, too_much=math.inf, evaluations=24):
    """What the ranking makes of nodes with this much noise each, and how often it measured."""
    measured = []

    def estimate(group):
        measured.append(sum(noise.get(node, 0.001) for node in group))
        return 5.0 if measured[-1] > too_much else 1.0, measured[-1]

    return noisiest_first(NODES, estimate, most=50, evaluations=evaluations), len(measured)


def test_bisection_tells_noisy_nodes_apart_with_few_measurements():
    groups, measured = ranked({"node_017": 5.0, "node_080": 3.0, "node_081": 2.0}, evaluations=40)
    assert list(groups[:3]) == [("node_017",), ("node_080",), ("node_081",)]
    assert measured <= 40
    assert sorted(node for group in groups for node in group) == NODES
    kept = fewest_to_keep(groups, lambda keep: {"node_017", "node_080"} <= keep, lambda keep: len(keep) <= 50)
    assert kept == {"node_017", "node_080"}


def test_bisection_gives_up_where_too_much_would_have_to_stay():
    groups = [(f"node_{number}",) for number in range(10)]
    five = [lambda keep: len(keep) <= 5]
    assert fewest_to_keep(groups, lambda keep: len(keep) > 5, *five) is None
    assert fewest_to_keep(groups, lambda _: True, *five) == frozenset()


def test_a_ranking_ends_early_only_where_no_half_of_the_nodes_saves_the_graph():
    # Every node makes the same noise, and an eighth of them alone too much.
    groups, measured = ranked(dict.fromkeys(NODES, 1.0), too_much=10)
    assert groups is None
    assert measured < 16
    # As little as half of them make is inside.
    assert ranked(dict.fromkeys(NODES, 1.0), too_much=50)[0] is not None
    # Six far apart make all the noise, and any one of them too much: they are found.
    noisy = {"node_003", "node_020", "node_041", "node_058", "node_077", "node_096"}
    groups, _ = ranked(dict.fromkeys(noisy, 1.0), too_much=0.5)
    assert noisy <= fewest_to_keep(groups, lambda keep: noisy <= keep, lambda keep: len(keep) <= 50)


def test_two_of_four_weights_are_zero_along_the_input_channels(classifier):
    sparsity = parse_sparsity("2:4")
    # The first convolution has three input channels.
    assert "first" not in prunable_nodes(classifier, sparsity)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in prune(classifier, sparsity).graph.initializer}
    groups = np.moveaxis(weights["w2"], 1, -1).reshape(-1, 4)
    assert (np.count_nonzero(groups, axis=1) <= 2).all()
    assert np.count_nonzero(weights["w1"]) == weights["w1"].size
    original = {tensor.name: numpy_helper.to_array(tensor) for tensor in classifier.graph.initializer}["w2"]
    assert np.array_equal(weights["w2"][weights["w2"] != 0], original[weights["w2"] != 0])


def test_magnitude_pruning_takes_the_smallest_weights(classifier):
    pruned = prune(classifier, parse_sparsity("30%"), keep=["last"])
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in pruned.graph.initializer}
    assert np.mean(weights["w2"] == 0) == pytest.approx(0.3, abs=0.01)
    assert np.count_nonzero(weights["w3"]) == weights["w3"].size


@pytest.mark.parametrize("text", ["4:2", "0", "100%", "half"])
def test_an_unknown_sparsity_is_refused(text):
    with pytest.raises(InvalidOption, match="--sparsity"):
        parse_sparsity(text)
