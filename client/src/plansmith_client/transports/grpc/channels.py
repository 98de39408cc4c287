"""The options of a gRPC channel, and the errors for what gRPC says of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc

from plansmith_client._version import USER_AGENT
from plansmith_client.errors import ClientError, InvalidInput
from plansmith_client.transports.connections import LARGEST_ANSWER
from plansmith_client.transports.failures import error_from_answer, malformed_answer, server_unavailable

if TYPE_CHECKING:
    from plansmith_client.protocol.operations import Operation
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.connections import Connection

__all__ = ["CHANNEL_OPTIONS", "channel_options", "error_from_status"]

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
    # By default the addresses of a name are looked up again after half a minute at the earliest.
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
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


def channel_options(address: Address, connection: Connection, number: int) -> tuple[tuple[str, int | str], ...]:
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
        # The channel leads to the proxy. With gRPC's own option no_proxy of the environment would overrule the caller.
        headers = connection.proxy.headers.items()
        options["grpc.http_connect_server"] = address.target
        if headers:
            options["grpc.http_connect_headers"] = "\n".join(f"{name}:{value}" for name, value in headers)
        options.setdefault("grpc.default_authority", address.target)
        options.setdefault("grpc.ssl_target_name_override", address.host)
    return tuple(options.items())


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


def _connection_error(details: str, url: str) -> ClientError:
    # gRPC's words run from the general to the particular, and may end in a status that says nothing.
    reason = details.removesuffix(": OK").rpartition(": ")[2].rstrip("]")
    words = details.lower()
    if "wrong_version_number" in words:
        return server_unavailable(url, "wrong version number")
    if "failed to connect" in words and ("socket closed" in words or "http/2" in words):
        if url.startswith("grpcs://"):
            return server_unavailable(url, "it ended the handshake of TLS")
        target = url.rpartition("://")[2]
        advice = (
            f"it may not speak gRPC, or only over TLS; Triton's HTTP port is http://{target}, TLS is grpcs://{target}"
        )
        return server_unavailable(url, reason, advice)
    return server_unavailable(url, reason)
