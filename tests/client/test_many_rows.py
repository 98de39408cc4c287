"""Bulk scoring with `map`, and single calls made into batches with `batched`, over all four faces."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
from client_faces import FACES, open_client, url_of

from plansmith_client import (
    AsyncClient,
    Client,
    ClientError,
    DeadlineExceeded,
    InferenceFailed,
    InvalidInput,
    ModelNotFound,
    ProtocolError,
    TensorSpec,
)
from plansmith_client.testing import FakeModel, FakeServer


@pytest.fixture(scope="module", params=FACES)
def client(request, server):
    with open_client(request.param, url_of(request.param, server), timeout=30) as client:
        yield client


ROWS = np.arange(1000, dtype=np.float32)[:, None]


def test_an_array_is_mapped_row_by_row_in_full_batches(client):
    items = list(client.model("picky").map(ROWS))
    assert [item.index for item in items] == list(range(1000))
    np.testing.assert_array_equal(np.stack([item["root"] for item in items]), np.sqrt(ROWS))
    assert items[0]["rows"].tolist() == [16]
    assert all(item.error is None for item in items)


def test_all_rows_are_collected_into_one_result(client):
    result = client.model("picky").map(ROWS, concurrency=8, batch_size=10, outputs=["root", "rows"]).collect()
    np.testing.assert_array_equal(result["root"], np.sqrt(ROWS))
    assert set(result) == {"root", "rows"}
    assert set(result["rows"].reshape(-1).tolist()) == {10}


def test_arrays_by_name_tuples_and_mappings_are_items_too(client):
    model = client.model("add")
    a, b = np.arange(20)[:, None], np.arange(20)[:, None] * 10
    wanted = (a + b).reshape(-1).tolist()
    sources = [
        {"a": a, "b": b},
        list(zip(a, b, strict=True)),
        ({"a": one, "b": other} for one, other in zip(a.tolist(), b.tolist(), strict=True)),
    ]
    for source in sources:
        assert model.map(source).collect()["sum"].reshape(-1).tolist() == wanted


def test_items_of_different_shapes_go_into_batches_of_their_own(client):
    items = [(np.arange(width), np.arange(width)) for width in (1, 3, 1, 3, 1)]
    sums = [item["sum"].tolist() for item in client.model("add").map(items)]
    assert sums == [[0], [0, 2, 4], [0], [0, 2, 4], [0]]


def mean_of_texts(request):
    return {"mean": request["ids"].mean(axis=1, keepdims=True, dtype=np.float32)}


@pytest.mark.parametrize("face", ["blocking", "async"])
def test_batches_of_map_go_by_length_and_results_come_in_the_order_of_the_items(face):
    ids, mean = TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("mean", "FP32", (-1, 1))
    server = FakeServer({"texts": FakeModel(mean_of_texts, [ids], [mean], max_batch_size=8)})
    lengths = [2, 5, 3, 2, 5, 90, *[3, 5] * 40]
    texts = [np.full(length, number) for number, length in enumerate(lengths)]
    texts[4] = np.full((5, 5), 0)

    async def arriving():
        for text in texts:
            yield text

    with open_client(face, "localhost:8001", transport=server) as client:
        model = client.model("texts")
        for source in (iter(texts), *([arriving()] if face == "async" else [])):
            server.requests.clear()
            items = list(model.map(source))
            assert [item.index for item in items] == list(range(len(texts)))
            assert [item.index for item in items if item.error is not None] == [4]
            assert [item.array.item() for item in items if item.error is None] == [
                number for number in range(len(texts)) if number != 4
            ]
            sent = [request.inputs[0].array.shape for request in server.requests]
            assert sorted(sent) == sorted([(2, 2), (1, 90), *[(8, 3)] * 5, (1, 3), *[(8, 5)] * 5, (1, 5)])
        skipping = [item.index for item in model.map(iter(texts), skip={0, 3, 7})]
        assert skipping == [index for index in range(len(texts)) if index not in {0, 3, 7}]
        texts[4] = np.full(5, 4)
        joined = model.map(iter(texts)).collect()
    assert joined["mean"].reshape(-1).tolist() == list(range(len(texts)))


@pytest.mark.parametrize("others", [np.full(2, 1), "no array"], ids=["another length", "refused"])
def test_of_a_long_source_a_lonely_length_waits_for_a_bounded_number_of_items(others):
    ids, mean = TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("mean", "FP32", (-1, 1))
    server = FakeServer({"texts": FakeModel(mean_of_texts, [ids], [mean], max_batch_size=8)})
    read = iter(range(20_000))
    source = (others if number else np.full(90, 1) for number in read)
    with Client("localhost:8001", transport=server) as client:
        stream = iter(client.model("texts").map(source, concurrency=1))
        assert next(stream).array.item() == 1
        assert next(read) < 100
        assert [item.index for item in itertools.islice(stream, 100)] == list(range(1, 101))
        stream.close()


def test_large_items_of_many_lengths_do_not_wait_for_others_without_bound():
    ids, mean = TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("mean", "FP32", (-1, 1))
    texts, most = [], 0

    def large():
        nonlocal most
        for number in range(200):
            text = np.ones(2**18 + number, np.int64)
            texts.append(weakref.ref(text))
            most = max(most, sum(known() is not None for known in texts))
            yield text
            del text

    server = FakeServer({"texts": FakeModel(mean_of_texts, [ids], [mean], max_batch_size=1024)})
    with Client("localhost:8001", transport=server) as client:
        assert sum(1 for _ in client.model("texts").map(large(), concurrency=1)) == 200
    # Of 2 MiB each: 32 MiB wait, and a few are on their way.
    assert most < 60


def test_collect_raises_the_error_of_the_first_item_that_failed():
    ids, mean = TensorSpec("ids", "INT64", (-1, -1)), TensorSpec("mean", "FP32", (-1, 1))

    def refusing(inputs):
        if inputs["ids"].shape[1] == 3:
            raise InferenceFailed("no text of three")
        return mean_of_texts(inputs)

    server = FakeServer({"texts": FakeModel(refusing, [ids], [mean], max_batch_size=8)})
    with Client("localhost:8001", transport=server) as client:
        items = [np.full(2, 1), np.full(3, 1), "no array", np.full(2, 1)]
        with pytest.raises(InferenceFailed, match="no text of three"):
            client.model("texts").map(items).collect()


def test_what_fails_is_reported_in_its_place_and_the_others_go_on(client):
    rows = ROWS[:100].copy()
    rows[[3, 50, 51]] = -1
    items = list(client.model("picky").map(rows))
    failed = [item.index for item in items if item.error is not None]
    assert failed == [3, 50, 51]
    assert all(isinstance(items[index].error, InferenceFailed) for index in failed)
    with pytest.raises(InferenceFailed, match="no root"):
        _ = items[3]["root"]
    assert items[4].array.tolist() if len(items[4]) == 1 else items[4]["root"].tolist() == [2.0]
    with pytest.raises(InferenceFailed):
        client.model("picky").map(rows).collect()


def test_an_item_that_cannot_be_sent_fails_alone(client):
    items = list(client.model("picky").map([[1.0], "wrong", [4.0], None, [9.0, 9.0], [16.0]]))
    assert [item.index for item in items] == sorted(item.index for item in items)
    assert [item.index for item in items if item.error is not None] == [1, 3, 4]
    assert isinstance(items[1].error, InvalidInput)
    assert [item["root"].tolist() for item in items if item.error is None] == [[1.0], [2.0], [4.0]]


def test_of_rows_that_are_rounded_the_one_that_overflows_fails_alone(server):
    with Client(server.grpc_url, cast=True, timeout=30) as client:
        rows = np.array([[1.0], [1e39], [4.0]])
        items = list(client.model("picky").map(rows))
    assert [item.index for item in items if item.error is not None] == [1]
    assert "1e+39, which is beyond the range of FP32" in str(items[1].error)
    assert items[2]["root"].tolist() == [2.0]


def test_results_may_come_as_they_are_done_and_each_says_which_it_is(client):
    items = list(client.model("picky").map(ROWS, ordered=False, concurrency=8))
    assert sorted(item.index for item in items) == list(range(1000))
    assert all(item["root"][0] == np.sqrt(np.float32(item.index)) for item in items)


def test_a_run_that_was_broken_off_goes_on_where_it_was(client):
    model = client.model("picky")
    done = {item.index: item for item in itertools.islice(model.map(ROWS, ordered=False), 333)}
    rest = {item.index: item for item in model.map(ROWS, skip=set(done))}
    assert set(done).isdisjoint(rest)
    assert set(done) | set(rest) == set(range(1000))
    assert [item.index for item in model.map(ROWS, skip=990)] == list(range(990, 1000))
    assert [item.index for item in model.map(iter(ROWS), skip={0, 2, 4}) if item.index < 6] == [1, 3, 5]


def test_an_endless_source_is_read_only_as_far_as_results_are_taken(client):
    read = itertools.count()

    def endless():
        for number in read:
            yield np.array([float(number)], np.float32)

    stream = iter(client.model("picky").map(endless(), concurrency=2))
    taken = list(itertools.islice(stream, 100))
    stream.close()
    assert [item["root"][0] for item in taken] == [np.sqrt(np.float32(number)) for number in range(100)]
    assert next(read) < 400


def test_a_full_queue_slows_the_run_down_and_nothing_is_lost(client):
    # The model's queue takes four requests, of one row each here.
    result = client.model("picky").map(ROWS[:150], batch_size=1, concurrency=32).collect()
    np.testing.assert_array_equal(result["root"], np.sqrt(ROWS[:150]))


def test_a_model_that_does_not_batch_takes_each_item_as_a_request(client):
    items = [{"int32": np.full((1, width), width, np.int32)} for width in range(1, 6)]
    got = list(client.model("every_type").map(items, outputs=["int32_out"]))
    assert [item.array.tolist() for item in got] == [[[width] * width] for width in range(1, 6)]
    stacked = client.model("every_type").map({"int32": np.arange(6, dtype=np.int32).reshape(3, 1, 2)})
    assert [item["int32_out"].tolist() for item in stacked] == [[[0, 1]], [[2, 3]], [[4, 5]]]


def test_progress_is_told(client):
    told = []
    client.model("picky").map(ROWS[:40], progress=lambda done, total: told.append((done, total))).collect()
    assert told[-1] == (40, 40)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_wrong_options_of_a_run_are_refused(client):
    model = client.model("picky")
    for options in ({"batch_size": 0}, {"batch_size": "all"}, {"concurrency": 0}, {"timeout": -1}):
        with pytest.raises(InvalidInput):
            model.map(ROWS, **options).collect()
    with pytest.raises(InvalidInput, match="max_batch_size 16"):
        model.map(ROWS, batch_size=17).collect()
    with pytest.raises(InvalidInput, match="different numbers of rows"):
        client.model("add").map({"a": ROWS[:3].astype(int), "b": ROWS[:4].astype(int)}).collect()
    with pytest.raises(InvalidInput, match="no items"):
        model.map([]).collect()
    with pytest.raises(ModelNotFound):
        client.model("nope").map(ROWS).collect()


@pytest.mark.parametrize("face", ["grpc-async", "http-async"])
def test_an_asynchronous_source_is_mapped(server, face):
    async def source():
        for row in ROWS[:50]:
            yield row

    with open_client(face, url_of(face, server)) as client:
        items = list(client.model("picky").map(source()))
        assert [item["root"][0] for item in items] == np.sqrt(ROWS[:50, 0]).tolist()


# Single calls made into batches.


def test_single_calls_of_many_threads_go_in_batches(client):
    model = client.model("picky").batched(max_delay=0.2)
    barrier = threading.Barrier(16)

    def call(number):
        barrier.wait()
        return model([[float(number)]])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        results = list(pool.map(call, range(16)))
    assert [result["root"].tolist() for result in results] == [[[np.sqrt(np.float32(n))]] for n in range(16)]
    assert max(int(result["rows"][0, 0]) for result in results) > 4


def test_one_callers_mistake_does_not_reach_the_others(client):
    model = client.model("picky").batched(max_delay=0.2)
    barrier = threading.Barrier(6)

    def call(number):
        barrier.wait()
        try:
            return model([[float(number)]] if number != 3 else [[-1.0]])["root"].tolist()
        except ClientError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(call, range(6)))
    assert isinstance(outcomes[3], InferenceFailed)
    assert [outcome for outcome in outcomes if isinstance(outcome, ClientError)] == [outcomes[3]]
    with pytest.raises(InvalidInput, match="'x'"):
        model([["wrong"]])


def test_a_lonely_call_waits_no_longer_than_the_delay_and_large_ones_pass(client):
    model = client.model("picky").batched(max_delay=0.01)
    assert model([[4.0]])["root"].tolist() == [[2.0]]
    assert model(ROWS[:40])["root"].shape == (40, 1)


def test_a_call_ends_by_its_timeout_while_it_waits_for_others(client):
    batched = client.model("picky").batched(max_delay=3600, timeout=0.2)
    with pytest.raises(DeadlineExceeded):
        batched([[4.0]])


class Interrupt(Exception):
    """What a signal's handler raises here."""


