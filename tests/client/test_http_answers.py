"""Answers over HTTP, however the network cuts them: both drivers read them alike, or refuse them with a typed error."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import socket
import threading
import zlib

import pytest

from plansmith_client import ClientError, DeadlineExceeded, ProtocolError, ServerUnavailable
from plansmith_client.protocol.operations import ReadServerMetadata
from plansmith_client.transports import open_async_transport, open_transport
from plansmith_client.transports.addresses import Address
from plansmith_client.transports.connections import Connection
from plansmith_client.transports.deadlines import Deadline

BODY = b'{"name": "a", "version": "1", "extensions": []}'
OTHER = b'{"name": "b", "version": "2", "extensions": []}'
LARGEST = 100_000


def answer(body: bytes = BODY, *headers: bytes, status: bytes = b"200 OK", length: bool = True) -> bytes:
    lines = [b"HTTP/1.1 " + status, *headers, *([b"Content-Length: %d" % len(body)] if length else [])]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunked(body: bytes, size: int, trailers: bytes = b"", extension: bytes = b"") -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    framed = b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts)
    return answer(framed + b"0\r\n" + trailers + b"\r\n", b"Transfer-Encoding: chunked", length=False)


def packed(body: bytes, coding: bytes = b"gzip", pack=gzip.compress) -> bytes:
    return answer(pack(body), b"Content-Encoding: " + coding)


def bare_deflate(body: bytes) -> bytes:
    return zlib.compress(body)[2:-4]


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"

# Answers that are read: the name that comes out, and whether the connection is kept.
READ = {
    "length": (answer(), True),
    "a header without a value": (answer(BODY, b"X-Empty:"), True),
    "a header twice": (answer(BODY, b"Server: a", b"server: b"), True),
    "no space after the colon": (answer(BODY, b"Server:a"), True),
    "no reason": (answer(status=b"200 "), True),
    "another reason": (answer(status=b"200 Splendid"), True),
    "chunks": (chunked(BODY, 7), True),
    "chunks of one byte": (chunked(BODY, 1), True),
    "one chunk": (chunked(BODY, 1000), True),
    "chunk extensions": (chunked(BODY, 9, extension=b";a=b"), True),
    "trailers": (chunked(BODY, 7, b"Content-Encoding: gzip\r\nContent-Type: text/html\r\n"), True),
    "upper case chunked": (chunked(BODY, 7).replace(b": chunked", b": Chunked"), True),
    "until the end": (answer(BODY, b"Server: old", length=False), False),
    "version 1.0": (answer().replace(b"1.1", b"1.0"), False),
    "connection: close": (answer(BODY, b"Connection: close"), False),
    "informational first": (CONTINUE + answer(), True),
    "several informational": (CONTINUE + HINTS + CONTINUE + answer(), True),
    "identity": (answer(BODY, b"Content-Encoding: identity"), True),
    "gzip": (packed(BODY), True),
    "x-gzip": (packed(BODY, b"x-gzip"), True),
    "gzip of two members": (packed(BODY, pack=lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:])), True),
    "padded": (answer(BODY + b" " * 70_000), True),
    # The first answer is the answer; what follows it costs the connection.
    "two answers": (answer() + answer(OTHER), False),
    "two answers, the second informational": (answer() + CONTINUE, False),
    "two answers in chunks": (chunked(BODY, 7) + chunked(OTHER, 7), False),
    "an answer and garbage": (answer() + b"garbage", False),
    "an answer and half of another": (answer() + answer(OTHER)[:30], False),
    "an answer and a switch": (
        answer() + b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        False,
    ),
    "a longer body than its length": (answer() + b"}}}}", False),
}

BOMB = gzip.compress(b" " * (LARGEST * 50) + BODY)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\n"

REFUSED = {
    "an unknown length": (answer(BODY, b"Content-Length: x", length=False), ProtocolError),
    "a negative length": (answer(BODY, b"Content-Length: -1", length=False), ProtocolError),
    "two lengths": (answer(BODY, b"Content-Length: 1"), ProtocolError),
    "a length and chunks": (
        chunked(BODY, 7).replace(b"chunked\r\n", b"chunked\r\nContent-Length: 5\r\n"),
        ProtocolError,
    ),
    "a length beyond all numbers": (answer(BODY, b"Content-Length: 9" + b"9" * 40, length=False), ProtocolError),
    "a bad chunk": (answer(b"zz\r\n", b"Transfer-Encoding: chunked", length=False), ProtocolError),
    "a chunk without its end": (chunked(BODY, 7).replace(b"\r\n0", b"xx0"), ProtocolError),
    "another transfer coding": (answer(BODY, b"Transfer-Encoding: gzip", length=False), ProtocolError),
    "version 9.9": (b"HTTP/9.9 200 OK\r\n\r\n", ProtocolError),
    "HTTP/2's preface": (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", ProtocolError),
    "another protocol": (b"SSH-2.0-OpenSSH_9.9\r\n", ProtocolError),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", ProtocolError),
    "a header with a NUL": (answer(BODY, b"X: a\0b"), ProtocolError),
    "a header without a colon": (answer(BODY, b"nonsense here"), ProtocolError),
    "a space before the colon": (answer(BODY, b"Server : a"), ProtocolError),
    "a switch": (SWITCH + b"\r\n" + answer(), ProtocolError),
    "a switch with its headers": (SWITCH + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n", ProtocolError),
    "not gzip": (answer(BODY, b"Content-Encoding: gzip"), ProtocolError),
    "cut gzip": (answer(gzip.compress(BODY)[:-9], b"Content-Encoding: gzip"), ProtocolError),
    "gzip and garbage": (answer(gzip.compress(BODY) + b"garbage", b"Content-Encoding: gzip"), ProtocolError),
    "brotli": (packed(BODY, b"br"), ProtocolError),
    "deflate": (packed(BODY, b"deflate", zlib.compress), ProtocolError),
    "gzip in gzip": (packed(BODY, b"gzip, gzip"), ProtocolError),
    "a bomb": (answer(BOMB, b"Content-Encoding: gzip"), ProtocolError),
    "too large": (answer(b" " * LARGEST + BODY), ProtocolError),
    "too large in chunks": (chunked(b" " * LARGEST + BODY, 50_000), ProtocolError),
    "too large without a length": (answer(b" " * LARGEST + BODY, length=False), ProtocolError),
    "headers without end": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 600_000, ProtocolError),
    "many headers": (answer(BODY, *(b"X-%d: y" % number for number in range(20_000))), ProtocolError),
    "not JSON": (answer(b"<html></html>", b"Content-Type: text/html"), ProtocolError),
    "an empty answer": (answer(b""), ProtocolError),
    "nothing": (b"", ServerUnavailable),
    "one byte": (b"H", ServerUnavailable),
    "half a status": (b"HTTP/1.1 20", ServerUnavailable),
    "half a header": (b"HTTP/1.1 200 OK\r\nContent-Le", ServerUnavailable),
    "half a body": (answer()[:-9], ServerUnavailable),
    "half a chunk": (chunked(BODY, 7)[:-20], ServerUnavailable),
    "no last chunk": (chunked(BODY, 7)[:-5], ServerUnavailable),
    "informational only": (CONTINUE, ServerUnavailable),
    "overload": (answer(b'{"error": "wait"}', status=b"503 Service Unavailable"), ServerUnavailable),
}


class ScriptedServer:
    """Answers every request with the same parts, each in a packet of its own, and counts connections."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.ends = False
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for thread in self._threads[1:]:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while connection.recv(65536):
                for part in self.parts:
                    connection.sendall(part)
                if self.ends:
                    return


