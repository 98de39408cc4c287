"""What Triton loads as the backend `tensorrt_rtx`."""

import triton_python_backend_utils as pb_utils

from plansmith_server.backends.model import BackendModel
from plansmith_server.backends.tensorrt_rtx.runtime import RUNTIME

__all__ = ["TritonPythonModel"]


class TritonPythonModel(BackendModel):
    """One instance of one engine of TensorRT for RTX."""

    triton = pb_utils
    runtime = RUNTIME
