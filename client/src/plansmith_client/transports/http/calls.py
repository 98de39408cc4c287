"""What a call over HTTP does, once for both transports: a generator that yields the messages to exchange."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, TypeVar, cast

from plansmith_client.errors import DeadlineExceeded, InferenceFailed, InvalidInput, ProtocolError
from plansmith_client.protocol.metadata import ModelStatus
from plansmith_client.protocol.operations import Infer, IsModelReady, ListModelNames, ListModels, ReadServerMetadata
from plansmith_client.transports.certificates import trusting_context
from plansmith_client.transports.connections import Connection
from plansmith_client.transports.failures import client_closed, headers_too_large
from plansmith_client.transports.http.exchanges import (
    PROBE,
    Message,
    answer_from_response,
    error_from_exception,
    has_large_headers,
    is_timeout,
    message_from_request,
    prepare_request,
)
from plansmith_client.transports.http.generate import GenerateAnswers, generate_request
from plansmith_client.transports.http.responses import BrokenAnswerError, InvalidAnswerError, NoHttpError, Response
from plansmith_client.transports.http.wire import HEADER_LENGTH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plansmith_client.errors import ClientError
    from plansmith_client.protocol.metadata import ModelMetadata
    from plansmith_client.protocol.operations import Answer_co, Operation
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.deadlines import Deadline
    from plansmith_client.transports.http.wire import Request

__all__ = ["FAILURES", "Exchanges", "HttpCalls"]

FAILURES = (OSError, BrokenAnswerError, NoHttpError, InvalidAnswerError)
"""What a connection raises."""

# Not found, and no such method.
_HAS_NO_INDEX = (404, 405)

_Result = TypeVar("_Result")
Exchanges = Generator[Message, Response, _Result]
"""Yields messages, is sent their responses or has the errors of `ConnectionPool.exchange` thrown into it."""


class HttpCalls:
    """The calls to one server, and what is known about it.

    Args:
        address: of scheme `http` or `https`; the latter trusts the system's authorities, those in the file that the
            environment variable SSL_CERT_FILE names, or the connection's own.
        connection: how to connect.

    Attributes:
        ssl_context: for TLS; None for `http`.
        is_closed: whether the transport has been closed.
        speaks_binary: whether the server takes binary tensors; None until that is known. A server that does not list
            the extension is tried once: KServe's takes it. One that drops the connection, and answers on the next,
            is sent JSON from the next attempt on.

    Raises:
        InvalidInput: a certificate cannot be read.
    """

    def __init__(self, address: Address, connection: Connection | None) -> None:
        self.address = address
        self.connection = connection or Connection()
        self.ssl_context = trusting_context(self.connection) if address.scheme == "https" else None
        self.is_closed = False
        self.speaks_binary: bool | None = None
        self._drops_binary = False
        self._has_asked = False

    def call(
        self, operation: Operation[Answer_co], deadline: Deadline, headers: Mapping[str, str]
    ) -> Exchanges[Answer_co]:
        """Send the operation and return its answer; see `Transport.call`."""
        if isinstance(operation, Infer) and not self.speaks_binary:
            return cast("Answer_co", (yield from self._infer(operation, deadline, headers)))
        return (yield from self._ask(operation, deadline, headers, binary=True))

    def _infer(self, operation: Infer, deadline: Deadline, headers: Mapping[str, str]) -> Exchanges[InferResult]:
        """Send an inference to a server that is not known to take binary tensors."""
        if not self._has_asked:
            metadata = yield from self._ask(ReadServerMetadata(), deadline, headers, binary=True)
            self._has_asked = True
            if "binary_tensor_data" in metadata.extensions:
                self.speaks_binary = True
        is_tried = self.speaks_binary is None and operation.repeatable and not self._drops_binary
        if self.speaks_binary or is_tried:
            try:
                result = yield from self._ask(operation, deadline, headers, binary=True)
            except (InvalidInput, InferenceFailed, ProtocolError):
                # What servers say of a body that they cannot read, and of much else.
                if self.speaks_binary:
                    raise
            else:
                self.speaks_binary = True
                return result
        # If a server drops this, too, it was not for the tensors.
        self._drops_binary = False
        result = yield from self._ask(operation, deadline, headers, binary=False)
        if operation.repeatable:
            self.speaks_binary = False
        return result

    def _ask(
        self, operation: Operation[Answer_co], deadline: Deadline, headers: Mapping[str, str], *, binary: bool
    ) -> Exchanges[Answer_co]:
        request = prepare_request(operation, self.connection, headers, binary=binary)
        response = yield from self._send(request, operation, deadline)
        if isinstance(operation, ListModels) and response.status in _HAS_NO_INDEX:
            return cast("Answer_co", (yield from self._models(deadline, headers)))
        return answer_from_response(response, operation, self.address)

    def _models(self, deadline: Deadline, headers: Mapping[str, str]) -> Exchanges[tuple[ModelStatus, ...]]:
        """The index of a server that lists the names of its models only, as KServe's does."""
        models = []
        for name in (yield from self._ask(ListModelNames(), deadline, headers, binary=True)):
            is_ready = yield from self._ask(IsModelReady(name, ""), deadline, headers, binary=True)
            models.append(ModelStatus(name, "", "READY" if is_ready else "UNAVAILABLE", ""))
        return tuple(models)

    def stream(
        self, operation: Infer, metadata: ModelMetadata, headers: Mapping[str, str]
    ) -> tuple[Message, GenerateAnswers]:
        """The message that begins a stream, and what reads its responses.

        Raises:
            InvalidInput: the stream cannot be asked for over HTTP.
            ClientClosed: the transport has been closed.
        """
        if self.is_closed:
            raise client_closed(self.address.url)
        request = generate_request(operation, metadata, self.connection, headers)
        return self._message(request, repeatable=False), GenerateAnswers(operation, metadata, self.address)

    def stream_failure(self, error: Exception, operation: Infer, deadline: Deadline) -> ClientError:
        """The error for a stream whose connection raised this one."""
        if self.is_closed:
            return client_closed(self.address.url)
        return error_from_exception(error, operation, self.address, deadline.timeout)

    def _send(self, request: Request, operation: Operation[Any], deadline: Deadline) -> Exchanges[Response]:
        url = self.address.url
        if self.is_closed:
            raise client_closed(url)
        try:
            return (yield self._message(request, repeatable=operation.repeatable))
        except FAILURES as error:
            if self.is_closed:
                raise client_closed(url) from error
            unanswered = isinstance(error, OSError) and not is_timeout(error)
            if unanswered and has_large_headers(request) and (yield from self._answers()):
                raise headers_too_large(operation, url, str(error)) from error
            if unanswered and HEADER_LENGTH in request.headers and self.speaks_binary is None:
                # The inference may have run: whether it is sent again, as JSON, is for the retries to decide.
                self._drops_binary = yield from self._answers()
            raise error_from_exception(error, operation, self.address, deadline.timeout) from error

    def _answers(self) -> Exchanges[bool]:
        try:
            yield self._message(PROBE, repeatable=True)
        except (*FAILURES, DeadlineExceeded):
            return False
        return True

    def _message(self, request: Request, *, repeatable: bool) -> Message:
        return message_from_request(request, self.address, self.connection, repeatable=repeatable)
