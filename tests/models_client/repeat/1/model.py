"""Sends its input back `count` times, `pause` seconds apart; a negative count fails after one response."""

import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            threading.Thread(target=answer, args=(request,)).start()


def answer(request):
    sender = request.get_response_sender()
    count = int(pb_utils.get_input_tensor_by_name(request, "count").as_numpy()[0])
    value = pb_utils.get_input_tensor_by_name(request, "value").as_numpy()
    pause = pb_utils.get_input_tensor_by_name(request, "pause")
    for number in range(abs(count)):
        if number:
            time.sleep(0.0 if pause is None else float(pause.as_numpy()[0]))
        if count < 0 and number:
            sender.send(
                pb_utils.InferenceResponse(error=pb_utils.TritonError("the model stopped half way")),
                flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
            )
            return
        last = count > 0 and number == count - 1
        tensors = [pb_utils.Tensor("value", value), pb_utils.Tensor("number", np.array([number], np.int32))]
        # The last response carries data as well as the flag: clients have been seen to drop it.
        flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
        sender.send(pb_utils.InferenceResponse(tensors), flags=flags)
    if count <= 0:
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
