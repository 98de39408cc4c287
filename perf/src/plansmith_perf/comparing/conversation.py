"""When a process of a load begins, and the arrays that it works on: for those that do without asyncio."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from plansmith_perf.load.requests import CheckedRequest

__all__ = ["read_arrays", "wait_for_start", "write_arrays"]

_MARK = "tensor "


def wait_for_start() -> int:
    """Say that everything is loaded, and wait for the moment to begin; exits where there is to be none.

    Raises:
        SystemExit: the parent wants no load.
    """
    print("ready", flush=True)  # noqa: T201
    word = sys.stdin.readline().strip()
    if not word:
        sys.exit(0)
    return int(word)


def write_arrays(folder: Path, requests: Sequence[CheckedRequest]) -> None:
    """Write the arrays of each request to `<i>.inputs.npz` and `<i>.expected.npz`."""
    for number, request in enumerate(requests):
        for part, arrays in (("inputs", request.inputs), ("expected", request.expected)):
            # The mark keeps a tensor called `file` from being taken for savez's own argument.
            np.savez(folder / f"{number:06}.{part}.npz", **{_MARK + name: array for name, array in arrays.items()})


def read_arrays(folder: Path) -> list[tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]]:
    """Inputs and expected outputs of each request, in order."""
    inputs = sorted(folder.glob("*.inputs.npz"))
    return [(_load(path), _load(path.with_name(path.name.replace("inputs", "expected")))) for path in inputs]


def _load(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name.removeprefix(_MARK): array for name, array in arrays.items()}
