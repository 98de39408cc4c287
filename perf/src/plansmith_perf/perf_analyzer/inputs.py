"""Writes inputs in the form that perf_analyzer reads."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

from plansmith_client.inputs.validation import check_inputs
from plansmith_client.protocol.codecs import binary_from_array
from plansmith_perf.errors import LoadTestMisconfigured

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from plansmith_client import Model
    from plansmith_client.protocol.operations import Tensor
    from plansmith_perf.load.requests import CheckedRequest

__all__ = ["write_inputs"]


def write_inputs(file: Path, model: Model, requests: Sequence[CheckedRequest]) -> None:
    """Write the rows of some requests as JSON, with exact values.

    Raises:
        LoadTestMisconfigured: an input has text that is not UTF-8.
        plansmith_client.InvalidInput: a request does not fit the model.
    """
    batched = bool(model.metadata.max_batch_size)
    steps = []
    for request in requests:
        tensors = check_inputs(model.metadata, request.inputs)
        rows = len(tensors[0].array) if batched else 1
        # perf_analyzer makes batches itself, from one row after the other.
        steps += [{t.name: _content(t, row if batched else None) for t in tensors} for row in range(rows)]
    file.write_text(json.dumps({"data": steps}), encoding="utf-8")


def _content(tensor: Tensor, row: int | None) -> dict[str, Any]:
    array = tensor.array if row is None else tensor.array[row]
    # A scalar has the shape [1] in perf_analyzer's files.
    shape = list(array.shape) or [1]
    if array.dtype == object:
        try:
            return {"content": [bytes(value).decode() for value in array.reshape(-1)], "shape": shape}
        except UnicodeDecodeError:
            raise LoadTestMisconfigured(
                f"input {tensor.name!r} has bytes that are not UTF-8, which perf_analyzer's files cannot hold: "
                "measure with --tool plansmith"
            ) from None
    return {"content": {"b64": base64.b64encode(binary_from_array(array)).decode("ascii")}, "shape": shape}
