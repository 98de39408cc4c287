"""Pairs of QuantizeLinear and DequantizeLinear that a file arrives with, in TensorRT's layout: INT8 around 0.

UINT8 with a zero point of 128 is INT8 with one of 0, each number less 128; weights are what they are less their zero
point, wherever that fits into 8 bits; biases become floating point. What is computed with them stays bit for bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, numpy_helper

from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.reading.graphs import consumed_names, free_name, node_label, operator_name
from plansmith_build.reading.networks import Network, attach, detach

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeGuard

    import onnx

    Array = np.ndarray[Any, np.dtype[Any]]
    Tensors = Mapping[str, TensorProto]

__all__ = ["LAYOUT", "to_tensorrt_layout"]

LAYOUT = "S8 activations and weights, made of the file's own whole numbers"

_PAIR = ("QuantizeLinear", "DequantizeLinear")
_MIDDLE = 128
# The types of Q/DQ pairs for CPUs; narrower and floating ones are those of GPUs.
_WHOLE: dict[int, type[np.generic]] = {
    TensorProto.UINT8: np.uint8,
    TensorProto.INT8: np.int8,
    TensorProto.INT32: np.int32,
}


def to_tensorrt_layout(network: Network) -> Network:
    """A network whose pairs TensorRT takes; the same object where they are so already, or there are none.

    Raises:
        ConversionFailed: a zero point has no exact counterpart; the message names the node.
    """
    stored = {tensor.name: tensor for tensor in network.model.graph.initializer}
    if not any(_is_foreign(node, stored) for node in _pairs(network.model)):
        return network
    model = attach(network)
    _Conversion(model).run()
    return detach(model)


def _pairs(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if operator_name(node) in _PAIR]


def _is_foreign(node: onnx.NodeProto, stored: Tensors) -> bool:
    source, *others = (stored.get(name) for name in node.input)
    if source is not None and source.data_type in {TensorProto.UINT8, TensorProto.INT32}:
        return True
    # Zero points so many that they are held apart can only be looked at with the whole model.
    apart = any(tensor is not None and tensor.data_location == TensorProto.EXTERNAL for tensor in others)
    return apart or _is_other(_zero_point(node, stored))


class _Conversion:
    """Rewrites a model in place.

    Args:
        model: whole, with its weights.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._given = {value.name for value in model.graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in consumed_names(node):
                self._readers.setdefault(name, []).append(node)
        self._zeros: dict[tuple[int, ...], str] = {}

    def run(self) -> None:
        """Quantizers come before those that read from them."""
        shifted, folded = set(), set()
        for node in _pairs(self._model):
            source, zero = node.input[0], _zero_point(node, self._stored)
            if source in shifted:
                self._clear(node, zero)
            elif node.op_type == "QuantizeLinear":
                if _is_other(zero):
                    self._require_middle(node, zero)
                    self._clear(node, zero)
                    shifted.add(node.output[0])
            elif source not in self._stored:
                if _is_other(zero):
                    raise _refused(node, f"its {zero.dtype.name.upper()} comes from no QuantizeLinear")
            elif self._stored[source].data_type == TensorProto.INT32:
                folded.update(self._fold(node))
            elif _is_other(zero):
                self._centre(node, zero)
        self._forget(shifted, folded)

    def _require_middle(self, node: onnx.NodeProto, zero: Array) -> None:
        """Refuse a quantizer whose numbers INT8 cannot say, or which others than DequantizeLinear read."""
        if zero.dtype != np.uint8 or (zero != _MIDDLE).any():
            raise _refused(
                node, f"{zero.dtype.name.upper()} with a zero point of {_said(zero)} has no exact counterpart"
            )
        for reader in self._readers.get(node.output[0], []):
            own = _zero_point(reader, self._stored) if operator_name(reader) == "DequantizeLinear" else None
            if own is None or (own != _MIDDLE).any():
                raise _refused(node, f"node {node_label(reader)} ({reader.op_type}) reads its UINT8 as it is")
        if node.output[0] in self._given:
            raise _refused(node, "its UINT8 is an output of the model")

    def _clear(self, node: onnx.NodeProto, zero: Array | None) -> None:
        """Give a node a zero point of 0 in INT8."""
        for attribute in node.attribute:
            if attribute.name == "output_dtype":
                attribute.i = TensorProto.INT8
        if zero is not None and len(node.input) > 2 and node.input[2]:  # noqa: PLR2004 - the third is the zero point
            if zero.shape not in self._zeros:
                self._zeros[zero.shape] = self._store(np.zeros(zero.shape, np.int8), "zero_point_s8")
            node.input[2] = self._zeros[zero.shape]

    def _centre(self, node: onnx.NodeProto, zero: Array) -> None:
        """Take the zero point off the weights themselves."""
        weights = numpy_helper.to_array(self._stored[node.input[0]]).astype(np.int16)
        weights = weights - _along(zero.astype(np.int16), node, weights.shape)
        if (weights != weights.astype(np.int8)).any():
            raise _refused(node, f"less their zero point of {_said(zero)} its weights need more than 8 bits")
        node.input[0] = self._store(weights.astype(np.int8), f"{node.input[0]}_s8")
        self._clear(node, zero)

    def _fold(self, node: onnx.NodeProto) -> set[str]:
        """Put the floating-point numbers that a constant stands for in the place of its node, and give their name."""
        if node.input[1] not in self._stored or node.output[0] in self._given:
            return set()
        whole, scale = (numpy_helper.to_array(self._stored[name]) for name in node.input[:2])
        numbers = whole.astype(scale.dtype) * _along(scale, node, whole.shape)
        self._model.graph.initializer.append(numpy_helper.from_array(numbers, node.output[0]))
        return {node.output[0]}

    def _store(self, values: Array, stem: str) -> str:
        name = free_name(self._model, stem)
        self._model.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _forget(self, shifted: set[str], folded: set[str]) -> None:
        """Leave out what was replaced, what nothing reads any more, and the declared types of what has another."""
        graph = self._model.graph
        _delete(graph.node, lambda node: not folded.isdisjoint(node.output))
        _delete(graph.value_info, lambda value: value.name in shifted)
        read = {name for node in graph.node for name in consumed_names(node)} | self._given
        _delete(graph.initializer, lambda tensor: tensor.name not in read)


def _is_other(zero: Array | None) -> TypeGuard[Array]:
    """Whether it is no 0 of INT8."""
    return zero is not None and (zero.dtype == np.uint8 or bool(zero.any()))


def _delete(entries: Any, is_gone: Callable[[Any], bool]) -> None:
    # By place: a protobuf list removes by comparing, and weights are large.
    for place in reversed([place for place, entry in enumerate(entries) if is_gone(entry)]):
        del entries[place]


def _zero_point(node: onnx.NodeProto, stored: Tensors) -> Array | None:
    """A node's zero point, [] or as its scale; None where it is of a type that only GPUs have."""
    name = node.input[2] if len(node.input) > 2 else ""  # noqa: PLR2004 - as above
    if name:
        if name not in stored:
            raise _refused(node, "its zero point is computed while it runs")
        return numpy_helper.to_array(stored[name]) if stored[name].data_type in _WHOLE else None
    if node.op_type == "QuantizeLinear":
        kind = next((entry.i for entry in node.attribute if entry.name == "output_dtype"), 0) or TensorProto.UINT8
    else:
        kind = stored[node.input[0]].data_type if node.input[0] in stored else TensorProto.INT8
    return np.zeros((), _WHOLE[kind]) if kind in _WHOLE else None


def _along(values: Array, node: onnx.NodeProto, shape: tuple[int, ...]) -> Array:
    """Scales or zero points as they apply to an array of a shape: to all of it, along an axis, or to blocks of one."""
    if values.size == 1:
        return values.reshape(())
    given = {entry.name: entry.i for entry in node.attribute}
    axis = given.get("axis", 1)
    if block := given.get("block_size", 0):
        return np.repeat(values, block, axis).take(range(shape[axis]), axis)
    return np.expand_dims(values, [place for place in range(len(shape)) if place != axis % len(shape)])


def _said(zero: Array) -> str:
    return ", ".join(map(str, np.unique(zero)[:3].tolist()))


def _refused(node: onnx.NodeProto, why: str) -> ConversionFailed:
    return ConversionFailed(
        f"node {node_label(node)} ({node.op_type}): {why}, and TensorRT takes INT8 with zero points of 0: quantize so, "
        "or in UINT8 with zero points of 128, or keep the file for ONNX Runtime and OpenVINO"
    )
