"""Fails in the way that its input names: a Triton error code, or an exception of Python."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            code = pb_utils.get_input_tensor_by_name(request, "code").as_numpy()[0].decode()
            if code == "exception":
                raise ZeroDivisionError("the model divided by zero")
            error = pb_utils.TritonError(f"the model failed with {code}", getattr(pb_utils.TritonError, code))
            responses.append(pb_utils.InferenceResponse(output_tensors=[], error=error))
        return responses
