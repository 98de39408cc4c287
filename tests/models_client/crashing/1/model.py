"""Dies, or says that it has not."""

import os

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            if pb_utils.get_input_tensor_by_name(request, "die").as_numpy()[0]:
                os._exit(1)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("alive", np.array([True]))]))
        return responses
