"""Sum and difference of two inputs, with an optional bias added to the sum."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            a = pb_utils.get_input_tensor_by_name(request, "a").as_numpy()
            b = pb_utils.get_input_tensor_by_name(request, "b").as_numpy()
            bias = pb_utils.get_input_tensor_by_name(request, "bias")
            total = a + b if bias is None else a + b + bias.as_numpy()
            responses.append(
                pb_utils.InferenceResponse([pb_utils.Tensor("sum", total), pb_utils.Tensor("difference", a - b)])
            )
        return responses
