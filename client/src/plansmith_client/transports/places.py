"""The parameters of tensors in shared memory (the system shared memory extension), for both protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plansmith_client.protocol.operations import SharedPlace

__all__ = ["place_parameters"]


def place_parameters(place: SharedPlace) -> dict[str, int | str]:
    """The parameters of an input that lies at `place`."""
    return {
        "shared_memory_region": place.region,
        "shared_memory_offset": place.offset,
        "shared_memory_byte_size": place.size,
    }
