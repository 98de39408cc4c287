"""One trace across client and server, at a collector that both send to over OTLP."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import numpy as np
import pytest
from containers import started
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from serving import FREE_PORTS, add_double, wait_for

from plansmith_client import Client
from plansmith_client.telemetry import Tracing
from plansmith_server import ServerOptions, TritonServer


class Span(NamedTuple):
    service: str
    name: str
    trace: str
    identity: str
    parent: str


class Collector(ThreadingHTTPServer):
    """Takes spans over HTTP, as OpenTelemetry's collector does."""

    def __init__(self):
        self.spans = []
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.url = f"http://127.0.0.1:{self.server_port}/v1/traces"

    def span(self, service, name):
        return next((span for span in list(self.spans) if span[:2] == (service, name)), None)


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        # Triton sends JSON, in which identities are hexadecimal; the Python library sends protobuf.
        self.server.spans += _of_json(body) if "json" in self.headers["Content-Type"] else _of_protobuf(body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def _of_json(body):
    for group in json.loads(body)["resourceSpans"]:
        facts = {entry["key"]: entry["value"].get("stringValue") for entry in group["resource"]["attributes"]}
        for span in (span for scope in group["scopeSpans"] for span in scope["spans"]):
            yield Span(facts["service.name"], span["name"], span["traceId"], span["spanId"], span["parentSpanId"])


def _of_protobuf(body):
    for group in ExportTraceServiceRequest.FromString(body).resource_spans:
        facts = {entry.key: entry.value.string_value for entry in group.resource.attributes}
        for span in (span for scope in group.scope_spans for span in scope.spans):
            identities = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
            yield Span(facts["service.name"], span.name, *identities)


@pytest.fixture
def collector():
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def test_client_and_server_send_one_trace_which_the_client_alone_samples(collector, tmp_path):
    assert "--trace-config" not in started(tmp_path).stdout
    words = started(tmp_path, OTLP_TRACES_URL=collector.url).stdout.splitlines()
    words = tuple(word for word in words if word.startswith("--trace-config"))
    repository = tmp_path / "models"
    repository.mkdir()
    add_double(repository, "double", 'backend: "onnxruntime" instance_group { kind: KIND_CPU count: 1 }')
    provider = TracerProvider(resource=Resource({"service.name": "caller"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(collector.url)))
    with TritonServer(ServerOptions(repository=repository, triton_arguments=words, **FREE_PORTS)) as server:
        for url in (server.grpc_url, server.http_url):
            collector.spans.clear()
            with Client(url) as untraced, Client(url, observers=[Tracing(provider)]) as client:
                untraced.model("double")(np.float32([[1, 2]]))
                client.model("double")(np.float32([[1, 2]]))
            wait_for(lambda: collector.span("triton", "InferRequest") and collector.span("triton", "compute"), 120)
            call = collector.span("caller", "inference.GRPCInferenceService/ModelInfer")
            request, model, compute = (collector.span("triton", name) for name in ("InferRequest", "double", "compute"))
            assert {span.trace for span in (request, model, compute)} == {call.trace}
            assert request.parent == call.identity
            assert (model.parent, compute.parent) == (request.identity, model.identity)
            assert [span.trace for span in collector.spans if span.service == "triton"] == [call.trace] * 3
    provider.shutdown()
