"""Adds up what comes within one sequence; a step before the first is an error."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, _):
        self.totals = {}

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        def value(name):
            return pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)[0]

        sequence = int(value("correlation"))
        if value("start"):
            self.totals[sequence] = 0.0
        if sequence not in self.totals:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"sequence {sequence} has not begun"))
        self.totals[sequence] += float(value("x"))
        total = np.array([[self.totals[sequence]]], np.float32)
        if value("end"):
            del self.totals[sequence]
        return pb_utils.InferenceResponse([pb_utils.Tensor("total", total)])
