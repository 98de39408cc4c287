"""Fails with the words of Triton's Python backend for a /dev/shm that is full."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        error = pb_utils.TritonError("Failed to increase the shared memory pool size for key 'triton_python_backend'")
        return [pb_utils.InferenceResponse(error=error) for _ in requests]
