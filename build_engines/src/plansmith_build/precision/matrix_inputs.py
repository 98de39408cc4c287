"""What matrices are multiplied with, seen on the user's own data."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime

from plansmith_build.precision.errors import failing_as

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from plansmith_build.engines.onnxruntime import Arrays

__all__ = ["SeenInput", "observe_inputs"]

ROWS = 256
_LOG_FATAL = 4


@dataclass(frozen=True)
class SeenInput:
    """A tensor that was seen.

    Attributes:
        largest: its largest value, without the sign, in all the data.
        rows: some of its rows, FP32 of shape [rows, K], from every batch.
    """

    largest: float
    rows: np.ndarray[Any, np.dtype[np.float32]]


def observe_inputs(model: onnx.ModelProto, names: Collection[str], batches: Sequence[Arrays]) -> dict[str, SeenInput]:
    """Run a model and keep what is told of some of its tensors.

    Args:
        model: from `preparation.prepare`.
        names: FP32 tensors of it.
        batches: inputs by name, as the model takes them.

    Raises:
        ConversionFailed: the model could not be run.
    """
    copy = deepcopy(model)
    wanted = list(dict.fromkeys(names))
    given = {value.name for value in (*copy.graph.output, *copy.graph.input)}
    for name in wanted:
        if name not in given:
            copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    answered = [name for name in wanted if name not in {value.name for value in copy.graph.input}]
    share = -(-ROWS // max(len(batches), 1))
    seen: dict[str, list[tuple[float, Any]]] = {name: [] for name in wanted}
    with failing_as("it does not run on the calibration data"):
        session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for batch in batches:
            found = {**batch, **dict(zip(answered, session.run(answered, batch), strict=True))} if answered else batch
            for name in wanted:
                rows = found[name].reshape(-1, found[name].shape[-1])
                some = rows[np.linspace(0, len(rows) - 1, min(share, len(rows))).astype(int)]
                seen[name].append((float(np.abs(rows).max(initial=0)), some))
    return {
        name: SeenInput(max(largest for largest, _ in parts), np.concatenate([rows for _, rows in parts]))
        for name, parts in seen.items()
    }
