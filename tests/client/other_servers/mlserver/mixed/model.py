"""A model of MLServer's own kind: numbers doubled, words in capitals, a failure on demand."""

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Mixed(MLModel):
    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        outputs = []
        for tensor in payload.inputs:
            if tensor.datatype == "BYTES":
                words = StringCodec.decode_input(tensor)
                if "fail" in words:
                    raise ValueError("told to fail")
                outputs.append(StringCodec.encode_output("upper", [word.upper() for word in words]))
            else:
                numbers = NumpyCodec.decode_input(tensor)
                outputs.append(NumpyCodec.encode_output(f"{tensor.name}_twice", numbers + numbers))
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=outputs)
