"""A model's inputs and outputs, read from an ONNX file without running it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from plansmith_server.backends.datatypes import BY_ONNX
from plansmith_server.backends.model_file import find_model_file
from plansmith_server.backends.onnx_rows import trace_onnx_rows
from plansmith_server.backends.signature import Signature, TensorInfo
from plansmith_server.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from plansmith_server.backends.signature import Dimension

__all__ = ["read_onnx_signature", "read_signature"]

# Before IR version 4 every initializer is an input too, but cannot be given a value.
OVERRIDABLE_INITIALIZERS = 4
# The number of rows that these give depends on values, not on shapes.
SELECTING_OPERATORS = {"Compress", "NonMaxSuppression", "NonZero", "Unique"}


def read_signature(folder: Path, model_file: str) -> Signature:
    """Read what the model in the version folder `folder` takes and gives; see `read_onnx_signature`."""
    return read_onnx_signature(find_model_file(folder, model_file))


def read_onnx_signature(path: Path) -> Signature:
    """Read what the ONNX model at `path` takes and gives, without its external data and without running it.

    Raises:
        ModelError: it is not an ONNX file, has an input that is not a tensor, or keeps weights outside its folder.
    """
    model = _read(path)
    _check_external_data(model, path)
    if any(tensor.type.tensor_type.HasField("elem_type") and not _has_shape(tensor) for tensor in model.graph.output):
        model = _with_shapes(model)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {tensor.values.name for tensor in graph.sparse_initializer}
    optional = constants if model.ir_version >= OVERRIDABLE_INITIALIZERS else set()
    signature = Signature(
        inputs=tuple(_infos((tensor for tensor in graph.input if tensor.name not in constants), path, strict=True)),
        optional_inputs=tuple(
            _infos((tensor for tensor in graph.input if tensor.name in optional), path, strict=False)
        ),
        outputs=tuple(_infos(graph.output, path, strict=False)),
        selects=next((node.op_type for node in _nodes(graph) if node.op_type in SELECTING_OPERATORS), ""),
    )
    if not signature.inputs or not signature.first_dimensions_are_dynamic or signature.is_named_throughout:
        return signature
    return replace(signature, rows=trace_onnx_rows(model, {tensor.name for tensor in signature.inputs}))


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load_model(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{path.name} is not an ONNX model, or only a part of one: build or copy it again") from error
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read ({error.strerror})") from error
    if not model.graph.output:
        raise ModelError(f"{path.name} is not an ONNX model, or only a part of one: build or copy it again")
    return model


def _check_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Raise where weights lie outside the model's folder: a model must not make the server read other files."""
    folder = path.parent.resolve()
    for tensor in _tensors(model.graph):
        if uses_external_data(tensor):
            location = ExternalDataInfo(tensor).location
            target = (folder / location).resolve()
            if Path(location).is_absolute() or not target.is_relative_to(folder):
                raise ModelError(f"{path.name} keeps weights outside its folder, in {location!r}: move them next to it")
            if not target.is_file():
                raise ModelError(f"{path.name} keeps weights in {location!r}, which is missing: copy it next to it")


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from [attribute.t] if attribute.HasField("t") else []
            yield from attribute.tensors
            for nested in _subgraphs(attribute):
                yield from _tensors(nested)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for nested in _subgraphs(attribute):
                yield from _nodes(nested)


def _subgraphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        # Whether the model is valid is for the runtime to decide; only its shapes remain unknown here.
        return model


def _infos(tensors: Iterable[onnx.ValueInfoProto], path: Path, *, strict: bool) -> Iterator[TensorInfo]:
    for tensor in tensors:
        data_type = BY_ONNX.get(tensor.type.tensor_type.elem_type) if tensor.type.HasField("tensor_type") else None
        if data_type is not None:
            yield TensorInfo(name=tensor.name, data_type=data_type, shape=_shape(tensor))
        elif strict:
            raise ModelError(f"{path.name} has an input {tensor.name!r} of a type that Triton does not have")


def _has_shape(tensor: onnx.ValueInfoProto) -> bool:
    return bool(tensor.type.tensor_type.HasField("shape"))


def _shape(tensor: onnx.ValueInfoProto) -> tuple[Dimension, ...] | None:
    if not _has_shape(tensor):
        return None
    return tuple(_dimension(dim) for dim in tensor.type.tensor_type.shape.dim)


def _dimension(dim: onnx.TensorShapeProto.Dimension) -> Dimension:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) or -1
