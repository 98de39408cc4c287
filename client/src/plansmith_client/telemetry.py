"""OpenTelemetry: a span for each operation, and its context sent along (W3C trace context).

Needs the package opentelemetry-api (`pip install opentelemetry-api`). Triton started with
`--trace-config=mode=opentelemetry` continues the trace.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from plansmith_client._version import __version__
from plansmith_client.errors import MissingDependency
from plansmith_client.protocol.operations import Infer, ModelOperation

try:
    from opentelemetry import propagate, trace
except ImportError as error:  # pragma: no cover - a test installs the package without it
    raise MissingDependency("Tracing needs the package opentelemetry-api: pip install opentelemetry-api") from error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from plansmith_client.protocol.operations import Operation
    from plansmith_client.transports.addresses import Address

__all__ = ["Tracing"]

_SERVICE = "inference.GRPCInferenceService"
# What each operation is called in the protocol's service; the same over HTTP, so that spans compare.
_METHODS = {
    "IsServerLive": "ServerLive",
    "IsServerReady": "ServerReady",
    "IsModelReady": "ModelReady",
    "ReadServerMetadata": "ServerMetadata",
    "ListModels": "RepositoryIndex",
    "ReadModelMetadata": "ModelMetadata",
    "ReadModelConfig": "ModelConfig",
    "ReadConfigDocument": "ModelConfig",
    "ReadStatistics": "ModelStatistics",
    "LoadModel": "RepositoryModelLoad",
    "UnloadModel": "RepositoryModelUnload",
    "TraceSettings": "TraceSetting",
    "Infer": "ModelInfer",
}


class Tracing:
    """Makes spans of the kind CLIENT, by OpenTelemetry's semantic conventions for RPC.

    A span is named `inference.GRPCInferenceService/ModelInfer` and so on, whichever protocol carries it, with the
    attributes `rpc.system.name`, `rpc.method` (the same as the name), `server.address`, `server.port`, and of an error
    `error.type`; `plansmith.model`, `plansmith.model_version` and `plansmith.request_id` say what was asked. Retries
    and other servers are inside the span of their operation: each is an event `attempt` with its server, and the
    attributes name the last one.

    Args:
        provider: where spans go; by default the global provider.

    Example:
        ```python
        from plansmith_client.telemetry import Tracing

        with Client("localhost:8001", observers=[Tracing()]) as traced:
            traced.model("digits")(images)
        ```
    """

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("plansmith_client", __version__, tracer_provider=provider)
        # By the identity of the operation, which lives as long as its span.
        self._spans: dict[int, trace.Span] = {}

    @contextlib.contextmanager
    def observe(self, operation: Operation[Any]) -> Iterator[Mapping[str, str]]:
        """A span around the operation; returns the headers that carry its context."""
        method = f"{_SERVICE}/{_METHODS.get(type(operation).__name__, type(operation).__name__)}"
        attributes: dict[str, str] = {"rpc.system.name": "open_inference_protocol", "rpc.method": method}
        if isinstance(operation, ModelOperation) and operation.name:
            attributes |= {"plansmith.model": operation.name, "plansmith.model_version": operation.version}
        if isinstance(operation, Infer) and operation.request_id:
            attributes["plansmith.request_id"] = operation.request_id
        # Not the current span: a generator runs in the context of its caller.
        span = self._tracer.start_span(method, kind=trace.SpanKind.CLIENT, attributes=attributes)
        self._spans[id(operation)] = span
        headers: dict[str, str] = {}
        propagate.inject(headers, context=trace.set_span_in_context(span))
        try:
            yield headers
        except BaseException as error:
            span.set_status(trace.StatusCode.ERROR, f"{type(error).__name__}: {error}")
            span.set_attribute("error.type", type(error).__name__)
            raise
        finally:
            self._spans.pop(id(operation), None)
            span.end()

    def attempt(self, operation: Operation[Any], address: Address) -> None:
        """Note the server that the operation is sent to."""
        span = self._spans.get(id(operation))
        if span is not None:
            server: dict[str, str | int] = {"server.address": address.socket_path or address.host}
            if address.port:
                server["server.port"] = address.port
            span.set_attributes(server)
            span.add_event("attempt", server)
