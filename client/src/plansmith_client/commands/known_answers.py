"""Answers that a model gave before, and whether it still gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client.commands.input_files import read_file
from plansmith_client.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from plansmith_client.protocol.results import InferResult

__all__ = ["difference", "read_answers"]


def read_answers(path: Path) -> dict[str, Any]:
    """The outputs by name that `plansmith infer --output` wrote as .npz: JSON has no dtypes, and not every number.

    Raises:
        InvalidInput: the file cannot be read, or does not hold outputs by name.
    """
    content = read_file(path) if path.suffix == ".npz" else None
    if not isinstance(content, dict) or not content:
        raise InvalidInput(f"{path} does not hold outputs by name: write it with plansmith infer --output FILE.npz")
    return content


def difference(result: InferResult, known: Mapping[str, Any], tolerance: float) -> str:
    """How the first output that differs does so, or an empty string.

    Floating-point numbers may differ by `tolerance` times the greatest known value of their output; all else is equal.
    """
    for name, values in known.items():
        if name not in result:
            return f"it has no output {name!r}"
        given, expected = np.asarray(result[name]), np.asarray(values)
        if given.shape != expected.shape:
            return f"output {name!r} has the shape {list(given.shape)} instead of {list(expected.shape)}"
        if expected.dtype.kind != "f" or given.dtype.kind in "OSU":
            if [_plain(element) for element in given.flat] != [_plain(element) for element in expected.flat]:
                return f"output {name!r} has other values"
            continue
        given, expected = given.astype(np.float64), expected.astype(np.float64)
        # What is infinite or not a number must be so at the same places.
        same = (given == expected) | (np.isnan(given) & np.isnan(expected))
        with np.errstate(invalid="ignore"):
            distance = np.where(same, 0.0, np.abs(given - expected)).max(initial=0.0)
        scale = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
        if not distance <= tolerance * scale:
            share = distance / scale if scale else np.inf
            return f"output {name!r} differs by {share:.3g} of its greatest value, and --tolerance allows {tolerance:g}"
    return ""


def _plain(element: Any) -> Any:
    return element.decode(errors="surrogateescape") if isinstance(element, bytes) else element
