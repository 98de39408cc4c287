"""Writes the requests of a load test down as the bytes that travel, for the worker processes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tritonclient.grpc import service_pb2

from plansmith_client.inputs.validation import check_inputs
from plansmith_client.protocol.codecs import binary_from_array
from plansmith_client.protocol.operations import Infer
from plansmith_client.tensors import datatype_from_numpy
from plansmith_client.transports.grpc.wire import RPCS
from plansmith_client.transports.http.wire import infer_request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from plansmith_client import Model
    from plansmith_perf.load.requests import CheckedRequest

__all__ = ["write_requests"]


def write_requests(
    folder: Path, model: Model, requests: Sequence[CheckedRequest], *, over_http: bool, binary: bool
) -> str:
    """Write `<i>.request`, `<i>.headers` and `<i>.answer` for each request.

    Args:
        folder: exists and is empty.
        model: the requests' model.
        requests: inputs and expected outputs.
        over_http: encode for HTTP, else for gRPC.
        binary: whether the server speaks the binary tensor data extension of HTTP.

    Returns:
        The path of the inference endpoint below the server's URL.

    Raises:
        plansmith_client.InvalidInput: a request does not fit the model.
    """
    path = ""
    for number, request in enumerate(requests):
        operation = Infer(model.name, model.version, check_inputs(model.metadata, request.inputs), None, "", {})
        headers: Mapping[str, str] = {}
        if over_http:
            encoded = infer_request(operation, binary=binary)
            body, headers, path = b"".join(encoded.body), encoded.headers, encoded.path
        else:
            body = RPCS[Infer].request(operation).SerializeToString()
        stem = folder / f"{number:06}"
        stem.with_suffix(".request").write_bytes(body)
        stem.with_suffix(".headers").write_text(json.dumps(dict(headers)), encoding="utf-8")
        stem.with_suffix(".answer").write_bytes(_answer(request.expected))
    return path


def _answer(expected: Mapping[str, NDArray[Any]]) -> bytes:
    message = service_pb2.ModelInferResponse()
    for name, array in expected.items():
        message.outputs.add(name=name, datatype=datatype_from_numpy(array.dtype), shape=array.shape)
        message.raw_output_contents.append(bytes(binary_from_array(array)))
    encoded: bytes = message.SerializeToString()
    return encoded
