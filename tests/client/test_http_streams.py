"""Streams over HTTP from servers that cut, delay or break their events, over both drivers."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import pytest
from client_faces import open_client

from plansmith_client import ClientError

METADATA = {
    "name": "m",
    "versions": ["1"],
    "platform": "",
    "inputs": [{"name": "x", "datatype": "INT32", "shape": [1]}],
    "outputs": [{"name": "y", "datatype": "INT32", "shape": [-1]}],
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(*values: int, end: bytes = b"\n\n") -> bytes:
    return b"data: " + json.dumps({"model_name": "m", "model_version": "1", "y": values}).encode() + end


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


def refusal(status: bytes, text: str) -> bytes:
    body = json.dumps({"error": text}).encode()
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


WHOLE = HEAD + chunk(event(1)) + chunk(event(2, 3)) + chunk(b"")
CASES = {
    "whole": ([WHOLE], [[1], [2, 3]]),
    "byte by byte": ([WHOLE[place : place + 1] for place in range(len(WHOLE))], [[1], [2, 3]]),
    "carriage returns": (
        [HEAD + chunk(event(1, end=b"\r\n\r\n") + event(2, end=b"\r\n\r\n")) + chunk(b"")],
        [[1], [2]],
    ),
    "two lines of data and a comment": (
        [HEAD + chunk(b': hello\ndata: {"model_name": "m",\ndata: "y": 4}\n\n') + chunk(b"")],
        [[4]],
    ),
    "no empty line at the end": ([HEAD + chunk(event(1) + event(2, end=b"")) + chunk(b"")], [[1], [2]]),
    "cut in the middle of an event": ([HEAD + chunk(event(1) + event(2)[:-9]) + chunk(b"")], [[1], "ProtocolError"]),
    "null for what is left out": (
        [HEAD + chunk(b'data: {"model_name": "m", "model_version": null, "id": null, "y": 5}\n\n') + chunk(b"")],
        [[5]],
    ),
    "a version that is no text": (
        [HEAD + chunk(b'data: {"model_name": "m", "model_version": 1, "y": 5}\n\n') + chunk(b"")],
        ["ProtocolError"],
    ),
    "no object": ([HEAD + chunk(b"data: [1]\n\n") + chunk(b"")], ["ProtocolError"]),
    "empty": ([HEAD + chunk(b"")], []),
    "cut off": ([HEAD + chunk(event(1))], [[1], "ServerUnavailable"]),
    "closed at once": ([], ["ServerUnavailable"]),
    "an error of the model": (
        [HEAD + chunk(event(1) + b'data: {"error": "no"}\n\n') + chunk(b"")],
        [[1], "InferenceFailed"],
    ),
    "not JSON": ([HEAD + chunk(b"data: hello\n\n") + chunk(b"")], ["ProtocolError"]),
    "another type": ([HEAD + chunk(b'data: {"model_name": "m", "y": "a"}\n\n') + chunk(b"")], ["ProtocolError"]),
    "not HTTP": ([b"hello\r\n\r\n"], ["ProtocolError"]),
    "overload": ([refusal(b"503 Service Unavailable", "Exceeds maximum queue size")], ["ServerOverloaded"]),
    "refusal": ([refusal(b"400 Bad Request", "wrong shape")], ["InvalidInput"]),
    "silence": ([HEAD + chunk(event(1)), None], [[1], "DeadlineExceeded"]),
}


@contextlib.contextmanager
def scripted(parts):
    """A server that answers questions about its one model, and a stream with these parts; None waits for the client."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection):
        with contextlib.suppress(OSError), connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while request := connection.recv(65536):
                if b"generate_stream" not in request:
                    body = json.dumps({} if b"/config" in request else METADATA).encode()
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                    continue
                for part in parts:
                    if part is None:
                        connection.recv(1)
                    else:
                        connection.sendall(part)
                return

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize("face", ["http", "http-async"])
@pytest.mark.parametrize("case", CASES)
def test_a_stream_means_the_same_to_both_drivers_however_it_comes(face, case):
    parts, expected = CASES[case]
    got = []
    with scripted(parts) as url, open_client(face, url, timeout=20) as client:
        _ = client.model("m").metadata
        timeout = 0.5 if case == "silence" else 20
        try:
            got.extend(result["y"].tolist() for result in client.model("m").stream({"x": [1]}, timeout=timeout))
        except ClientError as error:
            got.append(type(error).__name__)
    assert got == expected


@pytest.mark.parametrize("face", ["http", "http-async"])
def test_a_server_is_not_read_ahead_of_the_caller(face):
    events = [HEAD] + [chunk(event(*range(4000)))] * 3000
    sent = []

    def counted():
        for part in events:
            yield part
            sent.append(part)

    with scripted(counted()) as url, open_client(face, url, timeout=60) as client:
        stream = client.model("m").stream({"x": [1]})
        assert next(stream)["y"].shape == (4000,)
        time.sleep(0.3)
        # What fits into the sockets' buffers, and not all 60 MB.
        assert len(sent) < len(events)
        stream.close()
