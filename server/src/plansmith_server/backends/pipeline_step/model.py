"""What Triton loads as the backend `pipeline_step`."""

import triton_python_backend_utils as pb_utils

from plansmith_server.backends.model import BackendModel

__all__ = ["TritonPythonModel"]


class TritonPythonModel(BackendModel):
    """One instance of one step."""

    triton = pb_utils
    runtime = "The pipeline step"
    reader = "plansmith_server.backends.pipeline_step.runtime:read_signature"
    loader = "plansmith_server.backends.pipeline_step.runtime:StepEngine"
    text_as_bytes = True
