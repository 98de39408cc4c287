"""The client against servers that misbehave: slow, cut, reset, garbled, of another kind. No raw exception, no hang."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading

import grpc
import numpy as np
import pytest
from client_faces import open_client
from tritonclient.grpc import service_pb2, service_pb2_grpc

from plansmith_client import (
    Client,
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    ProtocolError,
    ServerUnavailable,
    TensorSpec,
)
from plansmith_client.protocol.operations import Infer, Tensor
from plansmith_client.transports import open_transport
from plansmith_client.transports.addresses import Address
from plansmith_client.transports.deadlines import Deadline


@pytest.fixture
def serve():
    """Starts a server on loopback whose connections are each handled by a function; gives its host:port."""
    with contextlib.ExitStack() as stack:
        stopping = threading.Event()

        def start(behave, context: ssl.SSLContext | None = None) -> str:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            threads = []

            def handle(connection):
                with contextlib.suppress(OSError), connection:
                    if context is not None:
                        with context.wrap_socket(connection, server_side=True) as encrypted:
                            behave(encrypted, stopping)
                    else:
                        behave(connection, stopping)

            def accept():
                while True:
                    try:
                        connection, _ = listener.accept()
                    except OSError:
                        return
                    thread = threading.Thread(target=handle, args=(connection,))
                    thread.start()
                    threads.append(thread)

            acceptor = threading.Thread(target=accept)
            acceptor.start()

            def stop():
                listener.shutdown(socket.SHUT_RDWR)
                acceptor.join()
                for thread in threads:
                    thread.join()

            stack.callback(stop)
            stack.callback(stopping.set)
            return f"127.0.0.1:{listener.getsockname()[1]}"

        yield start


def read_request(connection) -> bytes:
    """The request line, so that a behaviour can depend on it; the rest is taken off the wire."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    missing = int(lengths[0]) - len(body) if lengths else 0
    while missing > 0:
        missing -= len(connection.recv(65536))
    return head.split(b"\r\n")[0]


def replying(body: bytes, status="200 OK", headers="Content-Type: application/json"):
    """A behaviour: the same complete reply to every request."""

    def behave(connection, _):
        while read_request(connection):
            head = f"HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)

    return behave


def dripping(head: bytes):
    """A behaviour: the head at once, and then one byte after another without an end."""

    def behave(connection, stopping):
        read_request(connection)
        connection.sendall(head)
        while not stopping.wait(0.05):
            connection.sendall(b"x")

    return behave


HEADS = {
    "status line": b"HTTP/1.1 200 ",
    "headers": b"HTTP/1.1 200 OK\r\nX-Slow: ",
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
    "body without length": b"HTTP/1.1 200 OK\r\n\r\n",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n100000\r\n",
}


@pytest.mark.parametrize("part", HEADS)
def test_an_http_server_that_drips_is_left_at_the_deadline(serve, part):
    with Client(f"http://{serve(dripping(HEADS[part]))}", timeout=0.3) as client:
        with pytest.raises(DeadlineExceeded, match=r"0\.3 s"):
            client.server_metadata()
        assert not client.is_live()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that nobody has signed but itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed, and makes this test's certificate")
    folder = tmp_path_factory.mktemp("tls")
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", folder / "key.pem", "-out", folder / "certificate.pem"]
    subprocess.run(["openssl", *command.split(), *files], check=True, capture_output=True)
    return folder


@pytest.fixture
def tls(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "certificate.pem", certificate / "key.pem")
    return context


def test_https_is_spoken_with_a_trusted_server_and_bounded_too(serve, tls, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "certificate.pem"))
    reply = replying(b'{"name": "a", "version": "1"}')
    with Client(f"https://{serve(reply, tls)}", timeout=5) as client:
        assert client.server_metadata().name == "a"
    with Client(f"https://{serve(dripping(HEADS['body']), tls)}", timeout=1) as client, pytest.raises(DeadlineExceeded):
        client.server_metadata()


# What Windows and macOS lack.
ELSEWHERE = """
import os, select, sys
from pathlib import Path
for name in ("poll", "epoll", "devpoll", "kqueue"):
    if hasattr(select, name):
        delattr(select, name)
from plansmith_client import Client
from plansmith_client.shared_memory import owners
owners._PROC = Path(os.devnull, "proc")
with Client(sys.argv[1], timeout=30) as client:
    print([client.server_metadata().name for _ in range(3)])
"""


def test_https_is_spoken_on_systems_without_poll(serve, tls, certificate):
    address = serve(replying(b'{"name": "a", "version": "1"}'), tls)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, f"https://{address}"],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "SSL_CERT_FILE": str(certificate / "certificate.pem")},
    )
    assert (done.stdout, done.stderr) == ("['a', 'a', 'a']\n", "")


