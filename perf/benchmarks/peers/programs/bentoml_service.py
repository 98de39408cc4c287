# mypy: disable-error-code="import-not-found, type-arg, untyped-decorator"
"""ONNX Runtime as a BentoML service with adaptive batching.

https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html; arrays travel as JSON, see
https://docs.bentoml.com/en/latest/build-with-bentoml/iotypes.html. A batchable API takes one array and gives
one, here as the whole body.
"""

import json
import os
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime

SETTINGS = json.loads(Path(os.environ["PEER_SETTINGS"]).read_text(encoding="utf-8"))
INPUT = SETTINGS["inputs"][0]
OUTPUT = SETTINGS["outputs"][0]
BATCHING = (
    {"batchable": True, "max_batch_size": SETTINGS["max_batch_size"], "max_latency_ms": 60_000}
    if SETTINGS["max_batch_size"]
    else {}
)


@bentoml.service(workers=1, traffic={"timeout": 60})
class OnnxService:
    """One ONNX model."""

    def __init__(self) -> None:
        """Load the model."""
        self.session = onnxruntime.InferenceSession(SETTINGS["model"], providers=["CPUExecutionProvider"])

    @bentoml.api(**BATCHING)
    def predict(self, inputs: np.ndarray, /) -> np.ndarray:
        """Compute."""
        outputs: list[np.ndarray] = self.session.run([OUTPUT["name"]], {INPUT["name"]: inputs.astype(INPUT["dtype"])})
        return outputs[0]
