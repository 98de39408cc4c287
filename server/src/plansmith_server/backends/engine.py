"""What a runtime has to offer so that it can be a backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from plansmith_server.backends.config import ModelConfig
    from plansmith_server.backends.signature import Signature

__all__ = ["Engine", "Instance"]


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance of a model, as Triton's instance groups make them.

    Attributes:
        config: of the model.
        folder: of the version.
        kind: "CPU" or "GPU"; Triton resolves KIND_AUTO before.
        device: the number of the GPU.
    """

    config: ModelConfig
    folder: Path
    kind: str
    device: int


class Engine(Protocol):
    """A loaded model.

    Attributes:
        signature: what it takes and gives.
    """

    signature: Signature

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[np.generic]]:
        """Compute `outputs`, in their order.

        Args:
            outputs: names, at least one.
            inputs: every required input by name; bfloat16 as its bits in uint16, text as objects.

        Raises:
            RequestError: the inputs cannot be computed with, as the model is loaded.
        """

    def close(self) -> None:
        """Free the model; nothing is run afterwards."""