def test_a_tls_handshake_that_drips_is_left_at_the_deadline(serve):
    def behave(connection, stopping):
        while not stopping.wait(0.05):
            connection.sendall(b"\x16")

    with Client(f"https://{serve(behave)}", timeout=0.5) as client, pytest.raises(ClientError):
        client.server_metadata()


@pytest.mark.parametrize("greeting", [b"", b"\0\0\x06\x04\0\0\0\0\0", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_grpc_server_that_drips_is_left_at_the_deadline(serve, greeting):
    def behave(connection, stopping):
        connection.sendall(greeting)
        while not stopping.wait(0.05):
            connection.sendall(b"\0")

    with Client(serve(behave), timeout=0.5) as client:
        with pytest.raises((DeadlineExceeded, ServerUnavailable)):
            client.server_metadata()
        assert not client.is_ready()


def test_a_server_that_accepts_and_never_reads_is_left_at_the_deadline(serve):
    def behave(_, stopping):
        stopping.wait()

    address = serve(behave)
    large = Tensor("x", "UINT8", np.zeros(200_000_000, np.uint8))
    for url in (address, f"http://{address}"):
        transport = open_transport(Address.parse(url))
        if url.startswith("http"):
            transport._calls.speaks_binary = True
        with contextlib.closing(transport), pytest.raises(DeadlineExceeded):
            transport.call(Infer("m", "", (large,), None, "", {}), Deadline(0.5))


@pytest.mark.parametrize("scheme", ["", "http://"])
@pytest.mark.parametrize("reset", [True, False])
def test_a_connection_that_is_cut_is_an_outage(serve, scheme, reset):
    def behave(connection, _):
        connection.recv(10)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    address = serve(behave)
    with Client(f"{scheme}{address}", timeout=5) as client:
        with pytest.raises(ServerUnavailable, match=address) as caught:
            client.server_metadata()
        assert caught.value.retryable
        assert not client.is_live()


@pytest.mark.parametrize("face", ["http", "http-async"])
@pytest.mark.parametrize("start", [b"", HEADS["body"]], ids=["before", "within"])
def test_a_connection_that_is_always_cut_is_an_outage_however_large_the_headers_are(serve, face, start):
    def behave(connection, _):
        read_request(connection)
        connection.sendall(start)

    url = f"http://{serve(behave)}"
    with open_client(face, url, token="t" * 20000, timeout=20) as client, pytest.raises(ServerUnavailable):
        client.server_metadata()


@pytest.mark.parametrize("head", ["body", "chunk"])
def test_an_answer_that_is_cut_is_an_outage(serve, head):
    def behave(connection, _):
        read_request(connection)
        connection.sendall(HEADS[head] + b"{")

    with Client(f"http://{serve(behave)}", timeout=5) as client, pytest.raises(ServerUnavailable):
        client.server_metadata()


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_nobody_there_is_an_outage_that_says_where_and_what_to_do(scheme):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Client(f"{scheme}127.0.0.1:{port}", timeout=5) as client:
        with pytest.raises(ServerUnavailable, match=rf"127\.0\.0\.1:{port} \(Connection refused\).*plansmith serve"):
            client.models()
        assert not client.is_live()
        assert not client.model("digits").is_ready()
        with pytest.raises(ServerUnavailable):
            client.wait_until_ready(timeout=0.3)


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_name_that_no_host_has_is_an_outage(scheme):
    url = f"{scheme}no-such-host.invalid:8000"
    with Client(url, timeout=10) as client, pytest.raises(ServerUnavailable, match="no-such-host"):
        client.server_metadata()


@pytest.mark.parametrize("status", ["404 Not Found", "200 OK", "400 Bad Request", "302 Found", "503 Down"])
def test_another_web_server_is_not_taken_for_an_inference_server(serve, status):
    page = replying(b"<html>hello</html>", status, "Content-Type: text/html\r\nLocation: http://localhost:1/")
    with Client(f"http://{serve(page)}", timeout=5) as client:
        for call in (client.server_metadata, client.models, lambda: client.model("m")([1])):
            with pytest.raises((ProtocolError, ServerUnavailable, InvalidInput)) as caught:
                call()
            assert "<html>" not in str(caught.value)
            assert ("http://localhost:1/" in str(caught.value)) == status.startswith("302")


@pytest.mark.parametrize("line", [b"SSH-2.0-OpenSSH_9.2\r\n", b"\0" * 100, b"HTTP/1.1 abc\r\n\r\n", b"\r\n" * 9])
def test_a_server_of_another_protocol_is_a_clear_error(serve, line):
    def behave(connection, _):
        connection.sendall(line)
        connection.recv(65536)

    address = serve(behave)
    for url in (address, f"http://{address}"):
        with Client(url, timeout=3) as client, pytest.raises((ProtocolError, ServerUnavailable), match=address):
            client.server_metadata()


def infer_reply(header, blob=b""):
    encoded = json.dumps(header).encode()
    return replying(encoded + blob, headers=f"Inference-Header-Content-Length: {len(encoded)}")


OUTPUT = {"name": "y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}


@pytest.mark.parametrize(
    "reply",
    [
        infer_reply({"model_name": "m", "outputs": [OUTPUT]}, b"\0" * 7),
        infer_reply({"model_name": "m", "outputs": [{**OUTPUT, "shape": [3]}]}, b"\0" * 8),
        infer_reply({"model_name": "m", "outputs": [{**OUTPUT, "parameters": {"binary_data_size": -1}}]}, b"\0" * 8),
        infer_reply({"model_name": "m", "outputs": [{**OUTPUT, "parameters": {"binary_data_size": "8"}}]}, b"\0" * 8),
        infer_reply({"model_name": "m", "outputs": [{**OUTPUT, "parameters": None}]}, b"\0" * 8),
        infer_reply({"model_name": "m", "outputs": [{**OUTPUT, "shape": None}]}, b"\0" * 8),
        infer_reply({"model_name": "m", "outputs": [{**OUTPUT, "parameters": {}}]}),
        infer_reply({"outputs": []}),
    ],
)
def test_a_malformed_inference_is_a_protocol_error(serve, reply):
    transport = open_transport(Address.parse(f"http://{serve(reply)}"))
    transport._calls.speaks_binary = True
    with contextlib.closing(transport), pytest.raises(ProtocolError, match="'m'"):
        transport.call(Infer("m", "", (), None, "", {}), Deadline(5))


WITH_NULLS = {
    "/v2": {"name": "s", "version": None, "extensions": None},
    "/v2/models/m": {
        "name": "m",
        "versions": None,
        "platform": None,
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [None, 2], "parameters": None}],
        "outputs": None,
        "parameters": None,
    },
    "/v2/models/m/config": {
        "max_batch_size": None,
        "input": [{"name": "x", "optional": None}],
        "model_transaction_policy": None,
        "parameters": {"a": None},
    },
    "/v2/models/stats": {
        "model_stats": [{"name": "m", "version": None, "inference_stats": {"queue": None}, "batch_stats": None}]
    },
    "/v2/repository/index": [{"name": "m", "version": None, "state": None, "reason": None}],
    "/v2/models/m/infer": {
        "model_name": "m",
        "model_version": None,
        "id": None,
        "parameters": None,
        "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [2], "parameters": None, "data": [1, 2]},
            {"name": "z", "datatype": "BYTES", "shape": [1], "parameters": {"content_type": None}, "data": ["a"]},
        ],
    },
}


