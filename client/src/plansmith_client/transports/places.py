"""The parameters of tensors in shared memory (the system shared memory extension), for both protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plansmith_client.errors import ProtocolError
from plansmith_client.protocol.codecs import array_in_layout, layout_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from plansmith_client.protocol.operations import OutputPlace, SharedPlace

__all__ = ["array_from_place", "place_parameters"]


def place_parameters(place: SharedPlace) -> dict[str, int | str]:
    """The parameters of a tensor that lies at `place`."""
    return {
        "shared_memory_region": place.region,
        "shared_memory_offset": place.offset,
        "shared_memory_byte_size": place.size,
    }


def array_from_place(wanted: OutputPlace, datatype: str, shape: Sequence[int]) -> np.ndarray[Any, Any]:
    """A copy of an output that the server has written where it was asked to.

    Raises:
        ProtocolError: it does not lie there: it has no fixed size, or a larger one.
    """
    layout = layout_of(datatype, shape)
    if datatype == "BYTES" or layout.size > wanted.place.size:
        raise ProtocolError(f"{datatype} {list(shape)} does not lie in {wanted.place.size} bytes")
    return array_in_layout(wanted.memory[: layout.size], layout)
