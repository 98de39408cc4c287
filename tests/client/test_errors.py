"""Every way to fail ends in one of the client's errors: gRPC's codes, HTTP's statuses, broken connections."""

from __future__ import annotations

import concurrent.futures
import copy
import json
import pickle
import socket
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from client_faces import open_client
from tritonclient.grpc import service_pb2, service_pb2_grpc

from plansmith_client import (
    AccessDenied,
    Client,
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
    errors,
)
from plansmith_client.protocol.operations import Infer, IsServerReady, ReadModelMetadata
from plansmith_client.transports.addresses import Address
from plansmith_client.transports.failures import STATUS_CODES
from plansmith_client.transports.grpc.channels import error_from_status
from plansmith_client.transports.http.exchanges import answer_from_response, error_from_exception
from plansmith_client.transports.http.responses import BrokenAnswerError, InvalidAnswerError, NoHttpError, Response

INFER = Infer("digits", "", (), None, "", {})
QUEUE_FULL = "[request id: <id_unknown>] Exceeds maximum queue size"

# What an inference that fails with each code raises.
BY_CODE = {
    "CANCELLED": InferenceFailed,
    "UNKNOWN": InferenceFailed,
    "INVALID_ARGUMENT": InvalidInput,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "NOT_FOUND": ModelNotFound,
    "ALREADY_EXISTS": InferenceFailed,
    "PERMISSION_DENIED": AccessDenied,
    "RESOURCE_EXHAUSTED": ServerOverloaded,
    "FAILED_PRECONDITION": InferenceFailed,
    "ABORTED": InferenceFailed,
    "OUT_OF_RANGE": InvalidInput,
    "UNIMPLEMENTED": InferenceFailed,
    "INTERNAL": InferenceFailed,
    "UNAVAILABLE": ServerUnavailable,
    "DATA_LOSS": InferenceFailed,
    "UNAUTHENTICATED": AccessDenied,
}


