"""The HTTP sender of load tests, against servers that answer in every way that a server may."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import pytest

from peers.bodies import Tensor, decode_body, encode_body
from plansmith_perf.load.encoded_requests import EncodedRequest
from plansmith_perf.load.http_sender import HttpSender

OUTPUTS = [Tensor("y", "float32", (-1, 2)), Tensor("z", "int64", (-1,))]
RIGHT = {"y": np.array([[1, 2]], np.float32), "z": np.array([7])}
BODY, HEADERS = encode_body("raw", OUTPUTS, RIGHT)
SHAPES = f"x-shapes: {HEADERS['x-shapes']}\r\n"
WITH_LENGTH = f"HTTP/1.1 200 OK\r\n{SHAPES}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
CHUNKED = (
    f"HTTP/1.1 200 OK\r\n{SHAPES}Transfer-Encoding: chunked\r\n\r\n4\r\n".encode()
    + BODY[:4]
    + f"\r\n{len(BODY) - 4:x};extension\r\n".encode()
    + BODY[4:]
    + b"\r\n0\r\n\r\n"
)
UNTIL_THE_END = f"HTTP/1.1 200 OK\r\n{SHAPES}Connection: close\r\n\r\n".encode() + BODY
UNTIL_THE_END_UNSAID = f"HTTP/1.0 200 OK\r\n{SHAPES}\r\n".encode() + BODY
OTHER = encode_body("raw", OUTPUTS, {**RIGHT, "y": RIGHT["y"] + 1})[0]


@asynccontextmanager
async def answering(*replies: bytes | None):
    """A server that gives these replies in turn, the last one for ever; None keeps silent. Counts its connections.

    What it says is waited for as long as it takes, silence for half a second.
    """
    connections = []
    turns = iter(range(10**9))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                reply = replies[min(next(turns), len(replies) - 1)]
                if reply is None:
                    await asyncio.sleep(60)
                writer.write(reply)
                if b"Connection: close" in reply or b"HTTP/1.0" in reply or not reply:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sender = HttpSender(
        f"http://127.0.0.1:{port}/predict",
        lambda headers, body: decode_body("raw", OUTPUTS, headers, body),
        timeout=0.5 if None in replies else 60.0,
        tolerance=1e-3,
    )
    try:
        yield sender, connections
    finally:
        await sender.close()
        for writer in connections:
            writer.close()
        server.close()


def outcomes(*replies: bytes | None, times: int) -> tuple[list[str], int]:
    """What the sender says of `times` requests, one after the other, and how many connections it took."""

    async def run() -> tuple[list[str], int]:
        async with answering(*replies) as (sender, connections):
            request = EncodedRequest(BODY, HEADERS, RIGHT)
            return [(await sender.send(request))[1] for _ in range(times)], len(connections)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("reply", "connections"), [(WITH_LENGTH, 1), (CHUNKED, 1), (UNTIL_THE_END, 3), (UNTIL_THE_END_UNSAID, 3)]
)
def test_every_form_of_an_answer_is_read_whole_and_connections_are_kept_where_they_may_be(reply, connections):
    assert outcomes(reply, times=3) == (["", "", ""], connections)


def test_a_wrong_answer_is_told_also_after_right_ones():
    wrong = WITH_LENGTH.replace(BODY, OTHER)
    said, _ = outcomes(WITH_LENGTH, wrong, WITH_LENGTH, times=3)
    assert [bool(outcome) for outcome in said] == [False, True, False]
    assert said[1].startswith("WRONG ANSWER: output 'y' is off by")


def test_an_empty_answer_is_wrong_also_before_a_right_one():
    said, _ = outcomes(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", WITH_LENGTH, times=2)
    assert said[0].startswith("WRONG ANSWER")
    assert said[1] == ""


def test_a_body_that_is_no_answer_is_wrong():
    said, _ = outcomes(WITH_LENGTH.replace(SHAPES.encode(), b""), times=1)
    assert said[0].startswith("WRONG ANSWER: the answer is no raw body")


def test_an_error_of_the_server_is_told_and_the_next_request_goes_on():
    error = b"HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nbusy\n"
    assert outcomes(error, WITH_LENGTH, times=2) == (["HTTP 503: busy", ""], 1)


def test_silence_is_a_timeout_and_its_connection_is_not_used_again():
    said, connections = outcomes(None, WITH_LENGTH, times=2)
    assert said[0].startswith("TIMEOUT")
    assert (said[1], connections) == ("", 2)


def test_a_server_that_hangs_up_or_talks_nonsense_is_an_error():
    assert "IncompleteReadError" in outcomes(b"", times=1)[0][0]
    assert outcomes(b"HTTP/1.0\r\n\r\n", times=1)[0][0].startswith("IndexError")
    assert outcomes(b"HTTP/1.1 what\r\nContent-Length: 0\r\n\r\n", times=1)[0][0].startswith("ValueError")


def test_a_connection_that_the_server_closed_between_two_requests_is_not_used_again():
    async def run() -> list[str]:
        async with answering(WITH_LENGTH) as (sender, connections):
            request = EncodedRequest(BODY, HEADERS, RIGHT)
            _, before = await sender.send(request)
            connections[0].close()
            await asyncio.sleep(0.1)
            _, after = await sender.send(request)
            return [before, after]

    assert asyncio.run(run()) == ["", ""]


def test_nobody_at_the_address_is_an_error():
    async def run() -> str:
        sender = HttpSender("http://127.0.0.1:1/", lambda _, __: {}, timeout=1, tolerance=0)
        return (await sender.send(EncodedRequest(BODY, HEADERS, RIGHT)))[1]

    assert "ConnectionRefusedError" in asyncio.run(run())
