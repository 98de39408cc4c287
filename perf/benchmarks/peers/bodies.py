"""The bodies of HTTP requests and answers of peers that do not speak the Open Inference Protocol.

- `raw`: the tensors' bytes, C order and little-endian, one after the other in the model's order; the header `x-shapes`
  has their shapes, such as `1,64;1,10`. The least work that a hand-written server can do.
- `json`: an object with a nested list for each tensor by name.
- `json-list`: the nested list alone, for models with one input and one output.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from plansmith_perf.errors import WrongAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from plansmith_client import TensorSpec
    from plansmith_perf.comparing.subject import Subject

__all__ = ["SHAPES_HEADER", "BodyFormat", "Tensor", "decode_body", "encode_body", "inputs_of", "outputs_of"]

SHAPES_HEADER = "x-shapes"

BodyFormat = Literal["raw", "json", "json-list"]


@dataclass(frozen=True)
class Tensor:
    """One input or output of a model.

    Attributes:
        name: of the tensor.
        dtype: numpy's name of it, such as "float32".
        shape: with the batch dimension; -1 for any size.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


def inputs_of(subject: Subject) -> list[Tensor]:
    """In the model's order."""
    return [_tensor(spec) for spec in subject.metadata.inputs]


def outputs_of(subject: Subject) -> list[Tensor]:
    """In the model's order."""
    return [_tensor(spec) for spec in subject.metadata.outputs]


def encode_body(
    body_format: BodyFormat, tensors: Sequence[Tensor], arrays: Mapping[str, NDArray[Any]]
) -> tuple[bytes, dict[str, str]]:
    """A body and its headers.

    Args:
        body_format: see the module.
        tensors: in the model's order.
        arrays: one for each.
    """
    if body_format != "raw":
        lists = {tensor.name: arrays[tensor.name].tolist() for tensor in tensors}
        document = lists if body_format == "json" else lists[tensors[0].name]
        return json.dumps(document).encode(), {"content-type": "application/json"}
    ordered = [np.ascontiguousarray(arrays[tensor.name], dtype=tensor.dtype) for tensor in tensors]
    shapes = ";".join(",".join(map(str, array.shape)) for array in ordered)
    return b"".join(array.tobytes() for array in ordered), {
        "content-type": "application/octet-stream",
        SHAPES_HEADER: shapes,
    }


def decode_body(
    body_format: BodyFormat, tensors: Sequence[Tensor], headers: Mapping[str, str], body: bytes
) -> dict[str, NDArray[Any]]:
    """The arrays of a body.

    Args:
        body_format: see the module.
        tensors: in the model's order.
        headers: names in small letters.
        body: as it came.

    Raises:
        WrongAnswer: the body cannot be read.
    """
    try:
        if body_format == "raw":
            return _decode_raw(tensors, headers, body)
        document = json.loads(body)
        lists = document if body_format == "json" else {tensors[0].name: document}
        return {tensor.name: np.asarray(lists[tensor.name], dtype=tensor.dtype) for tensor in tensors}
    except (ValueError, KeyError, TypeError) as error:
        raise WrongAnswer(f"the answer is no {body_format} body of the model's outputs: {error}") from error


def _decode_raw(tensors: Sequence[Tensor], headers: Mapping[str, str], body: bytes) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    offset = 0
    for tensor, text in zip(tensors, headers[SHAPES_HEADER].split(";"), strict=True):
        shape = tuple(int(size) for size in text.split(",") if size)
        flat = np.frombuffer(body, dtype=tensor.dtype, count=math.prod(shape), offset=offset)
        arrays[tensor.name] = flat.reshape(shape)
        offset += flat.nbytes
    if offset != len(body):
        raise ValueError(f"{len(body)} bytes where its shapes make {offset}")
    return arrays


def _tensor(spec: TensorSpec) -> Tensor:
    return Tensor(spec.name, spec.numpy_dtype.name, spec.shape)
