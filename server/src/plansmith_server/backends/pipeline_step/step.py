"""What a step is, and how its rows fail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from plansmith_server.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from plansmith_server.backends.signature import TensorInfo

__all__ = ["Step", "each_row", "text_array"]


class Step(Protocol):
    """A loaded step.

    Attributes:
        inputs: what it takes; the first dimension is the batch's.
        outputs: what it gives, a row for each row of the inputs.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Compute all outputs; text is given and taken as bytes.

        Raises:
            RequestError: a row cannot be used; the message has its number if there are several.
        """


def each_row(rows: NDArray[Any], read: Callable[[Any], Any]) -> list[Any]:
    """What `read` makes of each row.

    Raises:
        RequestError: a row cannot be used.
    """
    made = []
    for number, row in enumerate(rows):
        try:
            made.append(read(row))
        except RequestError as error:
            raise RequestError(f"row {number}: {error}" if len(rows) > 1 else str(error)) from error
    return made


def text_array(rows: Sequence[Sequence[str]], width: int) -> NDArray[np.object_]:
    """Rows of words as UTF-8, filled up with empty ones.

    Returns:
        object, [rows, width].
    """
    array = np.full((len(rows), width), b"", dtype=np.object_)
    for place, row in enumerate(rows):
        array[place, : len(row)] = [word.encode() for word in row]
    return array
