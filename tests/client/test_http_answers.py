"""Answers over HTTP, however the network cuts them: both drivers read them alike, or refuse them with a typed error."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import socket
import struct
import threading
import time
import warnings
import zlib

import numpy as np
import pytest
from hostile_http import BODY, BOMB, LARGEST, READ, REFUSED, answer, bare_deflate, packed
from hypothesis import given, settings
from hypothesis import strategies as st

from plansmith_client import Client, ClientError, DeadlineExceeded
from plansmith_client.protocol.operations import Infer, ReadServerMetadata, Tensor
from plansmith_client.transports import open_async_transport, open_transport
from plansmith_client.transports.addresses import Address
from plansmith_client.transports.connections import Connection
from plansmith_client.transports.deadlines import Deadline
from plansmith_client.transports.http.aio_connections import AioConnection
from plansmith_client.transports.http.calls import HttpCalls
from plansmith_client.transports.http.connections import SocketConnection
from plansmith_client.transports.http.responses import ResponseReader


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


TABLE = {
    **{kind: ("a", *row) for kind, row in READ.items()},
    **{kind: (row[1].__name__, row[0], None) for kind, row in REFUSED.items()},
}
# An answer of this length is cut at each of its places.
SHORT = 220


class Pieces(socket.socket):
    """A connected socket that receives these pieces, exactly as they are cut, and then the end."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self._pieces = iter(pieces)

    def sendall(self, _: bytes) -> None:
        """The question is of no concern."""

    def recv(self, _: int) -> bytes:
        return next(self._pieces, b"")


class AioPieces(asyncio.Transport):
    """The same for an event loop."""

    def __init__(self, pieces: list[bytes], connection: AioConnection) -> None:
        super().__init__()
        self._pieces, self._connection = pieces, connection
        connection.connection_made(self)

    def write(self, _: bytes) -> None:
        asyncio.get_running_loop().call_soon(self._answer)

    def _answer(self) -> None:
        for piece in self._pieces:
            self._connection.data_received(piece)
        self._connection.eof_received()

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        """Nothing is open."""


QUESTION = ReadServerMetadata()
NOWHERE = Address.parse("http://nowhere:1")


def blocking_outcome(pieces: list[bytes]) -> tuple[str, bool]:
    """The name that comes out, or the error; and whether the connection could carry another request."""
    calls = HttpCalls(NOWHERE, ACCEPTING).call(QUESTION, Deadline(60), {})
    message = next(calls)
    with Pieces(pieces) as raw:
        connection = SocketConnection(raw)
        try:
            calls.send(connection.exchange(message, Deadline(60)))
        except StopIteration as end:
            return end.value.name, connection.is_reusable
        except ClientError as error:
            return type(error).__name__, connection.is_reusable
        except Exception as error:  # noqa: BLE001 - as the transport does
            return raised(calls, error), False
    raise AssertionError


async def aio_outcome(pieces: list[bytes]) -> tuple[str, bool]:
    calls = HttpCalls(NOWHERE, ACCEPTING).call(QUESTION, Deadline(60), {})
    message = next(calls)
    connection = AioConnection()
    AioPieces(pieces, connection)
    try:
        response = await connection.exchange(message, Deadline(60))
    except Exception as error:  # noqa: BLE001 - as the transport does
        return raised(calls, error), False
    try:
        calls.send(response)
    except StopIteration as end:
        return end.value.name, connection.is_reusable
    except ClientError as error:
        return type(error).__name__, connection.is_reusable
    raise AssertionError


def raised(calls, error: Exception) -> str:
    try:
        calls.throw(error)
    except ClientError as typed:
        return type(typed).__name__
    raise AssertionError


def cut(data: bytes, places: tuple[int, ...] | list[int]) -> list[bytes]:
    edges = (0, *sorted({place for place in places if 0 < place < len(data)}), len(data))
    return [data[start:end] for start, end in itertools.pairwise(edges) if end > start]


