"""Spans and metrics of the client's operations, over all four faces."""

from __future__ import annotations

import socket

import numpy as np
import pytest
from client_faces import FACES, open_client, url_of
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import rpc_attributes
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry

from plansmith_client import Client, ClientError, InvalidInput, ServerUnavailable, TensorSpec
from plansmith_client.metrics import ClientMetrics
from plansmith_client.telemetry import Tracing
from plansmith_client.testing import FakeModel, FakeServer

IMAGES = np.zeros((2, 8, 8), np.float32)
SERVICE = "inference.GRPCInferenceService"


@pytest.fixture(params=FACES)
def face(request):
    return request.param


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider)


def test_each_operation_is_a_span_with_its_model_and_its_error(committed_server, face, tracing, exporter):
    with open_client(face, url_of(face, committed_server), observers=[tracing]) as client:
        client.model("digits")(IMAGES)
        with pytest.raises(ClientError):
            _ = client.model("nope").metadata
    finished = exporter.get_finished_spans()
    spans = {(span.attributes["rpc.method"], span.attributes.get("plansmith.model")): span for span in finished}
    good, bad = spans[f"{SERVICE}/ModelInfer", "digits"], spans[f"{SERVICE}/ModelMetadata", "nope"]
    assert good.name == good.attributes["rpc.method"]
    assert good.attributes["rpc.system.name"]
    named = {value for name, value in vars(rpc_attributes).items() if name.startswith("RPC_")}
    assert {name for name in good.attributes if name.startswith("rpc.")} <= named - {"rpc.system", "rpc.service"}
    port = int(url_of(face, committed_server).rpartition(":")[2])
    assert (good.attributes["server.address"], good.attributes["server.port"]) == ("127.0.0.1", port)
    assert [event.name for event in good.events] == ["attempt"]
    assert good.kind is SpanKind.CLIENT
    assert good.status.status_code is StatusCode.UNSET
    assert bad.status.status_code is StatusCode.ERROR
    assert bad.attributes["error.type"] == "ModelNotFound"
    assert {(f"{SERVICE}/ModelMetadata", "digits"), (f"{SERVICE}/ModelConfig", "digits")} <= set(spans)


@pytest.mark.parametrize("face", ["grpc", "grpc-async"])
def test_each_attempt_is_an_event_with_its_server(face, tracing, exporter):
    x = TensorSpec("x", "FP32", (-1, 1))
    failing = iter([True, True, False])

    def function(inputs):
        if next(failing, False):
            raise ServerUnavailable("gone")
        return inputs

    server = FakeServer({"same": FakeModel(function, [x], [x])})
    with open_client(face, ["a:1", "unix:///b"], observers=[tracing], transport=server) as client:
        client.model("same")([[1.0]])
        client.is_ready(all_servers=True)
    spans = {span.attributes["rpc.method"]: span for span in exporter.get_finished_spans()}
    servers = [event.attributes["server.address"] for event in spans[f"{SERVICE}/ModelInfer"].events]
    assert len(servers) == 3
    assert set(servers[:2]) == {"a", "/b"}
    assert spans[f"{SERVICE}/ModelInfer"].attributes["server.address"] == servers[2]
    ready = spans[f"{SERVICE}/ServerReady"]
    assert {event.attributes["server.address"] for event in ready.events} == {"a", "/b"}
    assert not tracing._spans


def test_every_operation_of_a_span_is_a_method_of_the_protocols_service():
    from tritonclient.grpc import service_pb2  # noqa: PLC0415

    from plansmith_client.telemetry import _METHODS, _SERVICE  # noqa: PLC0415
    from plansmith_client.transports.grpc.wire import RPCS  # noqa: PLC0415

    (service,) = service_pb2.DESCRIPTOR.services_by_name.values()
    assert service.full_name == _SERVICE
    for operation, rpc in RPCS.items():
        name = operation.__name__
        assert _METHODS.get(name, name) == rpc.method or "SharedMemory" in name


@pytest.mark.parametrize("face", ["http", "http-async"])
def test_the_context_of_a_span_is_sent_along(face, tracing, exporter):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        import threading  # noqa: PLC0415

        got = []

        def serve():
            connection, _ = listener.accept()
            with connection:
                got.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n" + b'{"name":"a","version": "1"}')

        thread = threading.Thread(target=serve)
        thread.start()
        with open_client(face, url, observers=[tracing], timeout=20) as client:
            client.server_metadata()
        thread.join()
    (span,) = exporter.get_finished_spans()
    assert f"traceparent: 00-{span.context.trace_id:032x}-{span.context.span_id:016x}-".encode() in got[0].lower()


def test_durations_are_counted_by_operation_model_and_outcome(committed_server, face):
    registry = CollectorRegistry()
    with open_client(face, url_of(face, committed_server), observers=[ClientMetrics(registry)]) as client:
        for _ in range(3):
            client.model("digits")(IMAGES)
        with pytest.raises(ClientError):
            _ = client.model("nope").metadata

    def count(operation, model, outcome):
        labels = {"operation": operation, "model": model, "outcome": outcome}
        return registry.get_sample_value("plansmith_client_seconds_count", labels)

    assert count("Infer", "digits", "ok") == 3
    assert count("ReadModelMetadata", "nope", "ModelNotFound") == 1
    under_way = registry.get_sample_value("plansmith_client_in_flight", {"operation": "Infer", "model": "digits"})
    assert under_way == 0


def test_one_registry_takes_the_metrics_once():
    registry = CollectorRegistry()
    metrics = ClientMetrics(registry)
    with pytest.raises(InvalidInput, match="already"):
        ClientMetrics(registry)
    Client("localhost:1", observers=[metrics]).close()
