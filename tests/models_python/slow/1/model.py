"""Sleeps as long as it is told to; if that is -1, until the file `held` is removed, which it makes first."""

import time
from pathlib import Path

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.held = Path(args["model_repository"]) / "held"

    def execute(self, requests):
        responses = []
        for request in requests:
            seconds = pb_utils.get_input_tensor_by_name(request, "seconds").as_numpy()
            if seconds[0, 0] == -1:
                self.held.touch()
                until = time.monotonic() + 120
                while self.held.exists() and time.monotonic() < until:
                    time.sleep(0.01)
            else:
                time.sleep(float(seconds[0, 0]))
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("slept", seconds)]))
        return responses
