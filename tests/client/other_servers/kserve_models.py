"""Models of KServe's own kind: numbers doubled, words in capitals, a failure on demand; declared or not."""

import grpc
import numpy as np
import uvicorn
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InvalidInput

INPUTS = {"float": ("FP32", [-1, 3]), "integer": ("INT64", [-1]), "words": ("BYTES", [-1])}


class Mixed(Model):
    def __init__(self, name: str, *, declares_inputs: bool) -> None:
        super().__init__(name)
        self.declares_inputs = declares_inputs
        self.ready = True

    async def get_input_types(self) -> list[dict]:
        declared = INPUTS.items() if self.declares_inputs else ()
        return [{"name": name, "datatype": datatype, "shape": shape} for name, (datatype, shape) in declared]

    async def get_output_types(self) -> list[dict]:
        return []

    def predict(self, payload: InferRequest, *_: object) -> InferResponse:
        outputs = []
        for tensor in payload.inputs:
            array = tensor.as_numpy()
            if tensor.datatype == "BYTES":
                words = [word.decode() if isinstance(word, bytes) else word for word in array.reshape(-1)]
                if "fail" in words:
                    raise InvalidInput("told to fail")
                name, array = "upper", np.array([word.upper() for word in words], object)
            else:
                name, array = f"{tensor.name}_twice", array + array
            output = InferOutput(name, list(array.shape), tensor.datatype)
            output.set_data_from_numpy(array, binary_data=payload.use_binary_outputs)
            outputs.append(output)
        return InferResponse(
            payload.id or "none",
            self.name,
            outputs,
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


def keep_to_loopback() -> None:
    """KServe listens on all interfaces and has no option for it: a test must not be reached from elsewhere."""
    configure, add_port = uvicorn.Config.__init__, grpc.aio.Server.add_insecure_port
    uvicorn.Config.__init__ = lambda self, *words, **options: configure(self, *words, **options | {"host": "127.0.0.1"})
    grpc.aio.Server.add_insecure_port = lambda self, address: add_port(self, address.replace("[::]", "127.0.0.1"))


keep_to_loopback()
ModelServer().start([Mixed("mixed", declares_inputs=True), Mixed("bare", declares_inputs=False)])
