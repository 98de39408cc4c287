"""A graph with its weights held apart, so that working on the graph costs nothing however large the weights are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx

from plansmith_build.errors import InvalidModel
from plansmith_build.reading.external_data import ExternalRange, copy_range, read_range

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path
    from typing import BinaryIO

__all__ = [
    "INLINE_BYTES",
    "SMALL_TENSOR_BYTES",
    "Network",
    "Weight",
    "attach",
    "detach",
    "weight_size",
    "write_network",
]

Weight = bytes | ExternalRange

# Beyond this, weights go to a file of their own: a protobuf message ends at 2 GiB, and readers want head-room.
INLINE_BYTES = 3 * 2**29
# What is smaller stays in the graph: shapes, axes and scales, which those who work on it want to see.
SMALL_TENSOR_BYTES = 64 * 2**10
# ONNX Runtime maps weights into memory where they begin on a page.
ALIGNMENT_BYTES = 4096
_DETACHED = "detached"


@dataclass(frozen=True)
class Network:
    """A graph and its large weights.

    Attributes:
        model: the graph; in place of each large weight a tensor of the same name, type and shape without content.
        weights: the raw content of each large weight by name, or its checked place in a file.
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
    return len(weight) if isinstance(weight, bytes) else weight.length


def detach(model: onnx.ModelProto, apart: Mapping[str, Weight] | None = None) -> Network:
    """Take the large weights out of a model.

    Args:
        model: not to be used afterwards.
        apart: the weights that are not in the model, by name: its tensors of external data.
    """
    weights: dict[str, Weight] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            weights[tensor.name] = (apart or {})[tensor.name]
        elif len(tensor.raw_data) >= SMALL_TENSOR_BYTES:
            weights[tensor.name] = tensor.raw_data
        else:
            continue
        _empty(tensor, _DETACHED, 0, 0)
    # Protobuf gives memory back only with the whole message, so the graph that is kept must be a new one.
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    return Network(graph, weights)


def attach(network: Network, *, leave: Collection[str] = ()) -> onnx.ModelProto:
    """The whole model in memory, a copy.

    Args:
        network: the network.
        leave: the names of the weights to leave as they are, without content.

    Raises:
        UnsafeExternalData: a weight's file has changed since it was checked.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    for tensor in model.graph.initializer:
        weight = network.weights.get(tensor.name)
        if weight is not None and tensor.name not in leave:
            tensor.raw_data = weight if isinstance(weight, bytes) else read_range(weight)
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    return model


def write_network(network: Network, path: Path) -> tuple[Path, ...]:
    """Write a model, its weights in `<path>.data` where they are too many for one file.

    Weights that are still in files are streamed, so that a model larger than memory is copied and never loaded.

    Returns:
        The files written: the model file and, where there is one, its data file.

    Raises:
        UnsafeExternalData: a weight's file has changed since it was checked.
        InvalidModel: the graph without its weights is larger than a protobuf message may be.
        OSError: the disk did not take it.
    """
    if network.size <= INLINE_BYTES:
        path.write_bytes(_serialized(attach(network)))
        return (path,)
    data_path = path.with_name(f"{path.name}.data")
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    with data_path.open("wb") as file:
        for tensor in model.graph.initializer:
            weight = network.weights.get(tensor.name)
            if weight is None:
                continue
            file.write(b"\0" * (-file.tell() % ALIGNMENT_BYTES))
            offset = file.tell()
            _write(weight, file)
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


def _write(weight: Weight, file: BinaryIO) -> None:
    if isinstance(weight, bytes):
        file.write(weight)
    else:
        copy_range(weight, file)


def _empty(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in [("location", location), ("offset", str(offset)), ("length", str(length))]:
        tensor.external_data.add(key=key, value=value)
