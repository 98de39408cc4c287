"""gRPC: Triton's generated stubs over a channel of the client's own.

Of tritonclient only the generated modules are used, not its client: the calls, deadlines and errors are ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from plansmith_client._version import USER_AGENT
from plansmith_client.errors import ClientError, ProtocolError
from plansmith_client.transports.failures import (
    client_closed,
    deadline_exceeded,
    error_from_answer,
    malformed_answer,
    server_unavailable,
)
from plansmith_client.transports.grpc_wire import RPCS

if TYPE_CHECKING:
    from plansmith_client.addresses import Address
    from plansmith_client.deadlines import Deadline
    from plansmith_client.operations import Answer_co, Operation

__all__ = ["CHANNEL_OPTIONS", "GrpcTransport", "error_from_status"]

CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Servers count pings that come more often than every 300 s as an attack and hang up; gateways forget connections
    # that are silent for 350 s.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Channels with equal options would share one connection.
    ("grpc.use_local_subchannel_pool", 1),
    # By default a channel that failed to connect may refuse calls for two minutes after the server is back.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # As over HTTP, the environment's proxies are not used: a model server is a neighbour.
    ("grpc.enable_http_proxy", 0),
    ("grpc.primary_user_agent", USER_AGENT),
)

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


class GrpcTransport:
    """Carries operations over one gRPC channel, which connects with the first call and again after a fault.

    Args:
        address: of scheme `grpc` or `grpcs`; the latter trusts the authorities that gRPC ships, or those in the file
            that the environment variable GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names.
    """

    def __init__(self, address: Address) -> None:
        self._url = address.url
        if address.scheme == "grpcs":
            self._channel = grpc.secure_channel(address.target, grpc.ssl_channel_credentials(), CHANNEL_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address.target, CHANNEL_OPTIONS)
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._closed = False

    def call(self, operation: Operation[Answer_co], deadline: Deadline) -> Answer_co:
        """Send the operation and return its answer; see `Transport.call`."""
        rpc = RPCS[type(operation)]
        request = rpc.request(operation)
        try:
            reply = getattr(self._stub, rpc.method)(request, timeout=deadline.remaining())
        except grpc.RpcError as error:
            if self._closed:
                raise client_closed(self._url) from error
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise deadline_exceeded(operation, self._url, deadline.timeout) from error
            raise error_from_status(error.code(), error.details() or "", operation, self._url) from error
        except ValueError as error:
            # What grpc raises for a channel that has been closed.
            raise client_closed(self._url) from error
        try:
            answer: Answer_co = rpc.answer(reply)
        except (ProtocolError, ValueError, TypeError) as error:
            raise malformed_answer(operation, self._url, error) from error
        return answer

    def close(self) -> None:
        """Close the channel; see `Transport.close`."""
        self._closed = True
        self._channel.close()


def error_from_status(code: grpc.StatusCode, details: str, operation: Operation[Any], url: str) -> ClientError:
    """The error for a gRPC status; total over `grpc.StatusCode`."""
    words = details.lower()
    if code is grpc.StatusCode.UNAVAILABLE and any(phrase in words for phrase in _CONNECTION_FAILURES):
        return _connection_error(details, url)
    if code is grpc.StatusCode.INTERNAL and "deserializing response" in words:
        return malformed_answer(operation, url, details)
    return error_from_answer(code.name, details, operation, url)


def _connection_error(details: str, url: str) -> ClientError:
    # gRPC's words run from the general to the particular, and may end in a status that says nothing.
    reason = details.removesuffix(": OK").rpartition(": ")[2].rstrip("]")
    words = details.lower()
    if "certificate_verify_failed" in words:
        return server_unavailable(url, reason, "name its authority in GRPC_DEFAULT_SSL_ROOTS_FILE_PATH if you trust it")
    if "socket closed" in words and "failed to connect" in words:
        target = url.rpartition("://")[2]
        advice = (
            f"it may not speak gRPC, or only over TLS; Triton's HTTP port is http://{target}, TLS is grpcs://{target}"
        )
        return server_unavailable(url, reason, advice)
    return server_unavailable(url, reason)
