"""What a call over gRPC does, once for both transports: channels, the metadata of a call, its answer, its failure.

Of tritonclient only the generated messages are used, not its client: the calls, deadlines and errors are ours.
"""

from __future__ import annotations

import itertools
import re
from typing import TYPE_CHECKING, Any

import grpc

from plansmith_client.errors import ClientError, ProtocolError
from plansmith_client.protocol.answers import MALFORMED
from plansmith_client.transports.certificates import system_authorities, trusting_context
from plansmith_client.transports.connections import Connection
from plansmith_client.transports.failures import client_closed, deadline_exceeded, error_from_answer, malformed_answer
from plansmith_client.transports.grpc.channels import channel_options, error_from_status
from plansmith_client.transports.grpc.wire import open_methods, read_answer, stream_result

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from plansmith_client.protocol.operations import Answer_co, Infer, Operation
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.deadlines import Deadline
    from plansmith_client.transports.grpc.wire import Methods

__all__ = ["GrpcCalls"]

_CONNECTING = re.compile("failed to connect|resolution|resolving", re.IGNORECASE)


class GrpcCalls:
    """What the calls to one server have in common, whoever waits for them.

    Args:
        address: of scheme `grpc` or `grpcs`; the latter trusts the system's authorities, those in the file that the
            environment variable SSL_CERT_FILE names, or the connection's own.
        connection: how to connect.

    Raises:
        InvalidInput: a certificate cannot be read.
    """

    def __init__(self, address: Address, connection: Connection | None) -> None:
        self._address, self._url = address, address.url
        self._connection = connection = connection or Connection()
        self._closed = False
        self._compression = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate, None: None}[
            connection.compression
        ]
        self._credentials = None
        if address.scheme == "grpcs":
            if connection.ca_file or connection.certificate_file:
                # gRPC would say at the first call, and not why, that a file is none, or a key of another certificate.
                trusting_context(connection)
            files = (connection.ca_file, connection.key_file, connection.certificate_file)
            authorities, key, certificate = (None if file is None else file.read_bytes() for file in files)
            self._credentials = grpc.ssl_channel_credentials(authorities or system_authorities(), key, certificate)

    def close_idle(self) -> None:
        """Nothing: gRPC itself closes connections that are idle."""

    def _open_channels(self, library: Any) -> None:
        """Open the channels by `grpc` or `grpc.aio`; they connect with the first call, and again after a fault."""
        connection = self._connection
        target = self._address.target if connection.proxy is None else connection.proxy.address.target
        every = [channel_options(self._address, connection, number) for number in range(connection.channels)]
        self._channels: list[Any] = [
            library.insecure_channel(target, options)
            if self._credentials is None
            else library.secure_channel(target, self._credentials, options)
            for options in every
        ]
        # Safe to share between threads, as every iterator that is written in C.
        self._turns: Iterator[Methods] = itertools.cycle(list(map(open_methods, self._channels)))

    def _method(self, kind: type[Operation[Any]] | None) -> Any:
        """What sends operations of a kind, or the requests of streams, over the channel whose turn it is."""
        return next(self._turns)[kind]

    def _metadata(self, headers: Mapping[str, str]) -> tuple[tuple[str, str | bytes], ...] | None:
        connection = self._connection
        if not headers and not connection.headers and connection.make_token is None:
            return None
        # Values of names with this ending are binary to gRPC.
        return tuple(
            (name, value.encode() if name.endswith("-bin") else value)
            for name, value in connection.call_headers(headers).items()
        )

    def _answer(self, operation: Operation[Answer_co], reply: Any) -> Answer_co:
        try:
            _check_size(reply, self._connection)
            answer: Answer_co = read_answer(operation, reply)
        except MALFORMED as error:
            raise malformed_answer(operation, self._url, error) from error
        return answer

    def _response(self, operation: Infer, reply: Any) -> InferResult | None:
        """The result in one response of a stream; None if it only marks the end of the stream."""
        try:
            _check_size(reply, self._connection)
            result = None if reply.error_message else stream_result(operation, reply)
        except MALFORMED as error:
            raise malformed_answer(operation, self._url, error) from error
        if reply.error_message:
            raise _error_in_stream(reply.error_message, operation, self._url)
        return result

    def _failure(self, error: Any, operation: Operation[Any], deadline: Deadline) -> ClientError:
        """The error for one of gRPC's, of either of its Python interfaces."""
        if self._closed:
            return client_closed(self._url)
        code = error.code()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return deadline_exceeded(operation, self._url, deadline.timeout)
        details, proxy = error.details() or "", self._connection.proxy
        if proxy is not None and code is grpc.StatusCode.UNAVAILABLE and _CONNECTING.search(details):
            details = f"{details.removesuffix(': OK').rstrip(']')} through the proxy {proxy.address.target}"
        return error_from_status(code, details, operation, self._url)


def _check_size(reply: Any, connection: Connection) -> None:
    # What does not exist, or is too large decompressed: gRPC bounds the size on the wire.
    if reply is None:
        raise ProtocolError("it is not a message of this call")
    if connection.compression is not None:
        size = len(reply) if isinstance(reply, bytes) else reply.ByteSize()
        if size > connection.largest_answer:
            raise ProtocolError(f"it is larger than {connection.largest_answer} bytes")


def _error_in_stream(text: str, operation: Infer, url: str) -> ClientError:
    # Only a message was sent, without a code.
    words = text.lower()
    code = "NOT_FOUND" if "unknown model" in words or "is not found" in words else "UNKNOWN"
    return error_from_answer("INVALID_ARGUMENT" if "unexpected" in words else code, text, operation, url)
