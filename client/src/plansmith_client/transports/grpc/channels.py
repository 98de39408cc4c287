"""What the two gRPC transports share: channels, the metadata of a call, its answer, and errors from a status.

Of tritonclient only the generated modules are used, not its client: the calls, deadlines and errors are ours.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from plansmith_client._version import USER_AGENT
from plansmith_client.errors import ClientError, InvalidInput, ProtocolError
from plansmith_client.protocol.answers import MALFORMED
from plansmith_client.transports.certificates import system_authorities
from plansmith_client.transports.connections import LARGEST_ANSWER, Connection
from plansmith_client.transports.failures import (
    client_closed,
    deadline_exceeded,
    error_from_answer,
    malformed_answer,
    server_unavailable,
)
from plansmith_client.transports.grpc.wire import read_answer, stream_result

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plansmith_client.protocol.operations import Answer_co, Infer, Operation
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.deadlines import Deadline

__all__ = ["CHANNEL_OPTIONS", "GrpcCalls", "channel_options", "error_from_status"]

CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Servers count pings that come more often than every 300 s as an attack and hang up.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Gateways forget connections that are silent for 350 s, and servers refuse pings without a call in flight: a
    # connection that is idle for so long, or up to twice as long, is closed, and the next call opens another.
    ("grpc.client_idle_timeout_ms", 170_000),
    # Channels with equal options would share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    # By default a channel that failed to connect may refuse calls for two minutes after the server is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Sending again is this package's own decision, made in one place for all transports.
    ("grpc.enable_retries", 0),
    # As over HTTP, the environment's proxies are not used: a model server is a neighbour.
    ("grpc.enable_http_proxy", 0),
    ("grpc.primary_user_agent", USER_AGENT),
)

# What gRPC says of an answer that it does not pass on; "SERVER: Received message" is about the request.
_REFUSED_ANSWERS = ("deserializing response", "client: received message larger", "stream removed (compression")

# What gRPC itself says of calls that a server which stops leaves unanswered; a model that cancels says why.
_CANCELLED_BY_GRPC = ("", "CANCELLED", "Cancelled")

# Bits of grpc_compression_algorithm: none, deflate, gzip.
_IDENTITY, _ALL_CODINGS = 0b001, 0b111

# What gRPC's core itself says with UNAVAILABLE, rather than the server's application.
_CONNECTION_FAILURES = (
    "failed to connect",
    "errors resolving",
    "dns resolution failed",
    "connection reset",
    "connection refused",
    "socket closed",
    "broken pipe",
    "goaway",
    "recvmsg",
    "sendmsg",
    "endpoint closing",
    "keepalive",
    "transport closed",
    "no route to host",
    "network is unreachable",
    "handshake",
    "http2",
)


def channel_options(connection: Connection, number: int) -> tuple[tuple[str, int | str], ...]:
    """The options of one of a transport's channels."""
    options: dict[str, int | str] = {
        **dict(CHANNEL_OPTIONS),
        "plansmith.channel": number,
        "grpc.max_receive_message_length": min(connection.largest_answer, LARGEST_ANSWER),
        # What was not asked for is not decompressed: a few megabytes may hold gigabytes.
        "grpc.compression_enabled_algorithms_bitset": _IDENTITY if connection.compression is None else _ALL_CODINGS,
    }
    if connection.server_name:
        options["grpc.ssl_target_name_override"] = options["grpc.default_authority"] = connection.server_name
    if connection.proxy is not None:
        options["grpc.enable_http_proxy"] = 1
        options["grpc.http_proxy"] = connection.proxy.url
    return tuple(options.items())


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
        self._target, self._url = address.target, address.url
        self._connection = connection = connection or Connection()
        self._closed = False
        self._compression = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate, None: None}[
            connection.compression
        ]
        self._credentials = None
        if address.scheme == "grpcs":
            self._credentials = grpc.ssl_channel_credentials(
                connection.read_pem(connection.ca_file) or system_authorities(),
                connection.read_pem(connection.key_file),
                connection.read_pem(connection.certificate_file),
            )

    def _open_channels(self, library: Any) -> None:
        """Open the channels by `grpc` or `grpc.aio`; they connect with the first call, and again after a fault."""
        every = [channel_options(self._connection, number) for number in range(self._connection.channels)]
        self._channels: list[Any] = [
            library.insecure_channel(self._target, options)
            if self._credentials is None
            else library.secure_channel(self._target, self._credentials, options)
            for options in every
        ]
        self._stubs: list[Any] = [service_pb2_grpc.GRPCInferenceServiceStub(channel) for channel in self._channels]
        self._turn = itertools.count()

    def _metadata(self, headers: Mapping[str, str]) -> tuple[tuple[str, str], ...] | None:
        connection = self._connection
        if not headers and not connection.headers and connection.make_token is None:
            return None
        return tuple(connection.call_headers(headers).items())

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
        return error_from_status(code, error.details() or "", operation, self._url)


def error_from_status(code: grpc.StatusCode, details: str, operation: Operation[Any], url: str) -> ClientError:
    """The error for a gRPC status; total over `grpc.StatusCode`."""
    words = details.lower()
    if code is grpc.StatusCode.UNAVAILABLE and any(phrase in words for phrase in _CONNECTION_FAILURES):
        return _connection_error(details, url)
    if code is grpc.StatusCode.CANCELLED and details in _CANCELLED_BY_GRPC:
        return server_unavailable(url, "it cancelled the call, as a server that stops does", "try again later")
    if any(phrase in words for phrase in _REFUSED_ANSWERS):
        return malformed_answer(operation, url, details)
    if code is grpc.StatusCode.INTERNAL and "illegal header" in words:
        return InvalidInput(f"A header of the call to {url} cannot be sent over gRPC ({details})")
    return error_from_answer(code.name, details, operation, url)


def _check_size(reply: Any, connection: Connection) -> None:
    # What does not exist, or is too large decompressed: gRPC bounds the size on the wire.
    if reply is None:
        raise ProtocolError("it is not a message of this call")
    if connection.compression is not None and reply.ByteSize() > connection.largest_answer:
        raise ProtocolError(f"it is larger than {connection.largest_answer} bytes")


def _error_in_stream(text: str, operation: Infer, url: str) -> ClientError:
    # Only a message was sent, without a code.
    words = text.lower()
    code = "NOT_FOUND" if "unknown model" in words or "is not found" in words else "UNKNOWN"
    return error_from_answer("INVALID_ARGUMENT" if "unexpected" in words else code, text, operation, url)


def _connection_error(details: str, url: str) -> ClientError:
    # gRPC's words run from the general to the particular, and may end in a status that says nothing.
    reason = details.removesuffix(": OK").rpartition(": ")[2].rstrip("]")
    words = details.lower()
    if "certificate_verify_failed" in words:
        return server_unavailable(url, reason, "name its authority with ca_file= or SSL_CERT_FILE if you trust it")
    if "socket closed" in words and "failed to connect" in words:
        target = url.rpartition("://")[2]
        advice = (
            f"it may not speak gRPC, or only over TLS; Triton's HTTP port is http://{target}, TLS is grpcs://{target}"
        )
        return server_unavailable(url, reason, advice)
    return server_unavailable(url, reason)