def test_an_interrupted_caller_leaves_nobody_waiting_for_its_batch(server):
    with Client(server.grpc_url, timeout=60) as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
        batched = client.model("picky").batched(max_delay=60, max_batch_size=3)

        def join_and_interrupt():
            wait_until(lambda: gathered(batched) == 1)
            joined = threading.Thread(target=lambda: wait_until(lambda: gathered(batched) == 2) or interrupt())
            joined.start()
            try:
                return batched(ROWS[:1])
            finally:
                joined.join()

        def interrupt():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

        def handler(*_):
            raise Interrupt

        previous = signal.signal(signal.SIGUSR1, handler)
        try:
            follower = pool.submit(join_and_interrupt)
            with pytest.raises(Interrupt):
                batched(ROWS[:1])
            with pytest.raises(InferenceFailed, match="was interrupted: call again"):
                follower.result()
        finally:
            signal.signal(signal.SIGUSR1, previous)
        # One more row would have filled the batch that was abandoned.
        assert len(batched(ROWS[:3])["root"]) == 3


def gathered(batched) -> int:
    return sum(len(group.entries) for group in batched._groups._groups.values())


def wait_until(holds) -> None:
    while not holds():
        time.sleep(0.01)


# A program of its own: the parent's threads are in the middle of a call when it forks. Over HTTP, since gRPC does not
# support that.
FORKING = """
import os, sys, threading, time
import numpy as np
from plansmith_client import Client

with Client(sys.argv[1], timeout=30) as client:
    batched = client.model("picky").batched(max_delay=2, max_batch_size=2)
    row = np.ones((1, 1), np.float32)
    leader = threading.Thread(target=lambda: batched(row))
    leader.start()
    while not batched._groups._groups:
        time.sleep(0.01)
    child = os.fork()
    if child == 0:
        os._exit(0 if batched(row)["root"].tolist() == [[1.0]] else 1)
    code = os.waitpid(child, 0)[1]
    batched(row)
    leader.join()
sys.exit(code != 0)
"""


