"""A server that lies: what it says is refused with a typed error, over both protocols and by all faces."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import warnings

import hostile_answers as hostile
import numpy as np
import pytest
from client_faces import open_client

from plansmith_client import AsyncClient, ModelNotFound, ProtocolError, RetryPolicy, ServerUnavailable

ROW = np.ones((1, 4), np.float32)
HTTP_FACES, GRPC_FACES = ("http", "http-async"), ("grpc", "grpc-async")


@pytest.fixture(scope="module")
def http_server():
    with hostile.serving(hostile.HttpServer) as running:
        yield running


@pytest.fixture(scope="module")
def grpc_server():
    with hostile.serving(hostile.GrpcServer) as running:
        yield running


@pytest.fixture
def http(http_server):
    http_server.documents = {}
    return http_server


@pytest.fixture
def rpc(grpc_server):
    grpc_server.replies = {}
    return grpc_server


def asked(url, face, **options):
    with open_client(face, url, timeout=20, retries=0, **options) as client:
        return client.model("m").infer({"x": ROW}, request_id="mine")


def is_right(result) -> bool:
    return (result.model_name, result.request_id) == ("m", "mine") and {
        name: (str(array.dtype), array.tolist()) for name, array in result.items()
    } == {"y": ("float32", [[0.5, 1, 2, 3]]), "n": ("int32", [[7]])}


@pytest.mark.parametrize("face", HTTP_FACES)
def test_the_right_answer_is_taken_over_http(http, face):
    assert is_right(asked(http.url, face))
    http.documents = {"/v2/models/m/infer": hostile.binary_result(hostile.RESULT)}
    assert asked(http.url, face)["n"].tolist() == [[7]]


@pytest.mark.parametrize("face", GRPC_FACES)
def test_the_right_answer_is_taken_over_grpc(rpc, face):
    assert is_right(asked(rpc.url, face))
    with open_client(face, rpc.url, timeout=20) as client:
        (response,) = client.model("m").stream({"x": ROW}, request_id="mine")
    assert is_right(response)


@pytest.mark.parametrize("face", HTTP_FACES)
@pytest.mark.parametrize("kind", hostile.RESULTS)
def test_a_wrong_result_is_refused_over_http(http, kind, face):
    document = hostile.RESULTS[kind]
    http.documents = {"/v2/models/m/infer": document}
    with pytest.raises(ProtocolError, match="'m'"):
        asked(http.url, face)
    with contextlib.suppress(ValueError, AttributeError):
        # The same with the tensors as bytes, where these can be made.
        http.documents = {"/v2/models/m/infer": hostile.binary_result(document)}
        with pytest.raises(ProtocolError, match="'m'"):
            asked(http.url, face)


@pytest.mark.parametrize("face", HTTP_FACES)
@pytest.mark.parametrize("kind", hostile.FORCED)
def test_a_value_that_the_datatype_does_not_hold_is_refused(http, kind, face):
    datatype, value = hostile.FORCED[kind]
    http.documents = {
        "/v2/models/m": hostile.changed(hostile.METADATA, "outputs", 1, "datatype", datatype),
        "/v2/models/m/infer": hostile.changed(
            hostile.changed(hostile.RESULT, "outputs", 1, "datatype", datatype), "outputs", 1, "data", [value]
        ),
    }
    with pytest.raises(ProtocolError, match="'m'"):
        asked(http.url, face)


@pytest.mark.parametrize("face", HTTP_FACES)
@pytest.mark.parametrize(
    ("blobs", "length"),
    [
        (b"", None),
        (b"\0" * 19, None),
        (b"\0" * 21, None),
        (b"\0" * 40, None),
        (None, "0"),
        (None, "-1"),
        (None, "x"),
        (None, "1e2"),
        (None, "99999999"),
        (None, "9" * 5000),
        (None, "\xb2"),
    ],
)
def test_bytes_that_do_not_add_up_are_refused(http, blobs, length, face):
    http.documents = {"/v2/models/m/infer": hostile.binary_result(hostile.RESULT, blobs=blobs, length=length)}
    with pytest.raises(ProtocolError, match="'m'"):
        asked(http.url, face)


@pytest.mark.parametrize("face", HTTP_FACES)
@pytest.mark.parametrize("kind", hostile.METADATAS)
def test_wrong_metadata_is_refused_over_http(http, kind, face):
    http.documents = {"/v2/models/m": hostile.METADATAS[kind]}
    with pytest.raises(ProtocolError, match="'m'"):
        asked(http.url, face)


@pytest.mark.parametrize("face", GRPC_FACES)
@pytest.mark.parametrize("kind", hostile.METADATAS)
def test_wrong_metadata_is_refused_over_grpc(rpc, kind, face):
    document = hostile.METADATAS[kind]
    reply = type(hostile.messages()["ModelMetadata"])(name=document["name"])
    for part in ("inputs", "outputs"):
        for one in document[part]:
            getattr(reply, part).add(**one)
    rpc.replies = {"ModelMetadata": reply}
    with pytest.raises(ProtocolError, match="'m'"):
        asked(rpc.url, face)


@pytest.mark.parametrize("face", GRPC_FACES)
@pytest.mark.parametrize("kind", hostile.REPLIES)
def test_a_wrong_result_is_refused_over_grpc(rpc, kind, face):
    rpc.replies = {"ModelInfer": hostile.REPLIES[kind]}
    with pytest.raises(ProtocolError, match="'m'"):
        asked(rpc.url, face)


# A response need not have all outputs, nor as many rows as the request.
_STREAMED = {"with one of two outputs", "without outputs", "of two rows for one", "of no rows"}


@pytest.mark.parametrize("face", GRPC_FACES)
@pytest.mark.parametrize("kind", sorted(set(hostile.REPLIES) - _STREAMED))
def test_a_wrong_response_of_a_stream_is_refused(rpc, kind, face):
    rpc.replies = {"ModelInfer": hostile.REPLIES[kind]}
    with open_client(face, rpc.url, timeout=20, retries=0) as client, pytest.raises(ProtocolError, match="'m'"):
        list(client.model("m").stream({"x": ROW}, request_id="mine"))


@pytest.mark.parametrize("face", GRPC_FACES)
@pytest.mark.parametrize("method", ["ServerMetadata", "ModelMetadata"])
@pytest.mark.parametrize("garbage", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x01\xff"])
def test_an_answer_that_is_no_message_is_refused(rpc, method, garbage, face):
    rpc.replies = {method: garbage}
    with open_client(face, rpc.url, timeout=20, retries=0) as client, pytest.raises(ProtocolError):
        client.server_metadata() if method == "ServerMetadata" else client.model("m").metadata


def test_a_negative_batch_is_refused(http, rpc):
    http.documents = {"/v2/models/m/config": hostile.changed(hostile.CONFIG, "max_batch_size", -5)}
    config = hostile.messages()["ModelConfig"]
    config.config.max_batch_size = -5
    rpc.replies = {"ModelConfig": config}
    for url, face in ((http.url, "http"), (rpc.url, "grpc")):
        # The configuration is an extension: without a valid one the server checks the batch.
        with open_client(face, url, timeout=20) as client:
            assert client.model("m").metadata.max_batch_size is None


@pytest.mark.parametrize("face", [*HTTP_FACES, *GRPC_FACES])
def test_an_answer_beyond_the_largest_is_refused(http, rpc, face):
    url = http.url if face in HTTP_FACES else rpc.url
    large = hostile.changed(hostile.SERVER, "name", "x" * 100_000)
    http.documents = {"/v2": large}
    rpc.replies = {"ServerMetadata": type(hostile.messages()["ServerMetadata"])(**large)}
    for options in ({"largest_answer": 50_000}, {"largest_answer": 50_000, "compression": "gzip"}):
        with open_client(face, url, timeout=20, **options) as client, pytest.raises(ProtocolError, match="large"):
            client.server_metadata()
    with open_client(face, url, timeout=20, largest_answer=200_000) as client:
        assert client.server_metadata().name == large["name"]


@pytest.mark.parametrize("face", [*HTTP_FACES, *GRPC_FACES])
def test_outputs_that_were_not_asked_for_are_left_out(http, rpc, face):
    with open_client(face, http.url if face in HTTP_FACES else rpc.url, timeout=20) as client:
        assert list(client.model("m").infer({"x": ROW}, outputs=["n"])) == ["n"]


@pytest.mark.parametrize("face", HTTP_FACES)
def test_a_model_that_was_loaded_with_other_outputs_is_not_taken_for_a_liar(http, face):
    with open_client(face, http.url, timeout=20) as client:
        model = client.model("m")
        model.infer({"x": ROW})
        http.documents = {
            "/v2/models/m": hostile.changed(hostile.METADATA, "outputs", 0, "name", "z"),
            "/v2/models/m/infer": hostile.changed(hostile.RESULT, "outputs", 0, "name", "z"),
        }
        assert list(model.infer({"x": ROW})) == ["z", "n"]


@pytest.mark.parametrize("face", HTTP_FACES)
@pytest.mark.parametrize("takes_binary", [True, False])
def test_binary_tensors_are_tried_once_where_the_server_does_not_list_them(http, takes_binary, face):
    sent = []

    def answer(_):
        sent.append("Inference-Header-Content-Length" in http.headers[-1])
        return hostile.RESULT if takes_binary or not sent[-1] else 500

    http.documents = {"/v2": {**hostile.SERVER, "extensions": []}, "/v2/models/m/infer": answer}
    with open_client(face, http.url, timeout=20, retries=0) as client:
        model = client.model("m")
        # A step of a sequence is never sent twice.
        model.infer({"x": ROW}, parameters={"sequence_id": 7, "sequence_end": True})
        for _ in range(3):
            model.infer({"x": ROW}, request_id="mine")
    assert sent == ([False, True, True, True] if takes_binary else [False, True, False, False, False])


@pytest.mark.parametrize("face", HTTP_FACES)
def test_an_error_is_never_its_own_cause_where_the_index_is_refused(http, face):
    http.documents = {"/v2/models/m": 404, "/v2/repository/index": 500, "/v2/models": 500}
    with open_client(face, http.url, timeout=20, retries=0) as client, pytest.raises(ModelNotFound) as caught:
        _ = client.model("m").metadata
    # Whoever follows the causes comes to an end.
    assert caught.value.__cause__ is not caught.value


@pytest.fixture
def dropping(http):
    """A server that drops connections with binary tensors, and does not list them; which requests had them."""
    sent = []

    def answer(_):
        sent.append("Inference-Header-Content-Length" in http.headers[-1])
        return ... if sent[-1] else hostile.RESULT

    http.documents = {"/v2": {**hostile.SERVER, "extensions": []}, "/v2/models/m/infer": answer}
    return sent


RETRY = RetryPolicy(attempts=1, restart=0.0)


@pytest.mark.parametrize("face", HTTP_FACES)
def test_a_server_that_drops_binary_tensors_is_sent_json_by_the_retry(http, dropping, face):
    with open_client(face, http.url, timeout=20, retries=RETRY) as client:
        for _ in range(3):
            client.model("m").infer({"x": ROW})
        # The kept connection may have been an old one; the next one was not.
        assert dropping == [True, True, False, False, False]


@pytest.mark.parametrize("face", HTTP_FACES)
def test_without_retries_a_dropped_inference_goes_out_on_the_kept_connection_and_once_on_a_fresh_one(
    http, dropping, face
):
    with open_client(face, http.url, timeout=20, retries=0) as client:
        with pytest.raises(ServerUnavailable):
            client.model("m").infer({"x": ROW})
        assert dropping == [True, True]
        client.model("m").infer({"x": ROW})
        assert dropping[-1] is False


@pytest.mark.parametrize("face", HTTP_FACES)
def test_a_server_that_drops_everything_for_a_while_is_still_tried_with_binary_tensors(http, face):
    sent, broken = [], True

    def answer(_):
        sent.append("Inference-Header-Content-Length" in http.headers[-1])
        return ... if broken else hostile.RESULT

    http.documents = {"/v2": {**hostile.SERVER, "extensions": []}, "/v2/models/m/infer": answer}
    with open_client(face, http.url, timeout=20, retries=RETRY, breaker=None) as client:
        with pytest.raises(ServerUnavailable):
            client.model("m").infer({"x": ROW})
        assert sent[0] is True
        assert sent[-1] is False
        broken = False
        client.model("m").infer({"x": ROW})
        assert sent[-1] is True


@pytest.mark.parametrize("face", HTTP_FACES)
def test_a_server_without_an_index_may_list_the_names_of_its_models(http, face):
    http.documents = {"/v2/repository/index": 404, "/v2/models": {"models": ["m", "n"]}, "/v2/models/m/ready": {}}
    with open_client(face, http.url, timeout=20, retries=0) as client:
        assert [(one.name, one.state) for one in client.models()] == [("m", "READY"), ("n", "UNAVAILABLE")]
        http.documents["/v2/models"] = {"models": [3]}
        with pytest.raises(ProtocolError, match="3 should be a string"):
            client.models()


@pytest.mark.parametrize("face", HTTP_FACES)
@pytest.mark.parametrize("shape", [[1, 0], [0, 1], [2, 1], [1, 2], [1], [], [1, 1, 2]])
def test_classes_that_are_not_those_of_the_rows_are_refused(http, shape, face):
    data = ["3.5:3:three"] * int(np.prod(shape))
    classes = {"name": "y", "datatype": "BYTES", "shape": shape, "data": data}
    http.documents = {"/v2/models/m/infer": hostile.changed(hostile.CLASSES, "outputs", [classes])}
    with open_client(face, http.url, timeout=20, retries=0) as client:
        if shape == [1]:
            assert client.model("m").classify(ROW, output="y")[0][0].label == "three"
            return
        with pytest.raises(ProtocolError):
            client.model("m").classify(ROW, output="y")


@pytest.mark.parametrize("face", HTTP_FACES)
def test_half_a_character_is_not_a_text(http, face):
    http.documents = {"/v2/models/m/infer": hostile.changed(hostile.RESULT, "model_version", "\ud800")}
    with pytest.raises(ProtocolError, match="surrogates"):
        asked(http.url, face)


def test_a_loop_that_has_ended_leaves_no_connection_open(http):
    client = AsyncClient(http.url)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(2):
            asyncio.run(client.server_metadata())
        asyncio.run(client.close())
        gc.collect()
    assert [str(one.message) for one in warned if one.category is ResourceWarning] == []