def ways(data: bytes) -> list[list[bytes]]:
    """The same bytes at once, singly, and, where they are few, cut in two at every place."""
    singly = [data[place : place + 1] for place in range(min(len(data), 2000))] + [data[2000:]]
    every = range(1, len(data)) if len(data) <= SHORT else (data.find(b"\r\n\r\n") + 2, len(data) // 2)
    return [[data], [piece for piece in singly if piece], *(cut(data, (place,)) for place in every)]


def test_there_are_more_than_two_hundred_kinds_of_answers():
    assert len(TABLE) >= 200


@pytest.mark.parametrize("kind", TABLE)
def test_an_answer_means_the_same_to_both_drivers_wherever_it_is_cut(kind):
    expected, data, _ = TABLE[kind]

    async def all_ways() -> list[tuple[str, bool]]:
        return [await aio_outcome(pieces) for pieces in ways(data)]

    blocking = [blocking_outcome(pieces) for pieces in ways(data)]
    assert {outcome for outcome, _ in blocking} == {expected}
    assert [outcome for outcome, _ in asyncio.run(all_ways())] == [outcome for outcome, _ in blocking]


@given(st.lists(st.sampled_from(sorted(TABLE)), min_size=1, max_size=3), st.data())
@settings(max_examples=400, deadline=None)
def test_answers_in_a_row_cut_anywhere_mean_the_same_to_both_drivers(kinds, data):
    whole = b"".join(TABLE[kind][1] for kind in kinds)
    pieces = cut(whole, data.draw(st.lists(st.integers(0, min(len(whole), 3000)), max_size=12)))
    expected, _, kept = TABLE[kinds[0]]
    outcome, is_reusable = blocking_outcome(pieces)
    assert asyncio.run(aio_outcome(pieces))[0] == outcome
    if kept:
        # The first answer is the answer; what came with it is never that of another question.
        assert outcome == expected
        # Only a reader to whom no byte of the next one came can think that there is none.
        ends = set(itertools.accumulate(map(len, pieces)))
        assert not is_reusable or len(TABLE[kinds[0]][1]) in ends


@pytest.mark.parametrize("kind", TABLE)
def test_over_the_network_an_answer_means_the_same(server, kind):
    expected, data, _ = TABLE[kind]
    server.parts = cut(data, (data.find(b"\r\n\r\n") + 2, len(data) - 1))
    server.ends = True
    for driver in DRIVERS.values():
        assert driver(server.url, ACCEPTING) == [expected]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("kind", READ)
def test_a_connection_is_kept_only_after_exactly_one_answer(server, kind, driver):
    data, kept = READ[kind]
    server.parts = [data]
    # Where the server has to end the connection it does so itself.
    server.ends = kind in ("until the end", "version 1.0", "Python's http.server")
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
def test_a_kept_connection_that_the_server_ends_between_two_calls_is_replaced(server, driver):
    server.parts, server.ends = [answer()], True
    assert DRIVERS[driver](server.url, Connection(), 5) == ["a"] * 5
    assert server.connections == 5


class ResettingServer(ScriptedServer):
    """Answers one request of each connection, and resets it."""

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(65536)
            connection.sendall(answer())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_nothing_more_is_written_to_a_connection_that_was_reset(caplog):
    resetting = ResettingServer()
    large = Infer("m", "", (Tensor("x", "UINT8", np.zeros(2**23, np.uint8)),), None, "", {})

    async def ask_twice() -> None:
        transport = open_async_transport(Address.parse(resetting.url))
        transport._calls.speaks_binary = True
        await transport.call(ReadServerMetadata(), Deadline(30))
        # The loop does not see the reset before the next request is written.
        time.sleep(0.2)  # noqa: ASYNC251
        with pytest.raises(ClientError):
            await transport.call(large, Deadline(30))
        await transport.close()

    try:
        asyncio.run(ask_twice())
    finally:
        resetting.stop()
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_calls_at_once_have_connections_of_their_own_and_share_them_later(server):
    server.parts = [answer()]
    with Client(server.url, timeout=20) as client:
        for _ in range(3):
            threads = [threading.Thread(target=client.server_metadata) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert server.connections <= 8


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


class EndsAtLook(Deadline):
    """A deadline that has passed when it is looked at for the nth time."""

    def __init__(self, looks: int) -> None:
        super().__init__(60)
        self._looks = looks

    def remaining(self) -> float | None:
        self._looks -= 1
        if self._looks < 0:
            raise DeadlineExceeded("has passed")
        return super().remaining()


def test_a_deadline_that_passes_at_any_moment_leaves_no_connection_open(server):
    server.parts = [READ["nginx"][0]]

    async def given_up_at(look: int) -> tuple[str, list[str]]:
        problems = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context["message"]))
        transport = open_async_transport(Address.parse(server.url), ACCEPTING)
        try:
            outcome = (await transport.call(ReadServerMetadata(), EndsAtLook(look))).name
        except DeadlineExceeded:
            outcome = "given up"
        await transport.close()
        for _ in range(10):
            await asyncio.sleep(0.01)
        gc.collect()
        return outcome, problems + [task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}]

    # What earlier tests left is not told of here.
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outcomes = [asyncio.run(given_up_at(look)) for look in range(8)]
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
    assert [left for _, left in outcomes] == [[]] * 8
    assert (outcomes[0][0], outcomes[-1][0]) == ("given up", "a")


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
        ("http://[fe80::1%eth0]:8000", "[fe80::1]:8000"),
    ],
)
def test_the_host_header_names_the_port_and_brackets_ipv6(url, host):
    assert Address.parse(url).authority == host


def test_ctrl_c_while_an_answer_is_read_is_not_taken_for_a_malformed_one(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ResponseReader, "on_header", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ResponseReader("identity", 100).feed(answer())
