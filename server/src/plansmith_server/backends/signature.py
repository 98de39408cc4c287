"""A model's inputs and outputs, read from an ONNX file without running it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from plansmith_server.backends.datatypes import from_onnx
from plansmith_server.backends.rows import MADE_UP_NAME, NO_NAME, UNKNOWN_ROWS, Rows, trace_onnx_rows
from plansmith_server.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Signature", "TensorInfo", "read_onnx_signature"]

# Before IR version 4 every initializer is an input too, but cannot be given a value.
OVERRIDABLE_INITIALIZERS = 4

# The number of rows that these give depends on values, not on shapes.
SELECTING_OPERATORS = {"Compress", "NonMaxSuppression", "NonZero", "Unique"}

Dimension = int | str


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a model.

    Attributes:
        name: of the tensor.
        data_type: such as "TYPE_FP32".
        shape: with the batch dimension; -1 or a symbol's name for any size; None where not even the rank is known.
    """

    name: str
    data_type: str
    shape: tuple[Dimension, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives.

    Attributes:
        inputs: those that every run needs.
        optional_inputs: those with a default value (initializers that are inputs too).
        outputs: those that are tensors.
        selects: the first operator whose number of rows depends on values, or "".
        rows: what shape inference says about the rows of a batch, where names do not settle it.
        fixed_batch: whether the inputs say that their first dimension, fixed or not, is the batch.
    """

    inputs: tuple[TensorInfo, ...]
    optional_inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    selects: str = ""
    rows: Rows = UNKNOWN_ROWS
    fixed_batch: bool = False

    @property
    def first_dimensions_are_dynamic(self) -> bool:
        """Whether the first dimension of every input and output can have any size."""
        return all(tensor.shape and not _is_fixed(tensor.shape[0]) for tensor in (*self.inputs, *self.outputs))

    @property
    def is_batched(self) -> bool:
        """Whether the first dimension of everything is one and the same: the rows of a batch.

        The graph decides; where it cannot tell, the names of dimensions do. A dimension with another name in another
        input, or with a name found elsewhere too (a square matrix of distances), counts something else: such requests
        cannot be put one after the other.
        """
        if not self.inputs or self.rows.kept is False or not (self.first_dimensions_are_dynamic or self.fixed_batch):
            return False
        if len(self.inputs) > 1 and not self.rows.shared and _common_name(self.inputs) is None:
            return False
        shapes = [tensor.shape or () for tensor in (*self.inputs, *self.outputs)]
        first = {shape[0] for shape in shapes if _is_named(shape[0])}
        if first.intersection(dim for shape in shapes for dim in shape[1:]):
            return False
        return (self.rows.kept is True or len(first) <= 1) and not self.obstacle_to_splitting

    @property
    def is_named_throughout(self) -> bool:
        """Whether the first dimension of everything has one name, which no other dimension has."""
        tensors = (*self.inputs, *self.outputs)
        name = _common_name(tensors)
        return name is not None and not any(name in (tensor.shape or ())[1:] for tensor in tensors)

    @property
    def obstacle_to_splitting(self) -> str:
        """Why the answer to several requests at once cannot be split among them, or an empty string.

        A matching number of rows proves nothing: two requests, one with two detections and the other without any, also
        give two rows.
        """
        if self.rows.kept and self.rows.shared:
            return ""
        rows = {tensor.shape[0] for tensor in self.inputs if tensor.shape and isinstance(tensor.shape[0], str)}
        named = {name for name in rows if not MADE_UP_NAME.fullmatch(str(name))}
        for tensor in self.outputs:
            first = tensor.shape[0] if tensor.shape else -1
            if first in rows or _is_fixed(first):
                continue
            if self.selects:
                return f"{self.selects} may decide how many rows output {tensor.name!r} has"
            if named and isinstance(first, str) and not MADE_UP_NAME.fullmatch(first):
                return f"output {tensor.name!r} has {first!r} rows, and the inputs have {min(map(str, named))!r}"
        return ""


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
        data_type = from_onnx(tensor.type.tensor_type.elem_type) if tensor.type.HasField("tensor_type") else None
        if data_type is not None:
            yield TensorInfo(name=tensor.name, data_type=data_type.triton, shape=_shape(tensor))
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


def _common_name(tensors: Iterable[TensorInfo]) -> Dimension | None:
    """The name that the first dimension of all `tensors` has; None unless there is one."""
    first = {tensor.shape[0] if tensor.shape else -1 for tensor in tensors}
    name = first.pop()
    return None if first or not _is_named(name) else name


def _is_named(dimension: Dimension) -> bool:
    return isinstance(dimension, str) and NO_NAME.fullmatch(dimension) is None


def _is_fixed(dimension: Dimension) -> bool:
    return isinstance(dimension, int) and dimension >= 0
