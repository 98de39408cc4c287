"""What a call can be beyond one tensor in and one out, over all four faces of the client, against a real Triton."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import math
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from client_faces import FACES, open_client, url_of
from client_servers import held, triton_with
from settled_counts import settled

from plansmith_client import (
    AsyncClient,
    ClassScore,
    Client,
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ProtocolError,
)

LOADED = ("accumulate", "add", "chain", "double", "every_type", "failing", "labelled", "picky", "repeat", "slow")
MORE = ("twice", "versions")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("calls")


@pytest.fixture(scope="module")
def server(folder):
    with triton_with((*LOADED, *MORE), folder) as running:
        yield running


@pytest.fixture(scope="module", params=FACES)
def client(request, server):
    with open_client(request.param, url_of(request.param, server), timeout=20) as client:
        yield client


# Batches larger than the model's largest.


def test_a_batch_larger_than_the_models_largest_is_split_and_joined(client):
    rows = np.arange(101, dtype=np.float32)[:, None]
    result = client.model("picky").infer({"x": rows, "text": [[f"w{n}"] for n in range(101)]}, request_id="large")
    np.testing.assert_array_equal(result["root"], np.sqrt(rows))
    assert result["upper"].reshape(-1).tolist() == [f"W{n}".encode() for n in range(101)]
    # Seven requests of nearly the same size, none above the limit of 16.
    assert sorted(set(result["rows"].reshape(-1).tolist())) == [14, 15]
    assert result.request_id == "large"
    assert result["root"].flags.owndata


def test_an_error_in_one_part_of_a_large_batch_is_the_error_of_the_call(client):
    rows = np.ones((40, 1), np.float32)
    rows[33] = -1
    with pytest.raises(InferenceFailed, match="no root"):
        client.model("picky")(rows)


# Classification.


SCORES = np.array([[0.1, 0.7, 0.2, 0.0], [4, 3, 2, 1]], np.float32)


def test_classes_come_with_scores_places_and_labels(client):
    first, second = client.model("labelled").classify(SCORES, top=2, output="named")
    assert first == [ClassScore(pytest.approx(0.7), 1, "east: rising"), ClassScore(pytest.approx(0.2), 2, "south")]
    assert [found.label for found in second] == ["north", "east: rising"]


def test_classes_without_labels_have_none(client):
    assert [row[0] for row in client.model("labelled").classify(scores=SCORES, output="unnamed")] == [
        ClassScore(pytest.approx(0.7), 1, ""),
        ClassScore(4.0, 0, ""),
    ]


def test_what_cannot_be_classified_is_refused_before_it_is_sent(client):
    model = client.model("labelled")
    with pytest.raises(InvalidInput, match="several outputs"):
        model.classify(SCORES)
    with pytest.raises(InvalidInput, match="top must be a whole number of classes from 1, got 0"):
        model.classify(SCORES, top=0, output="named")
    with pytest.raises(InvalidInput, match="no output 'nope'"):
        model.classify(SCORES, output="nope")


def test_more_rows_than_the_largest_batch_are_classified(client):
    rows = np.tile(SCORES, (5, 1))
    assert [row[0].index for row in client.model("labelled").classify(rows, output="named")] == [1, 0] * 5


# Sequences.


def test_a_sequence_keeps_its_state_from_the_first_step_to_the_last(client):
    model = client.model("accumulate")
    with model.sequence() as one, model.sequence(2**63 - 1) as other:
        assert one([[1.0]]).array.tolist() == [[1.0]]
        assert other([[100.0]]).array.tolist() == [[100.0]]
        assert one(x=[[2.0]]).array.tolist() == [[3.0]]
        assert one.end([[3.0]]).array.tolist() == [[6.0]]
        assert other.end([[1.0]]).array.tolist() == [[101.0]]
        with pytest.raises(InvalidInput, match="has ended"):
            one([[1.0]])


def test_sequences_of_many_threads_do_not_mix(client):
    model = client.model("accumulate")

    def run(number):
        with model.sequence(number + 1) as sequence:
            for _ in range(4):
                sequence([[float(number)]])
            return sequence.end([[float(number)]]).array[0, 0]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(8))) == [5.0 * number for number in range(8)]


def test_a_sequence_left_without_an_end_warns_unless_an_error_ended_it(client):
    model = client.model("accumulate")
    with pytest.warns(ResourceWarning, match=r"left without end\(...\)"), model.sequence() as sequence:
        sequence([[1.0]])

    def fail():
        with model.sequence() as sequence:
            sequence([[1.0]])
            sequence("wrong")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidInput):
            fail()


@pytest.mark.parametrize("wrong", [0, -1, "", True, 1.5, 2**63])
def test_a_sequence_needs_an_identifier_that_can_be_sent(client, wrong):
    with pytest.raises(InvalidInput, match="sequence_id"):
        client.model("accumulate").sequence(wrong)


# Streams of decoupled models.


def ask(count, value=(1.0, 2.0), **more):
    return {"count": [count], "value": list(value), **more}


def test_a_decoupled_model_gives_its_responses_one_after_another_and_the_last_with_its_data(client):
    results = list(client.model("repeat").stream(ask(5), request_id="five"))
    assert [result["number"].tolist() for result in results] == [[0], [1], [2], [3], [4]]
    assert all(result["value"].tolist() == [1.0, 2.0] for result in results)
    assert {result.request_id for result in results} == {"five"}
    assert {result.model_name for result in results} == {"repeat"}


def test_a_decoupled_model_may_give_nothing(client):
    assert list(client.model("repeat").stream(ask(0))) == []


def test_responses_come_when_they_are_sent_and_not_at_the_end(client):
    moments = [time.monotonic() for _ in client.model("repeat").stream(ask(3, pause=[0.3]))]
    # Of 0.6 s; at the end they would come together.
    assert moments[2] - moments[0] > 0.1


def test_an_error_half_way_comes_after_the_responses_before_it(client):
    stream = client.model("repeat").stream(ask(-3))
    assert next(stream)["number"].tolist() == [0]
    with pytest.raises(InferenceFailed, match="stopped half way"):
        next(stream)


def test_the_deadline_of_a_stream_fires_between_responses(client):
    stream = client.model("repeat").stream(ask(3, pause=[5.0]), timeout=1.5)
    assert next(stream)["number"].tolist() == [0]
    with pytest.raises(DeadlineExceeded, match=r"1\.5 s"):
        next(stream)


def test_a_stream_that_is_left_is_cancelled_and_the_client_goes_on(client):
    stream = client.model("repeat").stream(ask(50, pause=[0.2]), timeout=math.inf)
    assert next(stream)["number"].tolist() == [0]
    stream.close()
    assert len(list(client.model("repeat").stream(ask(2)))) == 2


def test_many_streams_under_way_at_once_each_get_their_own(client):
    model = client.model("repeat")

    def run(number):
        stream = model.stream(ask(6, [number], pause=[0.02]), request_id=f"id-{number}")
        return [(result["value"].tolist(), result.request_id) for result in stream]

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        for number, got in enumerate(pool.map(run, range(24))):
            assert got == [([float(number)], f"id-{number}")] * 6


def test_a_model_that_is_not_decoupled_streams_one_response(client):
    (result,) = client.model("double").stream({"x": np.ones((2, 4), np.float32)})
    assert result["y"].tolist() == [[2.0] * 4] * 2


def test_a_wrong_stream_is_refused_before_it_is_sent_and_a_missing_model_is_named(client):
    with pytest.raises(InvalidInput, match="'count': missing"):
        next(client.model("repeat").stream({"value": [1.0]}))
    with pytest.raises(ModelNotFound, match="'nope'"):
        next(client.model("nope").stream({}))
    with pytest.raises(InvalidInput, match="a stream is one request"):
        next(client.model("double").stream({"x": np.ones((20, 4), np.float32)}))


def test_a_decoupled_model_is_not_called_but_streamed(client):
    with pytest.raises(InvalidInput, match=r"use model\.stream"):
        client.model("repeat").infer(ask(1))


@pytest.fixture(scope="module", params=[face for face in FACES if face.startswith("http")])
def http_client(request, server):
    with open_client(request.param, server.http_url, timeout=20) as client:
        yield client


def test_what_a_stream_over_http_cannot_carry_is_refused_with_the_way_out(http_client):
    with pytest.raises(InvalidInput, match=r"given \[2, 3\].*gRPC URL"):
        next(http_client.model("every_type").stream({"fp64": np.ones((2, 3))}))
    with pytest.raises(InvalidInput, match="FP16"):
        next(http_client.model("every_type").stream({"fp16": np.ones((1, 3), np.float16)}))
    with pytest.raises(InvalidInput, match="NaN"):
        next(http_client.model("repeat").stream(ask(1, [math.nan])))


def test_a_stream_over_http_has_types_text_and_the_outputs_that_were_asked_for(http_client):
    inputs = {"int64": [[2**62, -1]], "bool": [[True, False]], "string": [["ü", ""]], "fp64": [[0.1, 1e300]]}
    stream = http_client.model("every_type", "1").stream(inputs, outputs=["int64_out", "string_out"])
    (result,) = stream
    assert set(result) == {"int64_out", "string_out"}
    assert result["int64_out"].tolist() == [[2**62, -1]]
    assert result["string_out"].tolist() == [["ü".encode(), b""]]


def test_a_stream_over_http_goes_to_the_next_server_while_nothing_has_come(server):
    with Client(["http://127.0.0.1:1", server.http_url], timeout=20) as client:
        for _ in range(2):
            assert len(list(client.model("repeat").stream(ask(2)))) == 2


# Fallback.


def test_a_fallback_answers_where_the_model_cannot_and_says_that_it_did(client):
    rows = np.ones((1, 4), np.float32)
    result = client.model("crashing", fallback="double").infer({"x": rows})
    assert (result.model_name, result["y"].tolist()) == ("double", [[2.0] * 4])
    assert client.model("double", fallback="twice")(rows).model_name == "double"


def test_a_wrong_input_is_no_reason_to_fall_back(client):
    with pytest.raises(InvalidInput, match="'double'"):
        client.model("double", fallback="twice")(np.ones((1, 3), np.float32))


def test_where_the_fallback_fails_too_its_error_has_the_first_one_as_its_cause(client):
    with pytest.raises(ModelNotFound, match="'nope'") as caught:
        client.model("crashing", fallback="nope").infer({})
    assert isinstance(caught.value.__cause__, ModelNotReady)
    with pytest.raises(InvalidInput, match="its own fallback"):
        client.model("double", fallback="double")


# What a server tells and takes about its models.


def test_the_configuration_is_the_same_document_over_every_face(client):
    config = client.model("labelled").config()
    assert config["name"] == "labelled"
    assert config["max_batch_size"] == 4
    assert [(tensor["name"], tensor["dims"]) for tensor in config["output"]] == [("named", [4]), ("unnamed", [4])]
    assert config["output"][0]["label_filename"] == "labels.txt"
    assert config["input"][0]["data_type"] == "TYPE_FP32"
    assert config["instance_group"][0]["kind"] == "KIND_CPU"
    assert client.model("accumulate").config()["sequence_batching"]["max_sequence_idle_microseconds"] == 5_000_000


def test_statistics_count_requests_rows_and_time(client):
    model = client.model("double")
    before = settled(model.statistics)[0]
    for rows in (1, 3, 3):
        model(np.ones((rows, 4), np.float32))
    after = settled(model.statistics)[0]
    assert (after.name, after.version) == ("double", "1")
    assert after.inferences - before.inferences == 7
    assert after.executions - before.executions == 3
    assert after.success.count - before.success.count == 3
    assert after.compute_infer.seconds > before.compute_infer.seconds
    assert 0 < after.success.mean < 10
    assert {batch.size for batch in after.batches} >= {1, 3}
    assert after.last_inference is not None
    assert after.last_inference.year >= 2024
    by_name = {statistics.name: statistics for statistics in client.statistics()}
    assert set(by_name) >= set(LOADED) - {"chain"}


def test_the_response_cache_counts_its_hits(client):
    model = client.model("twice")
    rows = np.full((1, 4), float(np.random.default_rng().integers(1 << 20)), np.float32)
    before = settled(model.statistics)[0].cache_hit.count
    for _ in range(3):
        np.testing.assert_array_equal(model(rows).array, rows * 2)
    assert settled(model.statistics)[0].cache_hit.count - before == 2


def test_an_ensemble_is_a_model_like_any_other(client):
    assert client.model("chain")(np.ones((3, 4), np.float32)).array.tolist() == [[4.0] * 4] * 3


def test_versions_are_asked_for_by_number_and_the_newest_is_the_default(client):
    for version, answer in (("1", 1), ("2", 2), ("", 2)):
        result = client.model("versions", version)([[0.0]])
        assert result.array.tolist() == [[answer]]
        assert result.model_version == str(answer)
    assert {statistics.version for statistics in client.model("versions").statistics()} == {"1", "2"}


def test_models_are_loaded_with_another_configuration_and_unloaded(client):
    with pytest.raises(ModelNotReady):
        client.model("crashing").infer({"die": [False]})
    client.load_model("crashing")
    assert client.model("crashing").infer({"die": [False]}).array.tolist() == [True]
    assert client.model("crashing").metadata.max_batch_size == 0
    config = client.model("crashing").config()
    # What is loaded is what counts from then on, in this client's eyes too.
    client.load_model("crashing", config={**config, "parameters": {"note": {"string_value": "changed"}}})
    assert client.model("crashing").config()["parameters"]["note"]["string_value"] == "changed"
    client.unload_model("crashing")
    deadline = time.monotonic() + 20
    while client.model("crashing").is_ready() and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(ModelNotReady):
        client.model("crashing").infer({"die": [False]})


def test_a_model_that_the_repository_does_not_have_cannot_be_loaded(client):
    with pytest.raises(ModelNotFound, match=r"'nope'.*repository has no such model"):
        client.load_model("nope")
    with pytest.raises(InvalidInput, match=r"'double'.*configuration"):
        client.load_model("double", config=json.dumps({"max_batch_size": "many"}))
    assert client.model("double").is_ready()


def test_a_model_is_loaded_from_files_that_the_repository_does_not_have(client, tmp_path):
    source = (Path(__file__).parents[1] / "models_python/double/1/model.py").read_text()
    local = tmp_path / "anything.py"
    local.write_text(source.replace("* 2", "* 5"))
    for name, content, factor in (("local", local, 5), ("sent", source.replace("* 2", "* 7").encode(), 7)):
        config = {**client.model("double").config(), "name": name}
        client.load_model(name, config=config, files={"1/model.py": content})
        assert client.model(name)(np.ones((1, 4), np.float32)).array.tolist() == [[factor] * 4]
        client.unload_model(name)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"1/model.py": b""}, "config="),
        ({"../1/model.py": b""}, "1/model.onnx"),
        ({"1/../../model.py": b""}, "1/model.onnx"),
        ({"model.py": b""}, "1/model.onnx"),
        ({"1/model.py": "text"}, "bytes"),
        ({"1/model.py": Path("/no/such/file")}, "No such file"),
        (5, "mapping"),
    ],
)
def test_files_that_cannot_be_sent_are_refused(client, files, words):
    with pytest.raises(InvalidInput, match=words):
        client.load_model("sent", config=None if words == "config=" else {"backend": "python"}, files=files)


def test_log_and_trace_settings_are_read_and_changed(client):
    before = client.log_settings()
    assert client.log_settings(log_verbose_level=1)["log_verbose_level"] == 1
    assert client.log_settings(log_verbose_level=before["log_verbose_level"], log_info=True)["log_verbose_level"] == 0
    settings = client.trace_settings()
    assert all(isinstance(values, list) for values in settings.values())
    try:
        assert client.trace_settings(trace_rate=500, trace_level=["TIMESTAMPS"])["trace_rate"] == ["500"]
        assert client.trace_settings("double", trace_rate=250)["trace_rate"] == ["250"]
        assert client.trace_settings()["trace_rate"] == ["500"]
        assert client.trace_settings("double", trace_rate=None)["trace_rate"] == ["500"]
    finally:
        client.trace_settings(trace_rate=1000, trace_level=["OFF"])


# The metadata that is kept.


def test_metadata_is_read_again_when_it_is_too_old(server):
    with open_client("grpc", server.grpc_url, metadata_max_age=1.0) as client:
        model = client.model("double")
        first = model.metadata
        assert model.metadata is first
        assert client.model("double") is model
        time.sleep(1.1)
        assert model.metadata == first
        assert model.metadata is not first


@pytest.mark.parametrize("face", FACES)
def test_a_model_that_was_loaded_anew_by_another_client_is_noticed(folder, server, face):
    name = f"double-{face}"
    copied = folder / "models" / name
    shutil.copytree(folder / "models" / "double", copied)
    with open_client(face, url_of(face, server)) as client, open_client(face, url_of(face, server)) as other:
        other.load_model(name)
        model = client.model(name)
        assert model.metadata.max_batch_size == 8
        shutil.copytree(copied / "1", copied / "2")
        text = (copied / "config.pbtxt").read_text()
        (copied / "config.pbtxt").write_text(text.replace("max_batch_size: 8", "max_batch_size: 4"))
        other.load_model(name)
        assert model(np.ones((1, 4), np.float32)).model_version == "2"
        assert model.metadata.max_batch_size == 4
        assert model.metadata.versions == ("2",)
        other.unload_model(name)


@pytest.mark.parametrize("face", ["grpc", "http-async"])
def test_a_request_that_only_the_republished_model_takes_is_not_refused(folder, server, face):
    name = f"wider-{face}"
    copied, wider = folder / "models" / name, np.ones((1, 8), np.float32)
    shutil.copytree(folder / "models" / "double", copied)
    ways = {
        "by position": lambda model: model(wider),
        "by name": lambda model: model.infer({"x": wider}),
        "classify": lambda model: model.classify(wider)[0][0].score,
        "batched": lambda model: model.batched()(wider),
        "map": lambda model: model.map(wider).collect(),
        "sequence": lambda model: model.sequence()(wider),
        "stream": lambda model: next(iter(model.stream({"x": wider}))),
    }
    with contextlib.ExitStack() as opened:
        clients = [opened.enter_context(open_client(face, url_of(face, server))) for _ in ways]
        clients[0].load_model(name)
        for client in clients:
            assert client.model(name).metadata.inputs[0].shape == (-1, 4)
        text = (copied / "config.pbtxt").read_text()
        (copied / "config.pbtxt").write_text(text.replace("dims: [ 4 ]", "dims: [ 8 ]"))
        # By another client: those above are not told.
        with open_client(face, url_of(face, server)) as other:
            other.load_model(name)
        for way, client in zip(ways, clients, strict=True):
            assert np.asarray(ways[way](client.model(name))).max() == 2.0, way
            with pytest.raises(InvalidInput, match="given float32 \\[1, 4\\], expected FP32 \\[-1, 8\\]"):
                client.model(name)(wider[:, :4])
        clients[0].unload_model(name)


def test_a_server_without_the_classification_extension_says_so(server):
    # The double model has no extension of its own: what is not `score:index` is refused rather than guessed at.
    with open_client("http", server.http_url) as client:
        from plansmith_client.protocol.classification import classes_from_result  # noqa: PLC0415

        with pytest.raises(ProtocolError, match="does not classify"):
            classes_from_result(client.model("double")(np.ones((1, 4), np.float32)), "y")


@pytest.mark.parametrize("face", ["grpc-async", "http-async"])
def test_a_task_that_is_cancelled_ends_at_once_and_the_client_goes_on(server, face):
    async def cancel_and_ask():
        async with AsyncClient(url_of(face, server), timeout=60) as client:
            slow = client.model("slow")
            await slow([[0.0]])
            calls = [asyncio.ensure_future(call) for call in (slow([[-1.0]]), client.model("double")(np.ones((99, 4))))]
            stack = contextlib.ExitStack()
            await asyncio.to_thread(stack.enter_context, held(server))
            with stack:
                calls[0].cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.wait_for(asyncio.shield(calls[0]), 60)
                with pytest.raises(InvalidInput):
                    await calls[1]
            return (await client.model("double")(np.ones((99, 4), np.float32))).array.shape

    assert asyncio.run(cancel_and_ask()) == (99, 4)
