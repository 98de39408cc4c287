"""Gives each input tensor back as the output of the same name with `_out`, bit by bit."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor.from_dlpack(tensor.name() + "_out", tensor.to_dlpack())
                    if tensor.name() != "string"
                    else pb_utils.Tensor("string_out", tensor.as_numpy())
                    for tensor in request.inputs()
                ]
            )
            for request in requests
        ]
