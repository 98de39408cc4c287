"""Square roots; refuses the whole request where one number has none. `rows` tells how large the request was."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [answer(request) for request in requests]


def answer(request):
    x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
    if (x < 0).any():
        return pb_utils.InferenceResponse(error=pb_utils.TritonError("a negative number has no root"))
    text = pb_utils.get_input_tensor_by_name(request, "text")
    words = np.full(x.shape, b"", object) if text is None else text.as_numpy()
    upper = np.array([word.decode().upper().encode() for word in words.reshape(-1)], object).reshape(words.shape)
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("root", np.sqrt(x)),
            pb_utils.Tensor("upper", upper),
            pb_utils.Tensor("rows", np.full(x.shape, len(x), np.int32)),
        ]
    )
