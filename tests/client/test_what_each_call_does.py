"""The table "What each call does" of the client's README, held against what happens: option x path."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import numpy as np
import pytest
from client_faces import open_client

from plansmith_client import ClientError, InvalidInput, ModelNotFound, RetryPolicy, ServerUnavailable, TensorSpec
from plansmith_client.testing import FakeModel, FakeServer

README = Path(__file__).parents[2] / "client" / "README.md"
ROWS = np.ones((2, 4), np.float32)
X, Y = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 4))
LARGER = TensorSpec("x", "FP32", (-1, 5))


def submitted(model, rows):
    pending = model.submit(rows)
    # The asynchronous face has waited for it.
    return pending.result() if hasattr(pending, "result") else pending


def step(model, rows=ROWS):
    with model.sequence() as sequence:
        return sequence.end(rows)


# The columns of the table that infer, and the calls that stand for each.
CALLS = {
    "`model(...)`, `submit`, `infer`, `classify`": {
        "call": lambda model, rows=ROWS: model(rows),
        "infer": lambda model, rows=ROWS: model.infer({"x": rows}),
        "classify": lambda model, rows=ROWS: model.classify(rows),
    },
    "`map`, `batched`": {
        "map": lambda model, rows=ROWS: model.map(rows).collect(),
        "batched": lambda model, rows=ROWS: model.batched(max_delay=0.0)(rows),
    },
    "`stream`": {"stream": lambda model, rows=ROWS: list(model.stream({"x": rows}))},
    "`sequence`": {"sequence": step},
}


def table() -> dict[str, dict[str, str]]:
    """What the README says: cells by row and column."""
    section = README.read_text(encoding="utf-8").partition("## What each call does")[2].partition("\n## ")[0]
    rows = [re.split(r"\s*\|\s*", line.strip("| \n")) for line in section.splitlines() if line.startswith("|")]
    columns = rows[0]
    return {row[0]: dict(zip(columns, row[1:], strict=False)) for row in rows[2:]}


SAID = table()
CASES = [(column, name) for column, calls in CALLS.items() for name in calls]


def model_of(function) -> FakeModel:
    return FakeModel(function, [X], [Y], max_batch_size=8)


def doubled(inputs):
    return {"y": inputs["x"] * 2}


def expected(row: str, column: str) -> bool:
    cell = SAID[row][column]
    assert re.match(r"yes|no\b|never|until", cell), cell
    return cell.startswith(("yes", "until"))


def works(call, model) -> bool:
    try:
        call(model)
    except InvalidInput:
        raise
    except ClientError:
        return False
    return True


# Nothing is sent: the transport is the fake server.
@pytest.fixture(params=["http", "http-async"], ids=["blocking", "async"])
def face(request):
    return request.param


def test_the_table_has_the_rows_and_columns_that_are_tried():
    assert set(CALLS) <= set(SAID["`fallback=`"])


@pytest.mark.parametrize(("column", "name"), CASES)
def test_an_outage_is_retried_where_the_table_says_so(face, column, name):
    failing = iter([True])

    def function(inputs):
        if next(failing, False):
            raise ServerUnavailable("gone")
        return doubled(inputs)

    server = FakeServer({"m": model_of(function)})
    options = {"retries": RetryPolicy(attempts=3, backoff=0.01), "timeout": 20}
    with open_client(face, ["http://a", "http://b"], transport=server, **options) as client:
        assert works(CALLS[column][name], client.model("m")) == expected("retry after an outage", column)


@pytest.mark.parametrize(("column", "name"), CASES)
def test_the_fallback_answers_where_the_table_says_so(face, column, name):
    def function(_):
        raise ModelNotFound("m is gone")

    server = FakeServer({"m": model_of(function), "n": model_of(doubled)})
    with open_client(face, "http://a", transport=server, timeout=20) as client:
        assert works(CALLS[column][name], client.model("m", fallback="n")) == expected("`fallback=`", column)


@pytest.mark.parametrize(("column", "name"), CASES)
def test_a_second_server_is_asked_where_the_table_says_so(column, name):
    hedged = threading.Event()

    def function(inputs):
        if hedging.is_set():
            hedged.set()
        else:
            hedging.set()
            # The first request waits for the second one, or in vain.
            hedged.wait(20 if expected("`hedge_after=`", column) else 0.3)
        return doubled(inputs)

    hedging = threading.Event()
    server = FakeServer({"m": model_of(function)})
    with open_client("http", ["http://a", "http://b"], transport=server, hedge_after=0.05, timeout=60) as client:
        assert works(CALLS[column][name], client.model("m"))
    assert hedged.is_set() == expected("`hedge_after=`", column)


@pytest.mark.parametrize(("column", "name"), [*CASES, (CASES[0][0], "submit")])
def test_float64_is_rounded_where_the_table_says_so_and_refused_without(face, column, name):
    server, call = FakeServer({"m": model_of(doubled)}), CALLS[column].get(name, submitted)
    third = np.full((2, 4), 1 / 3)
    with open_client(face, "http://a", transport=server, cast=True, timeout=20) as client:
        assert works(lambda model: call(model, third), client.model("m")) == expected("`cast=`", column)
    assert server.requests[-1].inputs[0].array.tolist() == third.astype(np.float32).tolist()
    with (
        open_client(face, "http://a", transport=server, timeout=20) as client,
        pytest.raises(InvalidInput, match=r"given float64 \[.*astype\(numpy.float32\), or .* with cast=True"),
    ):
        call(client.model("m"), third)


@pytest.mark.parametrize(("column", "name"), CASES)
def test_metadata_is_read_again_after_a_refusal_where_the_table_says_so(face, column, name):
    def function(_):
        raise InvalidInput("x has another shape now")

    server = FakeServer({"m": model_of(doubled)})
    with open_client(face, "http://a", transport=server, timeout=20) as client:
        model = client.model("m")
        CALLS[column][name](model)
        server.models["m"] = FakeModel(function, [LARGER], [Y], max_batch_size=8)
        with pytest.raises(InvalidInput):
            CALLS[column][name](model)
        # The check of the client speaks, and nothing is sent any more.
        asked = len(server.requests)
        with pytest.raises(InvalidInput, match=r"expected FP32 \[-1, 5\]"):
            CALLS[column][name](model)
        assert (len(server.requests) == asked) == expected("metadata read again after a refusal", column)
