"""KServe's own clients against a Triton: gRPC URL and HTTP URL as arguments; fails with the first call that does."""

import asyncio
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig

GRPC, HTTP = sys.argv[1:]


def request(*, binary: bool) -> InferRequest:
    images = InferInput("images", [2, 8, 8], "FP32")
    images.set_data_from_numpy(np.zeros((2, 8, 8), np.float32), binary_data=binary)
    return InferRequest("digits", [images])


async def call() -> None:
    over_grpc, over_http = InferenceGRPCClient(GRPC), InferenceRESTClient(RESTConfig(protocol="v2"))
    assert await over_grpc.is_server_live()
    assert await over_grpc.is_server_ready()
    assert await over_grpc.is_model_ready("digits")
    # Its HTTP client wants JSON of the server's own health, which Triton answers with the status alone.
    assert await over_http.is_model_ready(HTTP, "digits")
    for binary in (True, False):
        for answer in (
            await over_grpc.infer(request(binary=binary)),
            await over_http.infer(HTTP, request(binary=binary), model_name="digits"),
        ):
            assert answer.outputs[0].as_numpy().shape == (2, 10)


asyncio.run(call())
