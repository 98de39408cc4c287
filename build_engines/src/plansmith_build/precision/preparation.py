"""A graph as the precision tools need it: a recent operator set, named nodes, known shapes, two-input sums as Add."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import version_converter
from onnx.helper import find_min_ir_version_for
from onnx.shape_inference import infer_shapes

from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.reading.graphs import nodes_of, standard_domain
from plansmith_build.reading.networks import attach, weights_apart, weights_from_inputs, weights_to_inputs

if TYPE_CHECKING:
    from plansmith_build.reading.networks import Network

__all__ = [
    "BFLOAT16_OPSET",
    "HALF_OPSET",
    "HALF_SCALES_OPSET",
    "LARGEST_BYTES",
    "QUANTIZATION_OPSET",
    "prepare",
    "prepare_apart",
]

QUANTIZATION_OPSET = 17
"""Per-channel DequantizeLinear needs 13 (https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html); 17 is old enough
for every runtime of the containers since 2023."""

HALF_OPSET = 1
"""FP16 is as old as ONNX, and a conversion to another operator set is one more thing that can fail."""

BFLOAT16_OPSET = 22
"""The first in which Conv and its kin take BFLOAT16 (https://onnx.ai/onnx/operators/onnx__Conv.html)."""

HALF_SCALES_OPSET = 19
"""The first in which QuantizeLinear and DequantizeLinear take scales of 16 bits
(https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html)."""

LARGEST_BYTES = 2**30
"""The tools for INT8 hold several copies of a model in one protobuf message each."""


def prepare(network: Network, *, opset: int) -> onnx.ModelProto:
    """A copy of the whole model, ready for all precision tools.

    Args:
        network: a repaired network.
        opset: the least version of the standard operators.

    Raises:
        ConversionFailed: the model is too large for the tools, or cannot be converted to that operator set.
    """
    if network.size > LARGEST_BYTES:
        raise ConversionFailed(
            f"the model has {network.size / 2**30:.1f} GiB, and the tools for this precision take up to "
            f"{LARGEST_BYTES / 2**30:.0f} GiB: FP16 and BF16 take any size"
        )
    return _prepared(attach(network), opset)


def prepare_apart(network: Network, *, opset: int) -> Network:
    """The same for a model of any size, its large weights left where they are.

    Raises:
        ConversionFailed: the model cannot be converted to that operator set.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    apart = weights_to_inputs(model, weights_apart(model))
    return network.with_model(weights_from_inputs(_prepared(model, opset), apart))


def _prepared(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    version = next((entry.version for entry in model.opset_import if not standard_domain(entry.domain)), opset)
    if version < opset:
        try:
            converted = version_converter.convert_version(model, opset)
        except Exception as error:
            said = " ".join(str(error).split()).rpartition(" failed: ")[2][:200]
            raise ConversionFailed(f"operator set {version} cannot be converted to {opset}: {said}") from error
        needed = find_min_ir_version_for(list(converted.opset_import), ignore_unknown=True)
        converted.ir_version = max(converted.ir_version, needed)
        model = converted
    nodes = list(nodes_of(model))
    taken = {node.name for node in nodes}
    for number, node in enumerate(nodes):
        if node.op_type == "Sum" and len(node.input) == 2:  # noqa: PLR2004 - a sum of two is an addition
            node.op_type = "Add"
        if not node.name:
            node.name = next(name for name in _names(node.op_type, number) if name not in taken)
            taken.add(node.name)
    return infer_shapes(model)


def _names(operator: str, number: int) -> tuple[str, ...]:
    return (f"{operator}_{number}", *(f"{operator}_{number}_{suffix}" for suffix in range(1000)))
