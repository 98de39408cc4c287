"""A graph with its weights held apart, so that working on the graph costs nothing however large the weights are."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx.helper import make_tensor_value_info

from plansmith_build.errors import InvalidModel
from plansmith_build.reading.external_data import ExternalRange, pieces_of
from plansmith_build.reading.graphs import nodes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

__all__ = [
    "INLINE_BYTES",
    "SMALL_TENSOR_BYTES",
    "ConvertedWeight",
    "Network",
    "Weight",
    "attach",
    "detach",
    "weight_size",
    "weights_apart",
    "weights_from_inputs",
    "weights_to_inputs",
    "write_network",
]

# Beyond this, weights go to a file of their own: a protobuf message ends at 2 GiB, and readers want head-room.
INLINE_BYTES = 2**30
# What is smaller stays in the graph: shapes, axes and scales, which those who work on it want to see.
SMALL_TENSOR_BYTES = 64 * 2**10
# ONNX Runtime maps weights into memory where they begin on a page.
ALIGNMENT_BYTES = 4096
_DETACHED = "detached"


@dataclass(frozen=True)
class ConvertedWeight:
    """A weight of FP32 numbers that become others while they are written, so that memory holds few of them at once.

    Attributes:
        source: the FP32 numbers.
        convert: from an FP32 array [numbers] to one of the new type.
        number_bytes: bytes of a number of the new type.
    """

    source: bytes | ExternalRange
    convert: Callable[[np.ndarray[Any, np.dtype[Any]]], np.ndarray[Any, np.dtype[Any]]]
    number_bytes: int

    def pieces(self) -> Iterator[bytes]:
        """The new numbers, some millions at a time."""
        for piece in [self.source] if isinstance(self.source, bytes) else pieces_of(self.source):
            yield self.convert(np.frombuffer(piece, "<f4")).tobytes()


Weight = bytes | ExternalRange | ConvertedWeight


@dataclass(frozen=True)
class Network:
    """A graph and its large weights.

    Attributes:
        model: the graph; in place of each large weight a tensor of the same name, type and shape without content.
        weights: the raw content of each large weight by name, or its checked place in a file, or what is made of them.
    """

    model: onnx.ModelProto
    weights: Mapping[str, Weight]

    @property
    def size(self) -> int:
        """Bytes of graph and weights."""
        return self.model.ByteSize() + sum(map(weight_size, self.weights.values()))

    def with_model(self, model: onnx.ModelProto) -> Network:
        """The same weights with another graph over them."""
        return replace(self, model=model)


def weight_size(weight: Weight) -> int:
    """Bytes."""
    if isinstance(weight, ConvertedWeight):
        return weight_size(weight.source) // 4 * weight.number_bytes
    return len(weight) if isinstance(weight, bytes) else weight.length


def detach(model: onnx.ModelProto, apart: Mapping[str, Weight] | None = None) -> Network:
    """Take the large weights out of a model.

    Args:
        model: not to be used afterwards.
        apart: where weights are otherwise, by name: all that are not in the model, and any others.
    """
    weights: dict[str, Weight] = {}
    apart = apart or {}
    for tensor in model.graph.initializer:
        if tensor.name in apart:
            weights[tensor.name] = apart[tensor.name]
        elif len(tensor.raw_data) >= SMALL_TENSOR_BYTES:
            weights[tensor.name] = tensor.raw_data
        else:
            continue
        _empty(tensor, _DETACHED, 0, 0)
    # Protobuf gives memory back only with the whole message, so the graph that is kept must be a new one.
    return Network(deepcopy(model), weights)


def attach(network: Network, *, leave: Collection[str] = ()) -> onnx.ModelProto:
    """The whole model in memory, a copy; the weights named in `leave` stay without content.

    Raises:
        UnsafeExternalData: a weight's file has changed since it was checked.
    """
    model = deepcopy(network.model)
    for tensor in model.graph.initializer:
        weight = network.weights.get(tensor.name)
        if weight is not None and tensor.name not in leave:
            tensor.raw_data = b"".join(_pieces(weight)) if not isinstance(weight, bytes) else weight
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    return model


def weights_apart(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """The tensors that stand for the large weights of a network, by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_location == tensor.EXTERNAL}


def weights_to_inputs(model: onnx.ModelProto, names: Collection[str]) -> dict[str, onnx.TensorProto]:
    """Make inputs of some weights, in place: a tool then knows their shapes and asks for no content.

    Returns:
        The weights that are inputs now, by name, for `weights_from_inputs`.
    """
    taken = {tensor.name: deepcopy(tensor) for tensor in model.graph.initializer if tensor.name in names}
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.input.extend(make_tensor_value_info(each.name, each.data_type, each.dims) for each in taken.values())
    return taken


def weights_from_inputs(model: onnx.ModelProto, weights: Mapping[str, onnx.TensorProto]) -> onnx.ModelProto:
    """The reverse, in place, for the weights that are still used."""
    used = {name for node in nodes_of(model) for name in node.input}
    used.update(value.name for value in model.graph.output)
    kept = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(tensor for name, tensor in weights.items() if name in used)
    return model


def write_network(network: Network, path: Path, *, inline: int | None = None) -> tuple[Path, ...]:
    """Write a model, its weights in `<path>.data` where they are too many for one file.

    Weights that are still in files are streamed, so that a model larger than memory is copied and never loaded.

    Args:
        network: the network.
        path: the model file.
        inline: bytes of a network that is written into one file; `INLINE_BYTES` by default.

    Returns:
        The files written: the model file and, where there is one, its data file.

    Raises:
        UnsafeExternalData: a weight's file has changed since it was checked.
        InvalidModel: the graph without its weights is larger than a protobuf message may be.
        OSError: the disk did not take it.
    """
    if network.size <= (INLINE_BYTES if inline is None else inline):
        path.write_bytes(_serialized(attach(network)))
        return (path,)
    data_path = path.with_name(f"{path.name}.data")
    model = deepcopy(network.model)
    with data_path.open("wb") as file:
        for tensor in model.graph.initializer:
            weight = network.weights.get(tensor.name)
            if weight is None:
                continue
            file.write(b"\0" * (-file.tell() % ALIGNMENT_BYTES))
            offset = file.tell()
            for piece in _pieces(weight):
                file.write(piece)
            _empty(tensor, data_path.name, offset, file.tell() - offset)
    path.write_bytes(_serialized(model))
    return (path, data_path)


def _serialized(model: onnx.ModelProto) -> bytes:
    try:
        return model.SerializeToString()
    except Exception as error:  # ValueError or EncodeError, depending on protobuf's implementation
        raise InvalidModel(
            f"the graph is larger than a protobuf message may be ({error}): "
            "store its tensors as raw data with onnx.save(..., save_as_external_data=True)"
        ) from error


def _pieces(weight: Weight) -> Iterator[bytes]:
    if isinstance(weight, ConvertedWeight):
        return weight.pieces()
    return iter([weight]) if isinstance(weight, bytes) else pieces_of(weight)


def _empty(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in [("location", location), ("offset", str(offset)), ("length", str(length))]:
        tensor.external_data.add(key=key, value=value)
