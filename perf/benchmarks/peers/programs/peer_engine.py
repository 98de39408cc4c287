# mypy: disable-error-code="import-not-found"
"""What a peer computes with: ONNX Runtime and the portable file, or what plansmith serves.

With `PEER_SERVED` set it is the file and the engine that plansmith serves, in the same precision: OpenVINO with the
hint that its documentation gives for many callers at once,
https://docs.openvino.ai/2026/openvino-workflow/running-inference/optimize-inference/high-level-performance-hints.html
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import onnxruntime

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["is_quick", "load_engine"]

IN_PLACE_SECONDS = 0.001


def is_quick(call: Callable[[], Any]) -> bool:
    """Whether a call takes less than a millisecond, and may keep the others waiting."""
    took = []
    for _ in range(3):
        started = time.perf_counter()
        call()
        took.append(time.perf_counter() - started)
    return min(took) < IN_PLACE_SECONDS


class _OpenVino:
    """A compiled model with the interface of an ONNX Runtime session."""

    def __init__(self, file: str, precision: str) -> None:
        import openvino  # noqa: PLC0415 - only the environment that needs it has it

        hints = {"PERFORMANCE_HINT": "THROUGHPUT", **({"INFERENCE_PRECISION_HINT": precision} if precision else {})}
        self._compiled = openvino.Core().compile_model(file, "CPU", hints)
        self._local = threading.local()

    def run(self, names: list[str], inputs: dict[str, Any]) -> list[Any]:
        """Compute on a request of this thread's own."""
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        results = self._local.request.infer(inputs, share_inputs=True)
        return [results[name] for name in names]


def load_engine(settings: dict[str, Any]) -> Any:
    """An ONNX Runtime session, or what has its method `run`."""
    if not os.environ.get("PEER_SERVED"):
        return onnxruntime.InferenceSession(settings["model"], providers=["CPUExecutionProvider"])
    served = settings["served"]
    if served["backend"] == "openvino":
        return _OpenVino(served["file"], served["precision"])
    return onnxruntime.InferenceSession(served["file"], providers=["CPUExecutionProvider"])
