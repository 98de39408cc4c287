"""What Triton loads as the backend `openvino`."""

import triton_python_backend_utils as pb_utils

from plansmith_server.backends.model import BackendModel

__all__ = ["TritonPythonModel"]


class TritonPythonModel(BackendModel):
    """One instance of one ONNX or OpenVINO model on OpenVINO."""

    triton = pb_utils
    runtime = "OpenVINO"
    reader = "plansmith_server.backends.openvino.engine:read_signature"
    loader = "plansmith_server.backends.openvino.engine:OpenVinoEngine"
    fixed_batch_allowed = True
