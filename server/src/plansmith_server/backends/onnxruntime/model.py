"""What Triton loads as the backend `onnxruntime`."""

import triton_python_backend_utils as pb_utils

from plansmith_server.backends.model import BackendModel

__all__ = ["TritonPythonModel"]


class TritonPythonModel(BackendModel):
    """One instance of one ONNX model on ONNX Runtime."""

    triton = pb_utils
    runtime = "ONNX Runtime"
    reader = "plansmith_server.backends.onnx_signature:read_signature"
    loader = "plansmith_server.backends.onnxruntime.engine:OnnxRuntimeEngine"
