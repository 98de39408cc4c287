"""The messages of inferences over gRPC, whose tensors are put in and cut out by hand: protobuf reads the same."""

from __future__ import annotations

import numpy as np
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from plansmith_client.protocol.answers import MALFORMED
from plansmith_client.protocol.operations import Infer, SharedPlace, Tensor
from plansmith_client.transports.grpc.inference import infer_request, infer_result, result_from_message


def _field(**fields):
    return service_pb2.ModelInferResponse(**fields).SerializeToString()


def _output(name, count):
    return _field(outputs=[{"name": name, "datatype": "INT8", "shape": [count]}])


SIZES = st.sampled_from([0, 1, 127, 128, 300, 70_000])
PARTS = st.one_of(
    st.sampled_from(["m", "n", "é" * 80]).map(lambda name: _field(model_name=name)),
    st.sampled_from(["1", "2"]).map(lambda version: _field(model_version=version)),
    st.just(_field(id="7", parameters={"sequence_id": {"int64_param": 3}})),
    st.builds(_output, st.sampled_from("ab"), SIZES),
    SIZES.map(lambda size: _field(raw_output_contents=[bytes(size)])),
    # An unknown field, a size in more bytes than it takes, and what is not protobuf.
    st.sampled_from(
        [b"\x78\x05", b"\x0a\x81\x80\x80\x80\x80\x00x", b"\xff" * 12, b"\x32\xff\xff\xff\xff\xff\xff", b"\x0a"]
    ),
)
WHOLE = st.lists(st.tuples(st.sampled_from("abcd"), SIZES), max_size=3, unique_by=lambda output: output[0]).map(
    lambda outputs: [
        _field(model_name="m", model_version="1"),
        *(_output(*output) for output in outputs),
        *(_field(raw_output_contents=[bytes(size)]) for _, size in outputs),
    ]
)


def _outcome(read):
    try:
        result = read()
    except (DecodeError, *MALFORMED):
        return "malformed"
    arrays = {name: (array.dtype, array.shape, array.tobytes()) for name, array in result.items()}
    return result.model_name, result.model_version, result.request_id, result.parameters, arrays


@given(st.one_of(WHOLE, st.lists(PARTS, max_size=8)), st.integers(0, 3))
@settings(deadline=None, max_examples=150)
def test_every_reply_is_read_as_protobuf_reads_it(parts, cut):
    reply = b"".join(parts)
    reply = reply[: len(reply) - cut] if cut < 3 else reply
    expected = _outcome(lambda: result_from_message(service_pb2.ModelInferResponse.FromString(reply)))
    # Twice: what is remembered of the first must not change the second.
    for _ in range(2):
        assert _outcome(lambda: infer_result(reply, {})) == expected


@given(st.lists(st.tuples(st.sampled_from("abc"), SIZES, st.booleans()), max_size=3), st.text(max_size=3))
@settings(deadline=None)
def test_every_request_is_read_by_protobuf_as_it_was_meant(inputs, request_id):
    place = SharedPlace("region", 64, 4)
    tensors = tuple(
        Tensor(name, "UINT8", np.full((1, size), 7, np.uint8), place if placed else None)
        for name, size, placed in inputs
    )
    operation = Infer("m", "2", tensors, ("y",), request_id, {"big": 2**64 - 1, "flag": True}, 3)
    request = service_pb2.ModelInferRequest.FromString(infer_request(operation))
    assert (request.model_name, request.model_version, request.id) == ("m", "2", request_id)
    assert [(one.name, list(one.shape), bool(one.parameters)) for one in request.inputs] == [
        (name, [1, size], placed) for name, size, placed in inputs
    ]
    assert list(request.raw_input_contents) == [b"\x07" * size for _, size, placed in inputs if not placed]
    assert (request.parameters["big"].uint64_param, request.parameters["flag"].bool_param) == (2**64 - 1, True)
    assert [(wish.name, wish.parameters["classification"].int64_param) for wish in request.outputs] == [("y", 3)]
