"""The gRPC sender of load tests, against gRPC's own server set up in every way that servers are, and against bytes."""

from __future__ import annotations

import asyncio
import struct
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)
from nginx_proxy import make_certificates
from tritonclient.grpc import service_pb2

from plansmith_client.transports.addresses import Address
from plansmith_perf.load.encoded_requests import EncodedRequest
from plansmith_perf.load.grpc_sender import GrpcSender
from plansmith_perf.load.http2 import Http2Connection

PREFACE = 24


def message(values: np.ndarray) -> bytes:
    """An answer with one output, y."""
    response = service_pb2.ModelInferResponse(model_name="m", model_version="1")
    response.outputs.add(name="y", datatype="FP32", shape=values.shape)
    response.raw_output_contents.append(values.tobytes())
    return response.SerializeToString()


VALUES = np.array([[1, 2, 3]], np.float32)
RIGHT = message(VALUES)
LARGE = np.arange(1_500_000, dtype=np.float32).reshape(1, -1)


def request(body: bytes = b"what is y?", values: np.ndarray = VALUES) -> EncodedRequest:
    return EncodedRequest(body, {}, {"y": values})


class Answering:
    """A server of gRPC that answers with `answer(number, body, context)`, and keeps who asks, and their deadlines."""

    def __init__(self, answer):
        self.answer = answer
        self.peers: set[str] = set()
        self.remaining: list[float] = []
        self.number = 0

    async def handle(self, body, context):
        self.peers.add(context.peer())
        self.remaining.append(context.time_remaining())
        self.number += 1
        return await self.answer(self.number, body, context)

    def server(self, options=(), port=0, credentials=None):
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), *options])
        handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(self.handle)}
        server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)]
        )
        address = f"127.0.0.1:{port}"
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        return server, port


@asynccontextmanager
async def sender_for(port: int, *, scheme: str = "grpc", seconds: float = 5.0):
    sender = GrpcSender(Address.parse(f"{scheme}://127.0.0.1:{port}"), timeout=seconds, tolerance=1e-3)
    try:
        yield sender
    finally:
        await sender.close()


def outcomes(answer, *, options=(), requests=(), seconds=5.0, together=False):
    """What the sender says of each request, and the server's notes."""
    served = Answering(answer)

    async def run():
        server, port = served.server(options)
        await server.start()
        try:
            async with sender_for(port, seconds=seconds) as sender:
                if together:
                    return [said for _, said in await asyncio.gather(*map(sender.send, requests))]
                return [(await sender.send(each))[1] for each in requests]
        finally:
            await server.stop(None)

    return asyncio.run(run()), served


async def right(number, body, context):
    return RIGHT


@pytest.mark.parametrize(
    "options",
    [
        (),
        (("grpc.http2.hpack_table_size.decoder", 0),),
        (("grpc.http2.hpack_table_size.decoder", 100),),
        (("grpc.http2.hpack_table_size.encoder", 0),),
        (("grpc.http2.max_frame_size", 16777215),),
    ],
)
def test_many_requests_in_flight_are_answered_over_one_connection_whatever_the_server_limits(options):
    said, served = outcomes(right, options=options, requests=[request() for _ in range(100)], together=True)
    assert said == [""] * 100
    assert len(served.peers) == 1


def test_connections_are_added_where_the_server_limits_the_requests_on_each():
    async def slow(number, body, context):
        await asyncio.sleep(0.2)
        return RIGHT

    options = (("grpc.max_concurrent_streams", 2),)
    said, served = outcomes(slow, options=options, requests=[request() for _ in range(6)], together=True)
    assert said == [""] * 6
    assert len(served.peers) == 3


def test_large_messages_go_both_ways_as_the_windows_of_both_allow():
    async def echo(number, body, context):
        await asyncio.sleep(0.05)
        return body

    requests = [request(message(LARGE + number), LARGE + number) for number in range(6)]
    said, _ = outcomes(echo, requests=requests * 2, together=True, seconds=30)
    assert said == [""] * 12


def test_a_wrong_answer_is_told_also_after_right_ones():
    async def wrong_once(number, body, context):
        return message(VALUES + 1) if number == 2 else RIGHT

    one = request()
    said, _ = outcomes(wrong_once, requests=[one] * 3)
    assert [bool(outcome) for outcome in said] == [False, True, False]
    assert said[1].startswith("WRONG ANSWER: output 'y' is off by")


def test_an_answer_that_is_no_message_is_wrong():
    async def nonsense(number, body, context):
        return b"\xff\xff\xff"

    assert outcomes(nonsense, requests=[request()])[0][0].startswith("WRONG ANSWER: ")


def test_a_status_is_told_by_name_and_the_next_request_goes_on():
    async def full_once(number, body, context):
        if number == 1:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is 100 % full: später")
        return RIGHT

    said, served = outcomes(full_once, requests=[request()] * 2)
    assert said == ["RESOURCE_EXHAUSTED: the queue is 100 % full: später", ""]
    assert len(served.peers) == 1


