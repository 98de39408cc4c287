"""A candidate on OpenVINO's CPU plugin, with the properties that the backend `openvino` will give it."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_build.engines.onnxruntime import RunFailed

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.reading.signatures import Signature

__all__ = ["OpenVinoRuntime", "obstacle_to_openvino"]


def obstacle_to_openvino(signature: Signature) -> str:
    """Why OpenVINO cannot serve a model here, or an empty string."""
    if find_spec("openvino") is None:
        return "OpenVINO is not installed: plansmith brings it, or pip install openvino nncf"
    for spec in (*signature.inputs, *signature.outputs):
        if spec.datatype == "BYTES":
            return f"OpenVINO's CPU plugin has no text, and {spec.name!r} is text"
        if spec.datatype == "BF16":
            return f"{spec.name!r} is BF16, which is not handed to OpenVINO here"
        if spec.optional:
            return f"the input {spec.name!r} is optional, and OpenVINO wants every input"
    return ""


class OpenVinoRuntime:
    """A compiled model.

    Args:
        path: the ONNX file.
        signature: what it takes and gives.
        precision: what FP32 nodes are computed in: `"f32"`, or `"bf16"` where the CPU has it.
        threads: how many to use.

    Raises:
        RunFailed: OpenVINO does not compile it.
    """

    def __init__(self, path: Path, signature: Signature, *, precision: str, threads: int) -> None:
        import openvino  # noqa: PLC0415 - half a second of imports, only where it is a candidate

        self.description = f"OpenVINO {version('openvino')} on the CPU"
        self._output_names = [spec.name for spec in signature.outputs]
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # As the server's backend does it.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            self._request = openvino.Core().compile_model(str(path), "CPU", properties).create_infer_request()
        except Exception as error:
            raise RunFailed(_sentence(error)) from error

    def run(self, inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> Arrays:
        """The outputs by name; copies.

        Raises:
            RunFailed: OpenVINO reports an error.
        """
        try:
            outputs = self._request.infer(dict(inputs))
        except Exception as error:
            raise RunFailed(_sentence(error)) from error
        return {name: np.array(array) for name, array in zip(self._output_names, outputs.values(), strict=True)}


def _sentence(error: Exception) -> str:
    """What OpenVINO says last, without the places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (told or lines or [type(error).__name__])[-1][:200].rstrip(".")
