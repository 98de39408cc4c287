"""The range of each tensor, seen on the user's own data."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationMethod as _Method
from onnxruntime.quantization import create_calibrator

from plansmith_build.precision.errors import failing_as

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.precision.schemes import QuantizationScheme

__all__ = ["CalibrationMethod", "calibrate", "without_warnings"]


class CalibrationMethod(StrEnum):
    """How a tensor's range is chosen from the values that were seen."""

    MINMAX = "minmax"
    ENTROPY = "entropy"
    PERCENTILE = "percentile"


_METHODS = {
    CalibrationMethod.MINMAX: _Method.MinMax,
    CalibrationMethod.ENTROPY: _Method.Entropy,
    CalibrationMethod.PERCENTILE: _Method.Percentile,
}


def calibrate(
    model: onnx.ModelProto, batches: Sequence[Arrays], method: CalibrationMethod, scheme: QuantizationScheme
) -> Any:
    """Run the model on the data and choose the range of each tensor that may be quantized.

    Memory is that of one batch with all its intermediate tensors, whatever the number of batches.

    Args:
        model: from `preparation.prepare`.
        batches: inputs by name, as the model takes them.
        method: how.
        scheme: what will be quantized.

    Returns:
        onnxruntime's TensorsData.

    Raises:
        ConversionFailed: the model could not be run or the ranges not be chosen.
    """
    # It reports its progress with print, and on the root logger.
    quiet = contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory(prefix="plansmith-calibration-") as folder, quiet, without_warnings():
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        with failing_as(f"the {method} calibration failed"):
            calibrator = create_calibrator(
                path,
                scheme.calibrated,
                augmented_model_path=str(Path(folder) / "augmented.onnx"),
                calibrate_method=_METHODS[method],
                extra_options={"symmetric": scheme.symmetric},
            )
            calibrator.infer_session = _session(calibrator)
            # What an engine keeps between the batches is not needed here.
            for batch in batches:
                calibrator.collect_data(_Reader(batch))
            return calibrator.compute_data()


def _session(calibrator: Any) -> Any:
    """The calibrator's, in an order that takes least and greatest of a tensor while that is there.

    By default they come last, and every tensor of the network is kept until then.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    return onnxruntime.InferenceSession(
        calibrator.augmented_model_path, options, providers=calibrator.execution_providers
    )


class _Reader:
    """Gives one batch, by the interface of onnxruntime's CalibrationDataReader."""

    def __init__(self, batch: Arrays) -> None:
        self._batches: list[Arrays] = [batch]

    def get_next(self) -> Arrays | None:
        return self._batches.pop() if self._batches else None


@contextlib.contextmanager
def without_warnings() -> Iterator[None]:
    """Silence onnxruntime's quantizers, which warn on the root logger."""
    logger = logging.getLogger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