def test_silence_ends_at_the_deadline_which_the_server_was_told_and_the_connection_goes_on():
    async def silent_once(number, body, context):
        if number == 1:
            await asyncio.sleep(60)
        return RIGHT

    said, served = outcomes(silent_once, requests=[request()] * 2, seconds=0.5)
    assert said[0].startswith("DEADLINE_EXCEEDED: no answer within")
    assert said[1] == ""
    assert len(served.peers) == 1
    assert all(0 < remaining < 0.6 for remaining in served.remaining)


def test_a_server_that_went_away_is_an_error_until_it_is_back():
    async def run():
        served = Answering(right)
        server, port = served.server()
        await server.start()
        async with sender_for(port) as sender:
            said = [(await sender.send(request()))[1]]
            await server.stop(None)
            said.append((await sender.send(request()))[1])
            again, _ = served.server(port=port)
            await again.start()
            said.append((await sender.send(request()))[1])
            await again.stop(None)
        return said

    before, gone, after = asyncio.run(run())
    assert (before, after) == ("", "")
    assert gone.startswith("UNAVAILABLE: ")


def test_requests_under_way_when_the_server_stops_fail_at_once():
    async def run():
        async def silent(number, body, context):
            await asyncio.sleep(60)

        server, port = Answering(silent).server()
        await server.start()
        async with sender_for(port, seconds=50) as sender:
            asked = asyncio.gather(*(sender.send(request()) for _ in range(3)))
            await asyncio.sleep(0.3)
            await server.stop(None)
            return [said for _, said in await asyncio.wait_for(asked, 20)]

    assert all(said.startswith(("UNAVAILABLE: ", "CANCELLED")) for said in asyncio.run(run()))


def test_requests_that_wait_for_a_connection_all_end_at_their_own_deadline():
    async def run():
        async def silent(reader, writer):
            begun.append(asyncio.current_task())
            await reader.read()
            writer.close()

        begun: list[asyncio.Task] = []
        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        async with sender_for(server.sockets[0].getsockname()[1], seconds=0.5) as sender:
            # One after the other they would take ten seconds.
            said = await asyncio.wait_for(asyncio.gather(*(sender.send(request()) for _ in range(20))), 5)
        server.close()
        await asyncio.wait_for(asyncio.gather(*begun), 20)
        return {outcome for _, outcome in said}

    (said,) = asyncio.run(run())
    assert said.startswith("DEADLINE_EXCEEDED")


def test_nobody_at_the_address_is_an_error():
    async def run():
        async with sender_for(1) as sender:
            return (await sender.send(request()))[1]

    said = asyncio.run(run())
    assert said.startswith("UNAVAILABLE: ")
    assert "refused" in said.lower() or "Connect call failed" in said


def test_over_tls_the_certificate_must_be_trusted(tmp_path, monkeypatch):
    make_certificates(tmp_path)
    pair = (tmp_path / "server.key").read_bytes(), (tmp_path / "server.pem").read_bytes()

    async def run():
        served = Answering(right)
        server, port = served.server(credentials=grpc.ssl_server_credentials([pair]))
        await server.start()
        async with sender_for(port, scheme="grpcs") as sender:
            _, untrusted = await sender.send(request())
        monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(tmp_path / "ca.pem"))
        async with sender_for(port, scheme="grpcs") as sender:
            trusted = [(await sender.send(request()))[1] for _ in range(3)]
        await server.stop(None)
        return untrusted, trusted

    untrusted, trusted = asyncio.run(run())
    assert untrusted.startswith("UNAVAILABLE: ")
    assert "certificate" in untrusted.lower()
    assert trusted == [""] * 3


def replying(reply, *, seconds=2.0, settings=({},)):
    """What the sender says of a request to a server that answers with `reply(stream)`, frames as bytes."""

    async def run():
        async def serve(reader, writer):
            try:
                await reader.readexactly(PREFACE)
                for each in settings:
                    writer.write(SettingsFrame(settings=each).serialize())
                while not isinstance(frame := await read_frame(reader), DataFrame):
                    received.append(frame)
                for part in reply(frame.stream_id):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
                while True:
                    received.append(await read_frame(reader))
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.close()

        received: list[Frame] = []
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with sender_for(server.sockets[0].getsockname()[1], seconds=seconds) as sender:
            _, said = await sender.send(request())
            await asyncio.sleep(0.05)
        server.close()
        return said, received

    return asyncio.run(run())


async def read_frame(reader) -> Frame:
    header = await reader.readexactly(9)
    frame, size = Frame.parse_frame_header(memoryview(header))
    frame.parse_body(memoryview(await reader.readexactly(size)))
    return frame


def right_frames(stream: int) -> list[bytes]:
    """A right answer in padded frames, headers in two, among frames of other kinds."""
    encoder = Encoder()
    head = encoder.encode([(":status", "200"), ("content-type", "application/grpc")])
    body = struct.pack(">BI", 0, len(RIGHT)) + RIGHT
    return [
        HeadersFrame(stream, data=head[:2], pad_length=3, flags=["PADDED", "PRIORITY"]).serialize(),
        ContinuationFrame(stream, data=head[2:], flags=["END_HEADERS"]).serialize(),
        PingFrame(opaque_data=b"are you?").serialize(),
        b"\0\0\4\xbe\0" + struct.pack(">I", stream) + b"an unknown kind"[:4],
        DataFrame(stream, data=body[:7], pad_length=200, flags=["PADDED"]).serialize(),
        bare(DataFrame.type, 0x20, stream, body[7:]),
        HeadersFrame(
            stream, data=encoder.encode([("grpc-status", "0")]), flags=["END_HEADERS", "END_STREAM"]
        ).serialize(),
    ]


