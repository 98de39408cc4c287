"""What Triton loads as the backend `openvino`."""

import triton_python_backend_utils as pb_utils

from plansmith_server.backends.model import BackendModel
from plansmith_server.backends.openvino.runtime import RUNTIME

__all__ = ["TritonPythonModel"]


class TritonPythonModel(BackendModel):
    """One instance of one ONNX or OpenVINO model on OpenVINO."""

    triton = pb_utils
    runtime = RUNTIME
