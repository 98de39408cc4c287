"""The failures that servers report, as errors of this package: one mapping for both protocols.

gRPC's status codes are the common language; Triton turns the same codes into HTTP's (`STATUS_CODES`). If a code
has two meanings, the server's message decides: a full queue arrives as UNAVAILABLE, like a server that is gone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from plansmith_client.errors import (
    AccessDenied,
    ClientClosed,
    ClientError,
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ProtocolError,
    ServerOverloaded,
    ServerUnavailable,
)
from plansmith_client.protocol.operations import Infer, LoadModel, ModelOperation, Operation
from plansmith_client.visible import visible

__all__ = [
    "STATUS_CODES",
    "client_closed",
    "deadline_exceeded",
    "error_from_answer",
    "headers_too_large",
    "malformed_answer",
    "server_unavailable",
]

STATUS_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    407: "UNAUTHENTICATED",
    408: "DEADLINE_EXCEEDED",
    409: "ALREADY_EXISTS",
    413: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    431: "INVALID_ARGUMENT",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""HTTP status to the gRPC code of the same meaning; other statuses are not part of the protocol."""


class _Rule(NamedTuple):
    """One kind of failure; the first rule whose conditions all hold decides."""

    error: type[ClientError]
    sentence: str
    codes: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    about: type[Operation[Any]] = Operation


_HEADERS_TOO_LARGE = "the headers of the request are larger than the server accepts: shorten the token or the headers"
_UNKNOWN_CALL = "the server does not know this call of the Open Inference Protocol ({reason})"

# The phrases are Triton's own: of its schedulers, its model repository manager and its two front ends.
_RULES = (
    _Rule(
        ServerOverloaded,
        "the server's queue is full ({reason}); send less at once or add instances",
        phrases=("exceeds maximum queue size",),
    ),
    _Rule(
        DeadlineExceeded,
        "the request exceeded its time limit in the server's queue ({reason})",
        phrases=("request timeout expired",),
    ),
    _Rule(
        AccessDenied,
        "the server refuses access ({reason})",
        phrases=("this protocol is restricted", "this api is restricted"),
    ),
    _Rule(AccessDenied, "the server refuses access ({reason})", codes=("PERMISSION_DENIED", "UNAUTHENTICATED")),
    _Rule(
        ModelNotReady,
        "not ready ({reason})",
        phrases=("has no available versions", "is not at ready state", "not ready for inference", "is not ready."),
        about=ModelOperation,
    ),
    _Rule(
        InvalidInput,
        "the server does not take load and unload requests ({reason}); start it with `plansmith serve --control "
        "explicit`, or a container with --model-control-mode=explicit",
        phrases=("explicit model load / unload is not allowed",),
    ),
    _Rule(
        ModelNotFound,
        "the repository has no such model ({reason})",
        phrases=("failed to poll from model repository",),
        about=LoadModel,
    ),
    _Rule(ModelNotFound, "not found ({reason})", codes=("NOT_FOUND",), about=ModelOperation),
    # MLServer answers some calls with UNKNOWN and the name of its exception.
    _Rule(ModelNotFound, "not found ({reason})", phrases=("mlserver.errors.modelnotfound",), about=ModelOperation),
    _Rule(
        InvalidInput,
        "the server refuses the request ({reason})",
        codes=("INVALID_ARGUMENT", "OUT_OF_RANGE"),
        about=ModelOperation,
    ),
    _Rule(
        InvalidInput,
        "the request is larger than the server, or a proxy in front of it, accepts ({reason})",
        codes=("RESOURCE_EXHAUSTED",),
        phrases=("larger than max",),
    ),
    _Rule(
        InvalidInput,
        _HEADERS_TOO_LARGE + " ({reason})",
        codes=("RESOURCE_EXHAUSTED",),
        phrases=("metadata size", "header list"),
    ),
    _Rule(ServerOverloaded, "the server has no room for the request ({reason})", codes=("RESOURCE_EXHAUSTED",)),
    _Rule(DeadlineExceeded, "the server's own time limit has passed ({reason})", codes=("DEADLINE_EXCEEDED",)),
    _Rule(
        ServerUnavailable,
        "the server says that it is unavailable ({reason}); try again later",
        codes=("UNAVAILABLE",),
    ),
    # A model may say UNIMPLEMENTED, too, but hardly in the words of servers that have no such method.
    _Rule(ProtocolError, _UNKNOWN_CALL, codes=("UNIMPLEMENTED",), phrases=("not found",)),
    _Rule(InferenceFailed, "the inference failed ({reason})", about=Infer),
    _Rule(ModelNotReady, "it could not be loaded ({reason})", codes=("INTERNAL", "UNKNOWN"), about=LoadModel),
    _Rule(ProtocolError, _UNKNOWN_CALL, codes=("UNIMPLEMENTED", "NOT_FOUND")),
    _Rule(ProtocolError, "the call failed ({reason})"),
)