def test_padded_and_split_frames_that_arrive_byte_by_byte_are_read_and_a_ping_is_answered():
    said, received = replying(lambda stream: [bytes([byte]) for part in right_frames(stream) for byte in part])
    assert said == ""
    pings = [frame for frame in received if isinstance(frame, PingFrame)]
    assert [(ping.opaque_data, "ACK" in ping.flags) for ping in pings] == [(b"are you?", True)]


def test_a_server_that_goes_away_is_let_go_once_it_has_answered():
    async def run():
        async def serve(reader, writer):
            await reader.readexactly(PREFACE)
            writer.write(SettingsFrame().serialize())
            while not isinstance(frame := await read_frame(reader), DataFrame):
                pass
            writer.write(GoAwayFrame(last_stream_id=frame.stream_id).serialize())
            await asyncio.sleep(0.1)
            writer.write(b"".join(right_frames(frame.stream_id)))
            while await reader.read(1000):
                pass
            let_go.append(writer)
            writer.close()

        let_go = []
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with sender_for(server.sockets[0].getsockname()[1]) as sender:
            said = [(await sender.send(request()))[1] for _ in range(3)]
            await asyncio.sleep(0.1)
        server.close()
        return said, len(let_go)

    assert asyncio.run(run()) == ([""] * 3, 3)


def only_headers(stream: int, data: bytes) -> list[bytes]:
    return [HeadersFrame(stream, data=data, flags=["END_HEADERS", "END_STREAM"]).serialize()]


def test_a_table_that_the_server_makes_smaller_is_kept_small():
    sizes = {SettingsFrame.HEADER_TABLE_SIZE: 100}
    said, received = replying(right_frames, settings=(sizes, sizes))
    assert said == ""
    decoder = Decoder()
    decoder.max_allowed_table_size = 100
    (block,) = [frame.data for frame in received if isinstance(frame, HeadersFrame)]
    assert dict(decoder.decode(block))[":path"] == "/inference.GRPCInferenceService/ModelInfer"


def test_a_server_that_takes_no_requests_is_an_error():
    settings = ({SettingsFrame.MAX_CONCURRENT_STREAMS: 0},)
    assert replying(right_frames, settings=settings)[0] == "UNAVAILABLE: the server takes no requests"


def test_headers_may_be_long():
    headers = [
        *[(":method", "POST"), (":scheme", "http"), (":path", "/inference.GRPCInferenceService/ModelInfer")],
        *[(":authority", "127.0.0.1"), ("te", "trailers"), ("content-type", "application/grpc")],
        ("x-long", "a" * 5000),
    ]

    async def run():
        server, port = Answering(right).server()
        await server.start()
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Http2Connection(headers, 5.0), "127.0.0.1", port)
        await connection.ready
        answers = [await connection.ask(struct.pack(">BI", 0, 0)) for _ in range(3)]
        connection.close()
        await server.stop(None)
        return [answer.trailers["grpc-status"] for answer in answers]

    assert asyncio.run(run()) == ["0"] * 3


def bare(kind, flags, stream, payload=b""):
    return struct.pack(">BHBBI", 0, len(payload), kind, flags, stream) + payload


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (lambda _: [b"HTTP/1.1 400 Bad Request\r\n\r\n"], "what answers does not speak HTTP/2"),
        (lambda stream: [RstStreamFrame(stream, error_code=11).serialize()], "the server ended the request"),
        (lambda stream: only_headers(stream, b"\xff\xff\xff\xff"), ""),
        (lambda stream: [bare(DataFrame.type, 0x8, stream)], "the server sent more padding"),
        (lambda stream: [bare(DataFrame.type, 0x8, stream, b"\x02a")], "the server sent more padding"),
        (lambda stream: [bare(ContinuationFrame.type, 0x4, stream, b"\x88")], "the server sent headers in a wrong"),
        (lambda stream: [bare(HeadersFrame.type, 0, stream), bare(0xBE, 0, stream)], "the server sent headers without"),
        (
            lambda stream: only_headers(stream, Encoder().encode([(":status", "502")])),
            "the answer is not gRPC, HTTP status 502",
        ),
    ],
)
def test_what_is_not_an_answer_of_grpc_is_an_error(reply, told):
    assert replying(reply)[0].startswith(f"UNAVAILABLE: {told}")


def test_a_status_without_a_message_is_a_wrong_answer():
    fields = Encoder().encode([(":status", "200"), ("grpc-status", "0")])
    said, _ = replying(lambda stream: only_headers(stream, fields))
    assert said.startswith("WRONG ANSWER: ")
