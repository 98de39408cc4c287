"""Gives its input twice."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            scores = pb_utils.get_input_tensor_by_name(request, "scores").as_numpy()
            tensors = [pb_utils.Tensor("named", scores), pb_utils.Tensor("unnamed", scores)]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses
