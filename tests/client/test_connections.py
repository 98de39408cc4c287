"""The HTTP connections of the client: kept, given up, and read however an answer is framed."""

from __future__ import annotations

import gzip
import socket
import threading

import pytest
from fault_proxy import fault_proxy

from plansmith_client import Client, ClientError, ProtocolError, ServerUnavailable

BODY = b'{"name": "a", "version": "1"}'


@pytest.fixture
def answering():
    """Serves these bytes to one request after another on a connection; counts connections; closes where told."""
    stack = []

    def start(answer: bytes, *, close: bool = False):
        listener = socket.create_server(("127.0.0.1", 0))
        state = {"connections": 0}

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                state["connections"] += 1
                with connection:
                    while connection.recv(65536):
                        connection.sendall(answer)
                        if close:
                            break

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        stack.append(listener)
        state["url"] = f"http://127.0.0.1:{listener.getsockname()[1]}"
        return state

    yield start
    for listener in stack:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def framed(headers: bytes, body: bytes = BODY) -> bytes:
    return b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n\r\n" + body


LENGTH = b"Content-Length: %d" % len(BODY)
PACKED = gzip.compress(BODY)
CHUNKS = b"5\r\n" + BODY[:5] + b"\r\n%x\r\n" % (len(BODY) - 5) + BODY[5:] + b"\r\n0\r\n\r\n"
FRAMES = {
    "length": (framed(LENGTH), False),
    "chunks": (framed(b"Transfer-Encoding: chunked", CHUNKS), False),
    "end of the connection": (framed(b"Server: old"), True),
    "gzip": (framed(b"Content-Encoding: gzip\r\nContent-Length: %d" % len(PACKED), PACKED), False),
    "informational first": (b"HTTP/1.1 100 Continue\r\n\r\n" + framed(LENGTH), False),
    "version 1.0": (b"HTTP/1.0 200 OK\r\n" + LENGTH + b"\r\n\r\n" + BODY, True),
}


@pytest.mark.parametrize("frame", FRAMES)
def test_answers_are_read_however_they_are_framed(answering, frame):
    answer, close = FRAMES[frame]
    with Client(answering(answer, close=close)["url"], timeout=10, compression="gzip") as client:
        for _ in range(3):
            assert client.server_metadata().name == "a"


def test_a_connection_is_kept_for_the_next_call(answering):
    server = answering(framed(LENGTH))
    with Client(server["url"], timeout=10) as client:
        for _ in range(10):
            client.server_metadata()
    assert server["connections"] == 1


@pytest.mark.parametrize("header", [b"Connection: close\r\n", b""])
def test_a_connection_that_the_server_closes_is_replaced_without_an_error(answering, header):
    server = answering(framed(header + LENGTH), close=True)
    with Client(server["url"], timeout=10, retries=0) as client:
        for _ in range(5):
            client.server_metadata()
            # The end of the connection has to arrive before it can be noticed.
            threading.Event().wait(0.05)
    assert server["connections"] == 5


def test_calls_at_once_have_connections_of_their_own_and_share_them_later(committed_server):
    with fault_proxy(int(committed_server.http_url.rpartition(":")[2])) as counting:
        with Client(f"http://{counting.target}", timeout=20) as client:
            for _ in range(3):
                threads = [threading.Thread(target=client.server_metadata) for _ in range(8)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
        assert counting.connections <= 8


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (framed(b"Content-Length: x"), ProtocolError),
        (framed(b"Transfer-Encoding: chunked", b"zz\r\n"), ProtocolError),
        (framed(b"Content-Encoding: gzip\r\n" + LENGTH), ProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", ProtocolError),
        (b"HTTP/9.9 200 OK\r\n\r\n", ProtocolError),
        (framed(b"Content-Length: 1000"), ServerUnavailable),
        (b"HTTP/1.1 200", ServerUnavailable),
        (b"H", ServerUnavailable),
        (b"", ServerUnavailable),
    ],
)
def test_answers_that_are_broken_are_told_from_those_that_are_cut(answering, answer, error):
    with Client(answering(answer, close=True)["url"], timeout=10, retries=0) as client:
        with pytest.raises(ClientError) as caught:
            client.server_metadata()
        assert type(caught.value) is error