_MAX_REASON = 2000


def error_from_answer(code: str, text: str, operation: Operation[Any], url: str) -> ClientError:
    """The error for an operation that the server answered with a failure; total over the codes.

    Args:
        code: the name of a gRPC status code.
        text: the server's message.
        operation: the failed operation.
        url: the server's URL, as the caller wrote it.
    """
    words = text.lower()
    rule = next(
        rule
        for rule in _RULES
        if (not rule.codes or code in rule.codes)
        and (not rule.phrases or any(phrase in words for phrase in rule.phrases))
        and _concerns(rule, operation)
    )
    return rule.error(f"{_subject(operation)} at {url}: {rule.sentence.format(reason=_one_line(text))}")


def _concerns(rule: _Rule, operation: Operation[Any]) -> bool:
    # Without a name it is about the server: statistics of all models.
    nameless = isinstance(operation, ModelOperation) and not operation.name
    return isinstance(operation, rule.about) and not (nameless and issubclass(rule.about, ModelOperation))


_START = "start the server there (plansmith serve) or correct the URL"
# What to do about the reasons of OpenSSL, of gRPC's BoringSSL, and of everything else; the first that fits counts.
_ADVICE = (
    (
        ("wrong version number", "packet length", "record layer"),
        "it may not speak TLS: correct the URL, http:// or grpc://",
    ),
    (
        ("ended the handshake", "unexpected eof"),
        "it may not speak TLS, or want a certificate that it trusts: certificate_file= and key_file=",
    ),
    (
        # Alerts come from the server, and are about the client's certificate.
        (
            "alert certificate",
            "alert unsupported certificate",
            "certificate required",
            "unknown ca",
            "bad certificate",
            "handshake failure",
        ),
        "it may want a certificate that it trusts: certificate_file= and key_file=",
    ),
    (("expired", "not yet valid"), "renew the server's certificate, or set this machine's clock"),
    (
        ("mismatch", "hostname verification", "not in peer certificate"),
        "use the host that its certificate names, or name that with server_name=",
    ),
    (("certificate",), "name its authority with ca_file= or SSL_CERT_FILE if you trust it"),
    # What a proxy says of the server behind it.
    (("refuses a tunnel: 5", "response code 5"), _START),
    (("the proxy",), "correct proxy=, http://user:password@host:port, or leave it out"),
    (("",), _START),
)


def server_unavailable(url: str, reason: str, advice: str = "") -> ServerUnavailable:
    """The error for a server that cannot be reached, or whose connection broke."""
    words = reason.lower().replace("_", " ")
    advice = advice or next(advice for phrases, advice in _ADVICE if any(phrase in words for phrase in phrases))
    return ServerUnavailable(f"No answer from {url} ({_one_line(reason)}): {advice}")


def deadline_exceeded(operation: Operation[Any], url: str, timeout: float) -> DeadlineExceeded:
    """The error for a call whose time has passed."""
    return DeadlineExceeded(f"{_subject(operation)} at {url}: no answer within {timeout:g} s; allow more with timeout=")


def headers_too_large(operation: Operation[Any], url: str, reason: str) -> InvalidInput:
    """The error for a request that the server refuses for the size of its headers, however often it is sent."""
    return InvalidInput(f"{_subject(operation)} at {url}: {_HEADERS_TOO_LARGE} ({_one_line(reason)})")


def client_closed(url: str) -> ClientClosed:
    """The error for a call on a client that has been closed."""
    return ClientClosed(f"The client for {url} is closed: make a new one, or keep the calls inside its `with` block")


def malformed_answer(operation: Operation[Any], url: str, reason: object) -> ProtocolError:
    """The error for an answer that is malformed or does not belong to the request."""
    subject, why = _subject(operation), _one_line(str(reason))
    return ProtocolError(f"{subject} at {url}: the answer does not follow the Open Inference Protocol ({why})")


def _subject(operation: Operation[Any]) -> str:
    if not isinstance(operation, ModelOperation) or not operation.name:
        return "The server"
    return f"Model {operation.name!r}" + (f" version {operation.version}" if operation.version else "")


def _one_line(text: str) -> str:
    if "Traceback (most recent call last)" in text:
        # Some servers send the whole of it; what went wrong stands in its last line.
        text = text.strip().splitlines()[-1]
    line = visible(" ".join(text.split())) or "it gave no reason"
    return line if len(line) <= _MAX_REASON else line[:_MAX_REASON] + "..."