@pytest.fixture
def server():
    scripted = ScriptedServer()
    yield scripted
    scripted.stop()


def outcome(work) -> str:
    try:
        return work().name
    except ClientError as error:
        return type(error).__name__


def ask(url: str, connection: Connection, calls: int = 1) -> list[str]:
    transport = open_transport(Address.parse(url), connection)
    try:
        return [outcome(lambda: transport.call(ReadServerMetadata(), Deadline(30))) for _ in range(calls)]
    finally:
        transport.close()


def ask_in_a_loop(url: str, connection: Connection, calls: int = 1) -> list[str]:
    async def ask_all() -> list[str]:
        transport = open_async_transport(Address.parse(url), connection)
        outcomes = []
        for _ in range(calls):
            try:
                outcomes.append((await transport.call(ReadServerMetadata(), Deadline(30))).name)
            except ClientError as error:
                outcomes.append(type(error).__name__)
        await transport.close()
        return outcomes

    return asyncio.run(ask_all())


DRIVERS = {"blocking": ask, "event loop": ask_in_a_loop}
ACCEPTING = Connection(compression="gzip", largest_answer=LARGEST)


def splits(data: bytes) -> dict[str, list[bytes]]:
    """The same bytes in other packets: at once, cut at places of every kind, the first ones singly."""
    ends = [
        data.find(b"\r\n") + 1,
        data.find(b"\r\n\r\n") + 2,
        data.find(b"\r\n\r\n") + 4,
        len(data) // 2,
        len(data) - 1,
    ]
    cuts = sorted({end for end in ends if 0 < end < len(data)})
    edges = list(itertools.pairwise((0, *cuts, len(data))))
    return {
        "at once": [data],
        "cut": [data[start:end] for start, end in edges],
        "single bytes": [data[place : place + 1] for place in range(min(len(data), 200))] + [data[200:]],
    }


