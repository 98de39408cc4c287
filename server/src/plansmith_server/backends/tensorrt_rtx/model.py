"""What Triton loads as the backend `tensorrt_rtx`."""

import triton_python_backend_utils as pb_utils

from plansmith_server.backends.model import BackendModel

__all__ = ["TritonPythonModel"]


class TritonPythonModel(BackendModel):
    """One instance of one engine of TensorRT for RTX."""

    triton = pb_utils
    runtime = "TensorRT for RTX"
    reader = "plansmith_server.backends.tensorrt_rtx.runtime:read_signature"
    loader = "plansmith_server.backends.tensorrt_rtx.runtime:load"
