"""A file that is not FP32 is called what it is, and what to do about it is said."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import onnx
import onnx.parser
import pytest
from build_models import HEADER
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxconverter_common import float16
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from plansmith_build.engines.onnxruntime import Session
from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.precision.tensorrt_layout import LAYOUT, to_tensorrt_layout
from plansmith_build.reading.networks import attach, detach
from plansmith_build.reading.number_formats import coarsest_float, quantization_of, stored_format
from plansmith_build.reading.signatures import signature_of
from plansmith_build.repository.config import config_from_text

ROWS = np.random.default_rng(1).normal(size=(64, 16)).astype(np.float32)


def network(dtype=np.float32, kind=TensorProto.FLOAT):
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "second"], ["y"]),
    ]
    weights = {"first": rng.normal(size=(16, 32)), "second": rng.normal(size=(32, 5))}
    tensors = [numpy_helper.from_array(array.astype(dtype), name) for name, array in weights.items()]
    inputs = [helper.make_tensor_value_info("x", kind, ["N", 16])]
    outputs = [helper.make_tensor_value_info("y", kind, ["N", 5])]
    graph = helper.make_graph(nodes, "network", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Rows(CalibrationDataReader):
    def __init__(self):
        self._parts = iter([{"x": ROWS[start : start + 16]} for start in range(0, 64, 16)])

    def get_next(self):
        return next(self._parts, None)


def fp16(_folder):
    return network(np.float16, TensorProto.FLOAT16)


def fp16_inside(_folder):
    return float16.convert_float_to_float16(network(), keep_io_types=True)


def fp64(_folder):
    return network(np.float64, TensorProto.DOUBLE)


def static(folder, form, **options):
    onnx.save(network(), folder / "whole.onnx")
    quantize_static(folder / "whole.onnx", folder / "static.onnx", Rows(), quant_format=form, **options)
    return onnx.load(folder / "static.onnx")


def qdq(folder):
    symmetric = {"ActivationSymmetric": True}
    return static(folder, QuantFormat.QDQ, activation_type=QuantType.QUInt8, extra_options=symmetric)


def operators(folder):
    return static(folder, QuantFormat.QOperator)


def dynamic(folder):
    onnx.save(network(), folder / "whole.onnx")
    quantize_dynamic(folder / "whole.onnx", folder / "dynamic.onnx", weight_type=QuantType.QInt8)
    return onnx.load(folder / "dynamic.onnx")


def weight_only(_folder):
    model = network()
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "first")
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(np.round(values / 0.05).astype(np.int8), "packed"))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.05), "scale"))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["packed", "scale"], ["first"]))
    return model


FORMATS = {
    fp16: "FP16",
    fp16_inside: "FP16",
    fp64: "FP64",
    qdq: "INT8 QDQ",
    operators: "INT8 operators",
    dynamic: "dynamic INT8",
    weight_only: "weight-only",
}


@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_a_file_is_called_what_it_is_in_table_manifest_and_configurations(plansmith, tmp_path, repository, make):
    model = make(tmp_path)
    onnx.save(model, tmp_path / "model.onnx")
    dtype = helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    np.savez(tmp_path / "data.npz", x=ROWS.astype(dtype))
    options = ["--data", tmp_path / "data.npz", "--max-drop", "5%", "--no-serve", "--target", "onnxruntime"]
    options += ["--precision", "fp32", "--precision", "int8", "--precision", "fp16"]
    options += ["--target", "tensorrt-rtx"] if make is qdq else []
    done = plansmith("build", tmp_path / "model.onnx", "--repository", repository, *options)
    name = FORMATS[make]
    assert f"the file is {name} already" in done.stdout
    assert "RuntimeWarning" not in done.stderr
    manifest = json.loads((repository / "model" / "1" / "manifest.json").read_text())
    assert manifest["graph"]["format"] == name
    on_cpu = {c["precision"]: c for c in manifest["search"]["candidates"] if c["device"] == "cpu"}
    assert on_cpu[name.lower()]["status"] == "chosen"
    assert "fp32" not in on_cpu
    assert on_cpu["int8"]["reason"].startswith(f"the file is {name} already: keep it as it is, or build")
    assert {path.name for path in (repository / "model" / "configs").iterdir()} >= {"cpu.pbtxt"}
    if make is qdq:
        (compiled,) = (c for c in manifest["search"]["candidates"] if c["device"] == "rtx" and c["config"])
        assert (compiled["precision"], compiled["layout"], compiled["drop"]) == ("int8 qdq", LAYOUT, 0)
        assert (repository / "model" / "1" / compiled["file"]).read_bytes()[:4] == b"vtrt"
    gpu = repository / "model" / "configs" / "gpu.pbtxt"
    if gpu.exists():
        # What TensorRT has to be allowed, so that it takes the graph at all.
        (accelerator,) = config_from_text(gpu.read_text()).optimization.execution_accelerators.gpu_execution_accelerator
        assert accelerator.parameters["precision_mode"] == ("FP16" if name == "FP16" else "FP32")


def test_a_file_of_fp32_is_fp32(tmp_path):
    model = network()
    assert (stored_format(model), quantization_of(model), coarsest_float(model)) == ("FP32", "", "FP32")


def test_pairs_of_fp8_are_not_called_int8():
    model = network()
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.float32(0.1), "scale"),
            helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], [0]),
        ]
    )
    for kind, source, result in (("QuantizeLinear", "x", "narrow"), ("DequantizeLinear", "narrow", "wide")):
        model.graph.node.append(helper.make_node(kind, [source, "scale", "zero"], [result]))
    assert quantization_of(model) == stored_format(model) == "FP8 QDQ"


def test_few_numbers_of_another_type_do_not_name_a_file():
    model = network()
    model.graph.initializer.append(numpy_helper.from_array(np.float16([1, 2]), "small"))
    assert stored_format(model) == "FP32"
    assert coarsest_float(model) == "FP16"


@st.composite
def networks_for_cpus(draw):
    """Products whose pairs are UINT8 around 128, weights of either sign around any zero point, and whole biases."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    nodes, constants, value = [], {}, "x"
    for number, (rows, columns) in enumerate(pairwise(sizes)):
        scales, axis = draw(st.sampled_from([((), {}), ((columns,), {"axis": 1}), ((rows,), {"axis": 0})]))
        if draw(st.booleans()):
            scales, axis = (-(-rows // 2), columns), {"axis": 0, "block_size": 2}
        kind = draw(st.sampled_from([np.uint8, np.int8]))
        zero = rng.integers(0, 256, scales) if kind is np.uint8 else np.zeros(scales)
        every = np.repeat(zero, 2, 0)[:rows] if "block_size" in axis else zero[:, None] if axis == {"axis": 0} else zero
        limits = np.iinfo(kind)
        least, most = np.maximum(every - 128, limits.min), np.minimum(every + 127, limits.max)
        weights = rng.integers(least.astype(int), most.astype(int) + 1, (rows, columns))
        names = {name: f"{name}{number}" for name in ("s", "z", "w", "sw", "zw", "b", "sb", "q", "a", "f", "c", "y")}
        constants |= {
            names["s"]: np.float32(rng.uniform(0.01, 0.1)),
            names["z"]: np.uint8(128),
            names["w"]: weights.astype(kind),
            names["sw"]: rng.uniform(0.01, 0.1, scales).astype(np.float32),
            names["zw"]: zero.astype(kind),
            names["b"]: rng.integers(-(2**30), 2**30, columns, np.int32),
            names["sb"]: rng.uniform(0, 1e-8, columns).astype(np.float32),
        }
        for operator, inputs, result, attributes in [
            ("QuantizeLinear", (value, "s", "z"), "q", {}),
            ("DequantizeLinear", ("q", "s", "z"), "a", {}),
            ("DequantizeLinear", ("w", "sw", "zw"), "f", axis),
            ("DequantizeLinear", ("b", "sb"), "c", {"axis": 0}),
            ("Gemm", ("a", "f", "c"), "y", {}),
        ]:
            read = [names.get(name, name) for name in inputs]
            nodes.append(helper.make_node(operator, read, [names[result]], names[result], **attributes))
        value = names["y"]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", sizes[0]])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["N", sizes[-1]])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@given(networks_for_cpus())
def test_a_network_for_cpus_answers_the_same_in_the_layout_of_tensorrt(model):
    network = detach(model)
    converted = attach(to_tensorrt_layout(network))
    onnx.checker.check_model(converted, full_check=True)
    signature = signature_of(network.model)
    (size,) = signature.inputs[0].shape[1:]
    request = {"x": np.random.default_rng(0).normal(0, 5, (8, size)).astype(np.float32)}
    before, after = (
        Session(each.SerializeToString(), signature, optimized=False).run(request)
        for each in (attach(network), converted)
    )
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    stored = {tensor.name: tensor for tensor in converted.graph.initializer}
    pairs = [node for node in converted.graph.node if node.op_type.endswith("tizeLinear")]
    zeros = [numpy_helper.to_array(stored[node.input[2]]) for node in pairs]
    assert {zero.dtype.name for zero in zeros} == {"int8"}
    assert not any(zero.any() for zero in zeros)
    done = detach(converted)
    assert to_tensorrt_layout(done) is done


@pytest.mark.parametrize(
    ("body", "constants", "why"),
    [
        (
            "(float[N, 4] x) => (float[N, 4] y) { q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }",
            {"z": np.uint8(3)},
            "UINT8 with a zero point of 3 has no exact counterpart",
        ),
        (
            "(float[N, 4] x) => (float[N, 4] y) { q = QuantizeLinear (x, s) y = DequantizeLinear (q, s) }",
            {},
            "UINT8 with a zero point of 0 has no exact counterpart",
        ),
        (
            "(float[N, 4] x) => (float[N, 4] y) { q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }",
            {"z": np.int8(-7)},
            "INT8 with a zero point of -7 has no exact counterpart",
        ),
        (
            "(float[N, 4] x) => (float y) { q = QuantizeLinear (x, s, z) t = Size (q) y = Cast <to = 1> (t) }",
            {"z": np.uint8(128)},
            r"\(Size\) reads its UINT8 as it is",
        ),
        (
            "(float[N, 4] x) => (uint8[N, 4] y) { y = QuantizeLinear (x, s, z) }",
            {"z": np.uint8(128)},
            "its UINT8 is an output of the model",
        ),
        (
            "(uint8[N, 4] x) => (float[N, 4] y) { y = DequantizeLinear (x, s, z) }",
            {"z": np.uint8(128)},
            "its UINT8 comes from no QuantizeLinear",
        ),
        (
            "(float[N, 4] x) => (float[N, 4] y) { q, t, z = DynamicQuantizeLinear (x) y = DequantizeLinear (q, t, z) }",
            {},
            "its zero point is computed while it runs",
        ),
        (
            "(float[N, 4] x) => (float[N, 4] y) { f = DequantizeLinear (w, s, z) y = Mul (x, f) }",
            {"w": np.uint8([0, 1, 2, 255]), "z": np.uint8(3)},
            "less their zero point of 3 its weights need more than 8 bits",
        ),
    ],
)
def test_numbers_without_a_counterpart_are_refused_by_their_node(body, constants, why):
    model = onnx.parser.parse_model(f"{HEADER} m {body}")
    for name, value in {"s": np.float32(0.05), **constants}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    with pytest.raises(ConversionFailed, match=rf"^node .*: .*{why}, and TensorRT takes INT8"):
        to_tensorrt_layout(detach(model))
