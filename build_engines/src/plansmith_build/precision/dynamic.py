"""INT8 by ONNX Runtime's dynamic quantization: the range of what a matrix reads is taken from what it is given."""

from __future__ import annotations

import tempfile
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from plansmith_build.precision.calibration import without_warnings
from plansmith_build.precision.errors import ConversionFailed, failing_as
from plansmith_build.precision.variants import Conversion

if TYPE_CHECKING:
    from collections.abc import Collection

    from plansmith_build.precision.variants import Judges

__all__ = ["dynamic_conversion"]

_MATRICES = {"Gemm": 1, "MatMul": 1, "LSTM": 1}


def dynamic_conversion(prepared: onnx.ModelProto, judges: Judges, *, vnni: bool) -> Conversion[onnx.ModelProto]:
    """Matrices in INT8.

    Args:
        prepared: from `preparation.prepare`.
        judges: know whether the model is served in batches.
        vnni: whether the CPU has VNNI; see `schemes.x86_scheme`.

    Raises:
        ConversionFailed: the model is served in batches, has no such matrices, or the quantizer failed.
    """
    if judges.final.batched:
        raise ConversionFailed(
            "dynamic INT8 has one range for a whole batch, so a row would not be answered as if alone"
        )
    weights = {tensor.name for tensor in prepared.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    layers = tuple(node.name for node in prepared.graph.node if node.op_type in _MATRICES and node.input[1] in weights)
    if not layers:
        raise ConversionFailed("no Gemm, MatMul or LSTM has constant weights that dynamic INT8 could be used for")
    layout = f"U8 activations, {'S8' if vnni else '7-bit S8'} weights, dynamic ranges"
    return Conversion(lambda keep: _quantized(prepared, keep, vnni=vnni), layers, layout)


def _quantized(prepared: onnx.ModelProto, keep: Collection[str], *, vnni: bool) -> onnx.ModelProto:
    quiet, failing = without_warnings(), failing_as("the dynamic quantizer failed")
    with tempfile.TemporaryDirectory(prefix="plansmith-dynamic-") as folder, quiet, failing:
        path = Path(folder) / "model.onnx"
        quantize_dynamic(
            deepcopy(prepared),
            path,
            op_types_to_quantize=list(_MATRICES),
            per_channel=True,
            reduce_range=not vnni,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(keep),
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(path)
