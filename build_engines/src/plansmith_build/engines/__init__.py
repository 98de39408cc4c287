"""Running a candidate in this process, as the server's backend of the same name will run it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import numpy as np

    from plansmith_build.engines.onnxruntime import Arrays

__all__ = ["Runtime"]


class Runtime(Protocol):
    """A loaded candidate.

    Attributes:
        description: what runs it, for tables and manifests.
    """

    description: str

    def run(self, inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> Arrays:
        """The outputs by name.

        Raises:
            RunFailed: the engine reports an error.
        """
