"""A file that is not FP32 is called what it is, and what to do about it is said."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxconverter_common import float16
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from plansmith_build.reading.number_formats import coarsest_float, quantization_of, stored_format
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


def static(folder, form):
    onnx.save(network(), folder / "whole.onnx")
    quantize_static(folder / "whole.onnx", folder / "static.onnx", Rows(), quant_format=form)
    return onnx.load(folder / "static.onnx")


def qdq(folder):
    return static(folder, QuantFormat.QDQ)


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