def test_the_child_of_a_fork_gathers_batches_of_its_own(server):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, server.http_url],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_rows_of_a_model_that_only_leaves_its_first_dimension_free_are_mapped_and_joined(client):
    rows = np.arange(400, dtype=np.float32).reshape(100, 4)
    model = client.model("every_type")
    for batch_size in ("auto", 1, 7, 100, 1000):
        given = model.map({"fp32": rows}, batch_size=batch_size).collect()
        np.testing.assert_array_equal(given[answer_of(model, "fp32")], rows)
    for item, row in zip(model.map(({"fp32": row} for row in rows), batch_size=9), rows, strict=True):
        np.testing.assert_array_equal(item[answer_of(model, "fp32")], row)
    # Items that are whole requests of different numbers of rows.
    whole = model.map([{"fp32": rows[:10]}, {"fp32": rows[10:13]}]).collect()
    np.testing.assert_array_equal(whole[answer_of(model, "fp32")], rows[:13])
    batched = model.batched(max_batch_size=8, max_delay=0)
    np.testing.assert_array_equal(batched(fp32=rows[:3])[answer_of(model, "fp32")], rows[:3])


def answer_of(model, name: str) -> str:
    """The output that repeats an input."""
    (answer,) = model.infer({name: np.zeros((1, 1), np.float32)})
    return answer


