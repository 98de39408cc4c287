"""Batches above `max_batch_size`: split into several requests, joined into one result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plansmith_client.errors import ProtocolError
from plansmith_client.protocol.results import with_outputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from plansmith_client.protocol.operations import Tensor
    from plansmith_client.protocol.results import InferResult

__all__ = ["check_rows", "join_results", "split_tensors"]


def split_tensors(tensors: Sequence[Tensor], largest: int) -> Iterator[tuple[Tensor, ...]]:
    """The tensors in parts of at most `largest` rows, each about as large as the others; views, not copies."""
    rows = tensors[0].array.shape[0]
    parts = -(-rows // largest)
    for part in range(parts):
        first, last = rows * part // parts, rows * (part + 1) // parts
        yield tuple(tensor._replace(array=tensor.array[first:last]) for tensor in tensors)


def check_rows(result: InferResult, rows: int) -> None:
    """Refuse a result that cannot be taken apart by the rows of its request.

    Raises:
        ProtocolError: an output does not have so many rows.
    """
    for name, array in result.items():
        if array.shape[:1] != (rows,):
            raise ProtocolError(
                f"Model {result.model_name!r}, output {name!r}: {rows} rows were sent in one request, and "
                f"{list(array.shape)} came, not a row for each: send one at a time "
                "(map with batch_size=1, the model itself instead of batched)"
            )


def join_results(results: Sequence[InferResult], rows: Sequence[int]) -> InferResult:
    """One result of the parts' results, in order.

    Args:
        results: of the parts.
        rows: of each part.

    Raises:
        ProtocolError: an output does not have the rows of its part, or the parts' outputs do not fit together.
    """
    first = results[0]
    outputs = {}
    for name in first:
        arrays = [result[name] for result in results if name in result]
        shapes = [array.shape for array in arrays]
        if len(arrays) != len(results) or any(
            shape[:1] != (count,) or shape[1:] != shapes[0][1:] for shape, count in zip(shapes, rows, strict=True)
        ):
            raise ProtocolError(
                f"Model {first.model_name!r}, output {name!r}: {sum(rows)} rows were sent in parts of {list(rows)}, "
                f"whose outputs {[list(shape) for shape in shapes]} do not join to one; send one part at a time"
            )
        outputs[name] = np.concatenate(arrays)
    return with_outputs(first, outputs)