@pytest.fixture(scope="module")
def grpc_server():
    """A gRPC server of the protocol whose model fails with the code that the request's id names."""

    class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
        def ModelMetadata(self, request, _):  # noqa: N802
            return service_pb2.ModelMetadataResponse(name=request.name, versions=["1"])

        def ModelInfer(self, request, context):  # noqa: N802
            code, _, text = request.id.partition(":")
            context.abort(grpc.StatusCode[code], text or "the words of the server")

        def RepositoryIndex(self, *_):  # noqa: N802
            return service_pb2.RepositoryIndexResponse()

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture(scope="module")
def http_server():
    """An HTTP server of the protocol whose model fails with the status that the request's id names."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.path == "/v2":
                self.answer(200, {"name": "a", "version": "1", "extensions": ["binary_tensor_data"]})
            elif self.path.endswith("/config"):
                self.answer(404, {"error": "no such thing here"})
            else:
                self.answer(200, {"name": "digits", "versions": ["1"], "inputs": [], "outputs": []})

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path.endswith("index"):
                self.answer(200, [])
                return
            status, _, text = json.loads(body)["id"].partition(":")
            self.answer(int(status), {"error": text or "the words of the server"})

        def answer(self, status, document):
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def failure(client: Client, what: str) -> ClientError:
    with pytest.raises(ClientError) as caught:
        client.model("digits").infer({}, request_id=what)
    return caught.value


# Each failure is looked at alone: no second attempt, and no server that is left alone after many.
ALONE = {"timeout": 10, "retries": 0, "breaker": None}


@pytest.fixture(scope="module", params=["grpc", "grpc-async"])
def grpc_client(request, grpc_server):
    with open_client(request.param, grpc_server, **ALONE) as client:
        yield client


@pytest.fixture(scope="module", params=["http", "http-async"])
def http_client(request, http_server):
    with open_client(request.param, http_server, **ALONE) as client:
        yield client


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_grpc_status_has_its_error(grpc_client, code):
    error = failure(grpc_client, code.name)
    assert type(error) is BY_CODE[code.name]
    assert "digits" in str(error)
    if code is not grpc.StatusCode.NOT_FOUND and code is not grpc.StatusCode.DEADLINE_EXCEEDED:
        assert "the words of the server" in str(error)


@pytest.mark.parametrize("code", grpc.StatusCode)
@pytest.mark.parametrize(
    "operation", [INFER, ReadModelMetadata("digits", ""), IsServerReady()], ids=lambda o: type(o).__name__
)
def test_the_mapping_is_total_over_the_codes_whatever_was_asked(code, operation):
    for text in ("", QUEUE_FULL, "Socket closed", "{braces}"):
        assert isinstance(error_from_status(code, text, operation, "localhost:1"), ClientError)


@pytest.mark.parametrize("status", [*STATUS_CODES, 302, 418])
def test_every_http_status_of_the_protocol_has_its_error(http_client, status):
    error = failure(http_client, str(status))
    assert type(error) is (BY_CODE[STATUS_CODES[status]] if status in STATUS_CODES else ProtocolError)
    assert "digits" in str(error)


def test_every_other_http_status_is_a_protocol_error():
    for status in set(range(201, 600)) - set(STATUS_CODES):
        with pytest.raises(ProtocolError, match="digits"):
            answer_from_response(Response(status, {}, b'{"error": "no"}'), INFER, Address.parse("http://localhost:1"))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (QUEUE_FULL, ServerOverloaded),
        ("[request id: 7] Request timeout expired", DeadlineExceeded),
        ("Request for unknown model: 'digits' has no available versions", ModelNotReady),
        ("Server is stopping, scheduler for model has stopped", ServerUnavailable),
        ("This protocol is restricted, expecting header 'triton-grpc-protocol-key'", AccessDenied),
    ],
)
def test_what_unavailable_means_is_told_by_the_servers_words(grpc_client, http_client, text, error):
    assert type(failure(grpc_client, f"UNAVAILABLE:{text}")) is error
    assert type(failure(http_client, f"503:{text}")) is error


def test_a_call_that_a_stopping_server_drops_can_be_sent_elsewhere(grpc_client):
    dropped = failure(grpc_client, "CANCELLED:CANCELLED")
    assert type(dropped) is ServerUnavailable
    assert dropped.retryable


def test_a_call_that_the_server_does_not_have_is_not_a_model_that_failed(grpc_client):
    assert type(failure(grpc_client, "UNIMPLEMENTED:Method not found!")) is ProtocolError


def test_a_request_too_large_for_a_proxy_is_not_overload(grpc_client):
    assert type(failure(grpc_client, "RESOURCE_EXHAUSTED:Received message larger than max (9 vs. 4)")) is InvalidInput


@pytest.mark.parametrize(
    ("exception", "error"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), ServerUnavailable),
        (ConnectionRefusedError(111, "Connection refused"), ServerUnavailable),
        (BrokenPipeError(32, "Broken pipe"), ServerUnavailable),
        (socket.gaierror(-2, "Name or service not known"), ServerUnavailable),
        (ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED]"), ServerUnavailable),
        (ssl.SSLError(1, "wrong version number"), ServerUnavailable),
        (TimeoutError("timed out"), DeadlineExceeded),
        (BrokenAnswerError(), ServerUnavailable),
        (NoHttpError("Invalid constant string"), ProtocolError),
        (InvalidAnswerError("it is larger than allowed"), ProtocolError),
        (OSError(110, "Connection timed out"), ServerUnavailable),
        (
            OSError("Multiple exceptions: [Errno 111] Connect call failed, [Errno 111] Connect call failed"),
            ServerUnavailable,
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_way_a_connection_fails_has_its_error(exception, error):
    raised = error_from_exception(exception, INFER, Address.parse("http://localhost:1"), 1.0)
    assert type(raised) is error
    assert "localhost:1" in str(raised)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("certificate verify failed: IP address mismatch, certificate is not valid for '::1'.", "server_name="),
        ("certificate verify failed: self-signed certificate", "ca_file="),
        ("tlsv13 alert certificate required", "certificate_file="),
        ("tlsv1 alert unknown ca", "certificate_file="),
        ("sslv3 alert handshake failure", "certificate_file="),
        ("wrong version number", "correct the URL, http://"),
    ],
)
def test_what_tls_says_comes_with_the_way_out(reason, advice):
    raised = error_from_exception(ssl.SSLError(1, reason), INFER, Address.parse("https://localhost:1"), 1.0)
    assert advice in str(raised)


def test_numbers_of_windows_have_the_words_of_windows(monkeypatch):
    monkeypatch.setattr(socket, "errorTab", {10061: "Connection refused."}, raising=False)
    refused = error_from_exception(OSError(10061, "x"), INFER, Address.parse("http://localhost:1"), 1.0)
    assert "localhost:1 (Connection refused): start the server" in str(refused)


ALL_ERRORS = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_errors_cross_process_boundaries(kind):
    error = kind("what happened at localhost:8001")
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(copied) is kind
        assert str(copied) == str(error)
        assert (copied.exit_code, copied.retryable) == (kind.exit_code, kind.retryable)


@pytest.mark.parametrize(
    ("module", "package"),
    [("telemetry", "opentelemetry"), ("metrics", "prometheus_client")],
)
def test_a_missing_extra_is_an_import_error_and_one_of_ours(module, package):
    program = f"""
import sys
from plansmith_client import InvalidInput
sys.modules["{package}"] = None
try:
    import plansmith_client.{module}
except ImportError as error:
    print(isinstance(error, InvalidInput), error)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("True ")
    assert ": pip install " in done.stdout


def test_the_tree_of_errors_is_the_one_that_its_module_draws():
    drawn = [
        line for line in errors.__doc__.splitlines() if line.lstrip(" │").startswith(("├──", "└──", "ClientError"))
    ]
    names = [line.replace("│", " ").replace("├──", "").replace("└──", "").split()[0] for line in drawn]
    assert sorted(names) == sorted(errors.__all__)
    assert all(issubclass(kind, ClientError) for kind in ALL_ERRORS)
    assert issubclass(ClientClosed, InvalidInput)


def test_only_an_outage_or_a_loading_model_is_worth_a_retry():
    assert {kind for kind in ALL_ERRORS if kind.retryable} == {ServerUnavailable, ModelNotReady}
    assert {kind for kind in ALL_ERRORS if kind.exit_code == 2} == {
        InvalidInput,
        ClientClosed,
        errors.MissingDependency,
        AccessDenied,
        ModelNotFound,
    }
