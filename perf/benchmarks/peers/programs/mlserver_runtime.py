# mypy: disable-error-code="import-not-found, misc"
"""ONNX Runtime as a custom runtime of MLServer: https://docs.seldon.ai/mlserver/user-guide/custom."""

import json
import os
from pathlib import Path

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

SETTINGS = json.loads(Path(os.environ["PEER_SETTINGS"]).read_text(encoding="utf-8"))
OUTPUTS = [tensor["name"] for tensor in SETTINGS["outputs"]]


class OnnxModel(MLModel):
    """One ONNX model."""

    async def load(self) -> bool:
        """Load the model."""
        self.session = onnxruntime.InferenceSession(SETTINGS["model"], providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Compute."""
        inputs = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        outputs = self.session.run(OUTPUTS, inputs)
        encoded = [NumpyCodec.encode_output(name, output) for name, output in zip(OUTPUTS, outputs, strict=True)]
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=encoded)