def without_nulls(document):
    if isinstance(document, dict):
        return {name: without_nulls(value) for name, value in document.items() if value is not None}
    if isinstance(document, list):
        return [-1 if value is None else without_nulls(value) for value in document]
    return document


def answering_from(documents):
    def behave(connection, _):
        while line := read_request(connection):
            body = json.dumps(documents[line.split()[1].decode()]).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    return behave


def everything_told(url, face):
    with open_client(face, url, timeout=20) as client:
        model = client.model("m")
        metadata = model.metadata
        result = model(np.ones((1, 2), np.float32))
        return (
            *(client.server_metadata(), client.models(), client.statistics(), metadata, model.config()),
            *(result.model_name, result.model_version, result.request_id, result.parameters),
            {name: array.tolist() for name, array in result.items()},
        )


@pytest.mark.parametrize("face", ["http", "http-async"])
def test_null_means_the_same_as_leaving_out(serve, face):
    told = everything_told(f"http://{serve(answering_from(WITH_NULLS))}", face)
    assert told == everything_told(f"http://{serve(answering_from(without_nulls(WITH_NULLS)))}", face)
    assert told[-1] == {"y": [1, 2], "z": [b"a"]}


def json_only(connection, _):
    """A server without the binary extension, like MLServer: a model that doubles, in JSON."""
    while True:
        data = b""
        while b"\r\n\r\n" not in data:
            part = connection.recv(65536)
            if not part:
                return
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        path = head.split()[1].decode()
        headers = {line.split(b":")[0].lower(): line.split(b":")[1] for line in head.split(b"\r\n")[1:]}
        while len(body) < int(headers.get(b"content-length", 0)):
            body += connection.recv(65536)
        status, document = answer_in_json(path, headers, body)
        encoded = json.dumps(document).encode()
        connection.sendall(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(encoded)) + encoded)


