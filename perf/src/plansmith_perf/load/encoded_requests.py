"""Requests as they travel, and whether what came back is right.

The bytes of a request are made once, before the load; a reply that is byte for byte one that was found right is not
decoded again. So the generator spends its time on sending.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tritonclient.grpc import service_pb2

from plansmith_client.errors import ClientError
from plansmith_client.inputs.validation import check_inputs
from plansmith_client.protocol.codecs import binary_from_array
from plansmith_client.protocol.operations import Infer
from plansmith_client.tensors import datatype_from_numpy
from plansmith_client.transports.grpc.wire import RPCS
from plansmith_client.transports.http.wire import infer_request
from plansmith_perf.errors import PerfError
from plansmith_perf.load.requests import check_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from plansmith_client import Model
    from plansmith_perf.load.requests import CheckedRequest

__all__ = [
    "RIGHT",
    "WRONG_ANSWER",
    "EncodedRequest",
    "judge",
    "one_line",
    "outcome_of",
    "read_requests",
    "write_requests",
]

RIGHT = ""
WRONG_ANSWER = "WRONG ANSWER"
"""What the outcome of a request begins with that was answered, but not with what it must be."""
_SHOWN_CHARACTERS = 200


@dataclass
class EncodedRequest:
    """A request as it travels.

    Attributes:
        body: what is sent.
        headers: of HTTP.
        expected: outputs by name.
        right: a reply that was compared with `expected` and found right; None before there was one.
    """

    body: bytes
    headers: Mapping[str, str]
    expected: Mapping[str, NDArray[Any]]
    right: bytes | None = field(default=None, repr=False)


def judge(
    request: EncodedRequest, reply: bytes, decode: Callable[[], Mapping[str, NDArray[Any]]], *, tolerance: float
) -> str:
    """Compare a reply with what is expected, and remember it where it is right.

    Returns:
        RIGHT, or what is wrong, in one line.
    """
    try:
        check_answer(decode(), request.expected, tolerance=tolerance)
    except (PerfError, ClientError, ValueError) as error:
        return one_line(f"{WRONG_ANSWER}: {error}")
    request.right = reply
    return RIGHT


def outcome_of(answer: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], *, tolerance: float) -> str:
    """RIGHT, or what is wrong with an answer, in one line; see `check_answer`."""
    try:
        check_answer(answer, expected, tolerance=tolerance)
    except PerfError as error:
        return one_line(f"{WRONG_ANSWER}: {error}")
    return RIGHT


def one_line(text: str) -> str:
    """The beginning of a text, without line breaks: outcomes are counted by their text."""
    return " ".join(text.split())[:_SHOWN_CHARACTERS]


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
            body = RPCS[Infer].request(operation)
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


def read_requests(folder: Path) -> list[EncodedRequest]:
    """The requests of a plan, in order."""
    requests = []
    for path in sorted(folder.glob("*.request")):
        answer = RPCS[Infer].answer(path.with_suffix(".answer").read_bytes())
        headers = json.loads(path.with_suffix(".headers").read_text(encoding="utf-8"))
        requests.append(EncodedRequest(path.read_bytes(), headers, dict(answer)))
    return requests
