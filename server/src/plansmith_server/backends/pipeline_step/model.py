"""What Triton loads as the backend `pipeline_step`."""

import triton_python_backend_utils as pb_utils

from plansmith_server.backends.model import BackendModel
from plansmith_server.backends.pipeline_step.runtime import RUNTIME

__all__ = ["TritonPythonModel"]


class TritonPythonModel(BackendModel):
    """One instance of one step."""

    triton = pb_utils
    runtime = RUNTIME