def test_what_stands_for_an_array_is_cut_as_one(client):
    class Frame:
        """Like a data frame: iterating over it gives the names of its columns."""

        def __array__(self, dtype=None, copy=None):
            return ROWS.astype(dtype or np.float32)

        def __len__(self) -> int:
            return len(ROWS)

        def __iter__(self):
            return iter(["x"])

    np.testing.assert_array_equal(client.model("picky").map(Frame()).collect()["root"], np.sqrt(ROWS))


def test_items_that_an_earlier_run_has_done_are_skipped_whatever_collection_names_them(client):
    for skip in ([1, 3, 3], {1, 3}, range(1, 4, 2), np.array([1, 3]).tolist()):
        assert [item.index for item in client.model("picky").map(ROWS[:5], skip=skip)] == [0, 2, 4]


def test_what_cannot_be_batched_is_refused(client):
    with pytest.raises(InvalidInput, match=r"names no largest batch: pass batched\(max_batch_size=\)"):
        client.model("every_type").batched()(int32=[[1]])
    for options in ({"max_delay": -1}, {"max_batch_size": 0}, {"timeout": 0}):
        with pytest.raises(InvalidInput):
            client.model("picky").batched(**options)


X, Y = TensorSpec("x", "FP32", (-1, 2)), TensorSpec("y", "FP32", (-1, 2))
UNTIDY = FakeServer(
    {
        "undeclared": FakeModel(
            lambda inputs: {"y": inputs["x"].astype(np.float64)}, [], [TensorSpec("y", "FP64", (-1,))]
        ),
        "total": FakeModel(
            lambda inputs: {"y": inputs["x"], "sum": inputs["x"].sum()}, [X], [Y, TensorSpec("sum", "FP32", ())]
        ),
        "rows": FakeModel(lambda inputs: inputs, [X], [X]),
        "two": FakeModel(lambda inputs: {"y": inputs["x"] + inputs["z"]}, [X, TensorSpec("z", "FP32", (-1, 2))], [Y]),
    }
)
ONES = np.ones((1, 2), np.float32)


