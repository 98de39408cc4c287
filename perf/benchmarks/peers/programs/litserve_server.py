# mypy: disable-error-code="import-not-found, misc, no-untyped-def"
"""ONNX Runtime behind LitServe, with its batching.

A LitAPI with `batch` and `unbatch`, JSON bodies: https://lightning.ai/docs/litserve/api-reference/litapi and
https://lightning.ai/docs/litserve/features/batching.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import litserve as ls
import numpy as np
import onnxruntime

SETTINGS = json.loads(Path(os.environ["PEER_SETTINGS"]).read_text(encoding="utf-8"))
OUTPUTS = [tensor["name"] for tensor in SETTINGS["outputs"]]


class OnnxApi(ls.LitAPI):
    """One ONNX model."""

    def setup(self, device: str) -> None:
        """Load the model."""
        del device
        self.session = onnxruntime.InferenceSession(SETTINGS["model"], providers=["CPUExecutionProvider"])

    # LitServe takes annotations of these two for the form of the body, and JSON where there are none.
    def decode_request(self, request):  # noqa: ANN001, ANN201
        """The arrays of one request."""
        return {
            tensor["name"]: np.asarray(request[tensor["name"]], dtype=tensor["dtype"]) for tensor in SETTINGS["inputs"]
        }

    def batch(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """The rows of all requests, one after the other."""
        self.sections = np.cumsum([len(next(iter(arrays.values()))) for arrays in inputs])[:-1]
        return {name: np.concatenate([arrays[name] for arrays in inputs]) for name in inputs[0]}

    def predict(self, inputs: dict[str, Any]) -> list[Any]:
        """Compute."""
        outputs: list[Any] = self.session.run(OUTPUTS, inputs)
        return outputs

    def unbatch(self, outputs: list[Any]) -> list[tuple[Any, ...]]:
        """Each request's rows."""
        return list(zip(*(np.split(output, self.sections) for output in outputs), strict=True))

    def encode_response(self, outputs):  # noqa: ANN001, ANN201
        """The answer to one request."""
        return {name: output.tolist() for name, output in zip(OUTPUTS, outputs, strict=True)}


if __name__ == "__main__":
    api = OnnxApi(max_batch_size=max(1, SETTINGS["max_batch_size"]), batch_timeout=SETTINGS["batch_wait"])
    server = ls.LitServer(api, accelerator="cpu")
    server.run(host=SETTINGS["host"], port=SETTINGS["http_port"], generate_client_file=False, log_level="warning")
