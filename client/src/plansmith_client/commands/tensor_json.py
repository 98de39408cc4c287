"""Arrays as JSON, for files and for `--json`.

Numbers are JSON numbers, nested as the array is. JSON has no NaN and no infinities: they are the strings "NaN",
"Infinity" and "-Infinity". BYTES elements are strings where they are UTF-8, and `{"base64": "..."}` where they are not.
"""

from __future__ import annotations

import base64
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client.tensors import datatype_from_numpy

if TYPE_CHECKING:
    from plansmith_client.protocol.results import InferResult

__all__ = ["json_from_array", "json_from_result"]


def json_from_array(array: np.ndarray[Any, Any]) -> Any:
    """Nested lists of an array that a server answered; a single value for an array without dimensions."""
    if array.dtype == object:
        return _mapped(array.tolist(), _text)
    if array.dtype.kind in "biu":
        return array.tolist()
    # BF16 has no Python type of its own; float64 holds all its values.
    exact = array.astype(np.float64)
    return exact.tolist() if np.isfinite(exact).all() else _mapped(exact.tolist(), _number)


def json_from_result(result: InferResult, *, data: bool = True) -> dict[str, Any]:
    """The whole result of an inference; without the elements where `data` is False."""
    outputs = {
        name: {
            "datatype": datatype_from_numpy(array.dtype),
            "shape": list(array.shape),
            **({"data": json_from_array(array)} if data else {}),
        }
        for name, array in result.items()
    }
    return {
        "model": result.model_name,
        "version": result.model_version,
        "parameters": _mapped(result.parameters, _number),
        "outputs": outputs,
    }


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, dict):
        return {name: _mapped(part, change) for name, part in value.items()}
    return [_mapped(part, change) for part in value] if isinstance(value, list) else change(value)


def _number(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _text(element: bytes) -> str | dict[str, str]:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(element).decode()}
