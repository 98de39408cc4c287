"""Answers with the version that it is."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.version = int(args["model_version"])

    def execute(self, requests):
        responses = []
        for request in requests:
            rows = len(pb_utils.get_input_tensor_by_name(request, "x").as_numpy())
            answer = np.full((rows, 1), self.version, np.int32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("version", answer)]))
        return responses