@pytest.mark.parametrize("split", ["at once", "cut", "single bytes"])
@pytest.mark.parametrize("kind", [*READ, *REFUSED])
def test_an_answer_means_the_same_to_both_drivers_however_it_is_cut(server, kind, split):
    data, expected = READ[kind] if kind in READ else REFUSED[kind]
    server.parts = [part for part in splits(data)[split] if part]
    server.ends = True
    wanted = "a" if kind in READ else expected.__name__
    for driver in DRIVERS.values():
        assert driver(server.url, ACCEPTING) == [wanted]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("kind", READ)
def test_a_connection_is_kept_only_after_exactly_one_answer(server, kind, driver):
    data, kept = READ[kind]
    server.parts = [data]
    # Where the server has to end the connection it does so itself.
    server.ends = kind in ("until the end", "version 1.0")
    assert DRIVERS[driver](server.url, ACCEPTING, 3) == ["a", "a", "a"]
    assert server.connections == (1 if kept else 3)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("pack", [zlib.compress, bare_deflate])
def test_deflate_is_read_with_its_header_and_without(server, pack, driver):
    server.parts = [packed(BODY, b"deflate", pack)]
    assert DRIVERS[driver](server.url, Connection(compression="deflate")) == ["a"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_compression_that_was_not_asked_for_is_refused(server, driver):
    server.parts = [answer(BOMB, b"Content-Encoding: gzip")]
    assert DRIVERS[driver](server.url, Connection()) == ["ProtocolError"]


class ClosingServer(ScriptedServer):
    """Answers the first request of each connection, and ends it when the second one has come."""

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(65536)
            connection.sendall(answer())
            connection.recv(65536)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_kept_connection_that_breaks_before_an_answer_is_replaced_at_once(driver):
    closing = ClosingServer()
    try:
        assert DRIVERS[driver](closing.url, Connection(), 4) == ["a"] * 4
        assert closing.connections == 4
    finally:
        closing.stop()


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_endless_answer_ends_at_the_largest_that_is_accepted(driver):
    class Endless(ScriptedServer):
        def _serve(self, connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    connection.sendall(b" " * 65536)

    endless = Endless()
    try:
        assert DRIVERS[driver](endless.url, ACCEPTING) == ["ProtocolError"]
    finally:
        endless.stop()


def test_the_deadline_bounds_an_exchange_of_an_event_loop(server):
    server.parts = [b"HTTP/1.1 200 OK\r\n"]

    async def late() -> None:
        transport = open_async_transport(Address.parse(server.url))
        with pytest.raises(DeadlineExceeded):
            await transport.call(ReadServerMetadata(), Deadline(0.2))
        await transport.close()

    asyncio.run(late())


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://localhost", "localhost"),
        ("https://localhost:443", "localhost"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://[::1]", "[::1]"),
    ],
)
def test_the_host_header_names_the_port_and_brackets_ipv6(url, host):
    assert Address.parse(url).authority == host