def answer_in_json(path, headers, body):
    tensors = [{"name": name, "datatype": kind, "shape": [-1, 2]} for name, kind in (("x", "FP32"), ("s", "BYTES"))]
    if path == "/v2":
        return 200, {"name": "other", "version": "1", "extensions": []}
    if path == "/v2/models/m":
        return 200, {"name": "m", "versions": [], "platform": "", "inputs": tensors, "outputs": tensors}
    if path == "/v2/models/m/infer":
        if b"inference-header-content-length" in headers:
            return 400, {"error": "expected JSON"}
        request = json.loads(body)
        outputs = [
            {**tensor, "data": [value * 2 for value in tensor["data"]], "parameters": {"content_type": "x"}}
            for tensor in request["inputs"]
        ]
        return 200, {"model_name": "m", "id": request.get("id", "given"), "outputs": outputs}
    return 404, {"detail": "Not Found"}


def test_a_server_without_the_binary_extension_is_spoken_to_in_json(serve):
    with Client(f"http://{serve(json_only)}", timeout=5) as client:
        model = client.model("m")
        assert model.metadata.max_batch_size is None
        assert not any(spec.optional for spec in model.metadata.inputs)
        result = model(np.array([[0.1, -3e38]], np.float32) / 2, [["ü", b"ab"]])
        assert result["x"].dtype == np.float32
        np.testing.assert_array_equal(result["x"], np.array([[0.1, -3e38]], np.float32))
        assert result["s"].tolist() == [["üü".encode(), b"abab"]]
        for inputs in ({"x": [[1.0, np.nan]], "s": [["", ""]]}, {"x": [[1, 2]], "s": [[b"\xff", ""]]}):
            with pytest.raises(InvalidInput, match="JSON"):
                model.infer(inputs)
        with pytest.raises(ProtocolError, match="does not know this call"):
            client.models()


@pytest.fixture(scope="module")
def typed_server():
    """A gRPC server that answers with typed fields in place of raw bytes, and without Triton's extensions."""
    contents = {
        "BOOL": {"bool_contents": [True, False]},
        "INT8": {"int_contents": [-1, 2]},
        "INT16": {"int_contents": [-1, 2]},
        "INT32": {"int_contents": [-1, 2]},
        "INT64": {"int64_contents": [-(2**63), 2**63 - 1]},
        "UINT8": {"uint_contents": [1, 255]},
        "UINT16": {"uint_contents": [1, 2]},
        "UINT32": {"uint_contents": [1, 2**32 - 1]},
        "UINT64": {"uint64_contents": [1, 2**64 - 1]},
        "FP32": {"fp32_contents": [0.5, -1.5]},
        "FP64": {"fp64_contents": [0.1, 1e300]},
        "BYTES": {"bytes_contents": [b"a\0", b""]},
    }

    class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
        def ModelMetadata(self, request, _):  # noqa: N802
            reply = service_pb2.ModelMetadataResponse(name=request.name, versions=["1"])
            for datatype in contents:
                reply.outputs.add(name=datatype, datatype=datatype, shape=[2])
            reply.outputs.add(name="empty", datatype="FP32", shape=[-1])
            return reply

        def ModelInfer(self, request, _):  # noqa: N802
            reply = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
            for datatype, fields in contents.items():
                output = reply.outputs.add(name=datatype, datatype=datatype, shape=[2])
                for field, values in fields.items():
                    getattr(output.contents, field).extend(values)
            reply.outputs.add(name="empty", datatype="FP32", shape=[0])
            reply.parameters["note"].string_param = "typed"
            if request.id == "mixed":
                reply.raw_output_contents.append(b"")
            return reply

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", contents
    server.stop(None).wait()


def test_typed_contents_are_read_where_a_server_sends_no_raw_ones(typed_server):
    url, contents = typed_server
    with Client(url, timeout=5) as client:
        result = client.model("m").infer({})
        for datatype, fields in contents.items():
            assert result[datatype].tolist() == next(iter(fields.values())), datatype
            assert result[datatype].dtype == TensorSpec("", datatype, ()).numpy_dtype
        assert result["empty"].shape == (0,)
        assert result.parameters == {"note": "typed"}
        with pytest.raises(ProtocolError, match="13 outputs"):
            client.model("m").infer({}, request_id="mixed")


def test_a_server_without_tritons_extensions_tells_no_batch_size(typed_server):
    with Client(typed_server[0], timeout=5) as client:
        assert client.model("m").metadata.max_batch_size is None
        with pytest.raises(ProtocolError, match="does not know this call"):
            client.models()


def test_more_than_one_grpc_message_can_carry_is_refused_before_it_is_made():
    # Without the memory: every element is the same one.
    huge = np.broadcast_to(np.zeros(1, np.float32), (2**29,))
    transport = open_transport(Address.parse("localhost:1"))
    with contextlib.closing(transport), pytest.raises(InvalidInput, match="2 GiB"):
        transport.call(Infer("m", "", (Tensor("x", "FP32", huge),), None, "", {}), Deadline(5))
