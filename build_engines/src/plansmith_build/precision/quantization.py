"""INT8: pairs of QuantizeLinear and DequantizeLinear put into the graph."""

from __future__ import annotations

import contextlib
import copy
import io
import math
from typing import TYPE_CHECKING, Any

import onnx
from onnxruntime.quantization import QDQQuantizer, QuantType

from plansmith_build.precision.calibration import without_warnings
from plansmith_build.precision.errors import ConversionFailed, failing_as
from plansmith_build.precision.residual_sums import quantize_one_branch
from plansmith_build.reading.value_kinds import final_tensors

if TYPE_CHECKING:
    from collections.abc import Collection

    from plansmith_build.precision.schemes import QuantizationScheme

__all__ = ["nothing_to_quantize", "quantizable_nodes", "quantize", "work_of"]

_COMPUTING = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_JOINING = {"Add", "Mul", "Concat"}


def quantizable_nodes(model: onnx.ModelProto, scheme: QuantizationScheme) -> tuple[str, ...]:
    """The names of the nodes that a scheme quantizes of their own accord, in the graph's order.

    These are the nodes with weights, and those that join branches; what only moves or pools numbers follows its input.

    Args:
        model: from `preparation.prepare`.
        scheme: how.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    # One scale for what an output joins, such as boxes in pixels and scores from 0 to 1, leaves nothing of the smaller.
    final = final_tensors(model)
    found = [
        node
        for node in model.graph.node
        if _is_quantizable(node, weights, scheme) and not (node.op_type in _JOINING and final.intersection(node.output))
    ]
    # Sums alone are not worth the conversion there and back.
    return tuple(node.name for node in found) if any(node.op_type in _COMPUTING for node in found) else ()


def quantize(
    model: onnx.ModelProto,
    ranges: Any,
    scheme: QuantizationScheme,
    *,
    keep: Collection[str] = (),
    scales: dict[Any, Any] | None = None,
) -> onnx.ModelProto:
    """A copy with pairs of QuantizeLinear and DequantizeLinear.

    Args:
        model: from `preparation.prepare`.
        ranges: from `calibration.calibrate`.
        scheme: how.
        keep: names of nodes that compute in floating point.
        scales: those of the weights that earlier calls for this model and scheme have computed; added to.

    Raises:
        ConversionFailed: there is nothing to quantize, or the quantizer failed.
    """
    chosen = set(quantizable_nodes(model, scheme)) - set(keep)
    if not chosen:
        raise nothing_to_quantize()
    excluded = [
        node.name for node in model.graph.node if node.op_type in _COMPUTING | _JOINING and node.name not in chosen
    ]
    with failing_as("the quantizer failed"), contextlib.redirect_stdout(io.StringIO()), without_warnings():
        quantizer = _Quantizer(
            copy.deepcopy(model),
            exact=final_tensors(model),
            scales={} if scales is None else scales,
            per_channel=True,
            reduce_range=scheme.reduce_range,
            weight_qType=QuantType.QInt8,
            activation_qType=scheme.activations,
            tensors_range=ranges,
            nodes_to_quantize=[],
            nodes_to_exclude=excluded,
            op_types_to_quantize=list(scheme.operators),
            extra_options=scheme.extra_options,
        )
        quantizer.quantize_model()
        if scheme.inputs_only:
            quantize_one_branch(quantizer.model.model, ranges, layers=chosen)
        quantizer.model.topological_sort()
    made: onnx.ModelProto = quantizer.model.model
    return made


def work_of(model: onnx.ModelProto) -> dict[str, int]:
    """How many products the nodes with weights add up, by their names; sizes that are not known count as 1.

    Args:
        model: from `preparation.prepare`.
    """
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in model.graph.initializer}
    shapes = {
        value.name: [size.dim_value or 1 for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.value_info, *model.graph.output)
    }
    work = {}
    for node in model.graph.node:
        if node.op_type in _COMPUTING and node.input[1] in sizes:
            shape = shapes.get(node.output[0], [])
            channels = shape[1 if node.op_type.startswith("Conv") else -1] if shape else 1
            work[node.name] = sizes[node.input[1]] * math.prod(shape) // channels
    return work


def nothing_to_quantize() -> ConversionFailed:
    """The error for a graph without any of `quantizable_nodes`."""
    return ConversionFailed(
        "no Conv, Gemm or MatMul has constant weights that INT8 could be used for; what is inside an If or Loop stays "
        "as it is"
    )


class _Quantizer(QDQQuantizer):  # type: ignore[misc]
    """onnxruntime's, which leaves some tensors in floating point, and computes the scales of a weight once."""

    tensors_to_quantize: dict[str, Any]

    def __init__(
        self, model: onnx.ModelProto, *, exact: Collection[str], scales: dict[Any, Any], **options: Any
    ) -> None:
        super().__init__(model, **options)
        self._exact = exact
        self._scales = scales

    def _calc_initializer_quant_params(self) -> dict[str, Any]:
        wanted = self.tensors_to_quantize
        keys = {name: (name, info.tensor_type, info.axis) for name, info in wanted.items()}
        self.tensors_to_quantize = {name: info for name, info in wanted.items() if keys[name] not in self._scales}
        self._scales.update((keys[name], found) for name, found in super()._calc_initializer_quant_params().items())
        self.tensors_to_quantize = wanted
        # Scales that a bias needs larger are changed in place.
        return {name: copy.deepcopy(self._scales[key]) for name, key in keys.items() if key in self._scales}

    def quantize_activation_tensor(self, tensor_name: str) -> None:
        if tensor_name not in self._exact:
            super().quantize_activation_tensor(tensor_name)

    def quantize_output_same_as_input(self, output_name: str, input_name: str, node_name: str) -> None:
        if output_name not in self._exact:
            super().quantize_output_same_as_input(output_name, input_name, node_name)

    def quantize_bias_tensor(self, node_name: str, bias_name: str, input_name: str, *others: Any) -> None:
        # The scale of a bias is the product of those of input and weight.
        if input_name not in self._exact:
            super().quantize_bias_tensor(node_name, bias_name, input_name, *others)


def _is_quantizable(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], scheme: QuantizationScheme) -> bool:
    if node.op_type not in scheme.operators:
        return False
    if node.op_type in _JOINING:
        return not any(name in weights for name in node.input)
    if node.op_type not in _COMPUTING:
        return False
    weight = weights.get(node.input[1])
    return weight is not None and weight.data_type == onnx.TensorProto.FLOAT and not _is_narrow(node, weight, scheme)


def _is_narrow(node: onnx.NodeProto, weight: onnx.TensorProto, scheme: QuantizationScheme) -> bool:
    return node.op_type in {"Gemm", "MatMul"} and any(size < scheme.smallest_matrix for size in weight.dims)