def together(model, *calls, observers=()):
    """What calls of `batched` give that are made at the same time, and what the event loop complains of."""

    async def gather():
        complaints = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with AsyncClient("localhost:8001", transport=UNTIDY, observers=observers) as client:
            batched = client.model(model).batched(max_delay=0.05, max_batch_size=8)
            given = await asyncio.gather(*(batched(**call) for call in calls), return_exceptions=True)
        return given, complaints

    given, complaints = asyncio.run(gather())
    assert complaints == []
    return given


def test_only_inputs_of_one_datatype_share_a_batch():
    exact = [np.array([2**24 + 1], np.int64), np.array([0.5], np.float32), np.array([0.1])]
    results = together("undeclared", *({"x": array} for array in exact))
    assert [result["y"].tolist() for result in results] == [array.tolist() for array in exact]
    with Client("localhost:8001", transport=UNTIDY) as client:
        items = list(client.model("undeclared").map([{"x": array[0]} for array in exact], batch_size=4))
    assert [item["y"] for item in items] == [array[0] for array in exact]


def test_an_output_that_has_no_row_for_each_is_not_cut():
    (alone,) = together("total", {"x": ONES})
    assert alone["sum"] == 2
    for error in together("total", {"x": ONES}, {"x": ONES}):
        assert isinstance(error, ProtocolError)
        assert "'sum'" in str(error)


def test_inputs_of_other_numbers_of_rows_are_refused_before_they_shift_those_of_others():
    wrong, right = together("two", {"x": ONES, "z": np.ones((2, 2), np.float32)}, {"x": ONES, "z": ONES})
    assert isinstance(wrong, InvalidInput)
    assert right["y"].tolist() == [[2, 2]]
    assert isinstance(together("undeclared", {"x": 5.0})[0], InvalidInput)


def test_the_error_of_an_observer_is_that_of_every_call_of_the_batch():
    class Failing:
        def observe(self, operation):
            if type(operation).__name__ == "Infer":
                raise LookupError("observer")
            return contextlib.nullcontext({})

    errors = together("two", *[{"x": ONES, "z": ONES}] * 2, observers=[Failing()])
    assert [repr(error) for error in errors] == ["LookupError('observer')"] * 2


class Column:
    """Like a column of a data frame: what stands in brackets is a label, and not an axis."""

    dtype = np.dtype(np.float32)

    def __array__(self, dtype=None, copy=None):
        return ONES[0]

    def __getitem__(self, label):
        raise KeyError(label)


class Loader:
    """Like a loader over a data set without end: it has a length that cannot be asked for; and a method `columns`."""

    def __iter__(self):
        return iter([ONES[0]] * 3)

    def __len__(self):
        raise TypeError("the data set has no length")

    def columns(self):
        """As of a result of SQL."""


@pytest.mark.parametrize("source", [[Column()] * 3, Loader()])
def test_sources_of_other_libraries_are_gone_through(source):
    with Client("localhost:8001", transport=UNTIDY) as client:
        assert client.model("rows").map(source, batch_size=2).collect()["x"].tolist() == [[1, 1]] * 3
