"""Scoring inside engines for much data: columns in, columns out, and no row lost while the server is restarted."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import traceback
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from serving import add_double, wait_for

from peers.environments import make_environment
from plansmith_client import InvalidInput, ModelNotReady, TensorSpec
from plansmith_client.bulk import BulkScorer
from plansmith_client.testing import FakeModel, FakeServer
from plansmith_server import ServerOptions, TritonServer
from plansmith_server.launcher.ports import find_free

pd = pytest.importorskip("pandas")

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "client/src"
ROWS = int(os.environ.get("TEST_BULK_ROWS", "20000"))


@pytest.fixture(scope="module")
def ports():
    return dict(zip(("http_port", "grpc_port", "metrics_port"), find_free("127.0.0.1", 3), strict=True))


@pytest.fixture(scope="module")
def start_again(ports, tmp_path_factory):
    """A server of the model `double`; called, it stops, calls what it is given, and starts again."""
    repository = tmp_path_factory.mktemp("models")
    add_double(
        repository, "double", 'backend: "onnxruntime" max_batch_size: 64 instance_group { kind: KIND_CPU count: 1 }'
    )
    running = [TritonServer(ServerOptions(repository=repository, **ports)).start()]

    def again(while_away):
        running.pop().stop()
        while_away()
        running.append(TritonServer(ServerOptions(repository=repository, **ports)).start())

    yield again
    running.pop().stop()


@pytest.fixture
def url(start_again, ports):
    return f"127.0.0.1:{ports['grpc_port']}"


def test_columns_become_inputs_and_outputs_become_columns(url):
    scorer = pickle.loads(pickle.dumps(BulkScorer(url, "double", columns={"x": ["a", "b"]})))
    frame = pd.DataFrame({"id": [7, 8, 9], "a": [1.0, 2.0, 3.0], "b": [4, 5, 6]}, index=[3, 1, 2])
    scored = scorer.with_outputs(frame)
    assert scored["y"].tolist() == [[2, 8], [4, 10], [6, 12]]
    pd.testing.assert_frame_equal(scored[["id", "a", "b"]], frame)
    empty = scorer.with_outputs(frame.iloc[:0])
    assert (len(empty), list(empty)) == (0, ["id", "a", "b", "y"])
    # Cells that are lists, or an array with the rows first.
    cells = BulkScorer(url, "double", columns={"x": "pair"})
    assert cells.with_outputs(pd.DataFrame({"pair": [[1, 2], [3, 4]]}))["y"].tolist() == [[2, 4], [6, 8]]
    assert cells({"pair": np.float64([[1, 2], [3, 4]])})["y"].tolist() == [[2, 4], [6, 8]]


def test_what_does_not_fit_is_refused_with_the_columns_that_there_are(url):
    with pytest.raises(InvalidInput, match=r"no column 'x' for the input 'x': .*; there are a, b"):
        BulkScorer(url, "double")({"a": np.ones(2), "b": np.ones(2)})
    with pytest.raises(InvalidInput, match="y: the model's output has the name of a column: rename the column"):
        BulkScorer(url, "double")({"x": np.ones((2, 2)), "y": np.ones(2)})
    with pytest.raises(InvalidInput, match="no output 'z': it has y"):
        BulkScorer(url, "double", outputs=["z"])({"x": np.ones((2, 2))})


def faked(function, x, y, **options):
    """A scorer of the model `fake`, whose input is `x` and whose output is `y`."""
    server = FakeServer({"fake": FakeModel(function, [TensorSpec("x", *x)], [TensorSpec("y", *y)])})
    return BulkScorer("localhost:1", "fake", options={"transport": server}, **options)


@pytest.mark.parametrize(
    ("datatype", "cells", "reason"),
    [
        ("INT64", [1.0, float("nan")], "holds nan"),
        ("FP32", ["a", "b"], "which FP32 does not take"),
        ("BYTES", [1, 2], "BYTES does not take"),
    ],
)
@pytest.mark.parametrize("columns", ["a", ["a"]])
def test_a_cell_that_the_input_cannot_hold_is_refused_with_its_column(datatype, cells, reason, columns):
    scorer = faked(lambda inputs: {"y": inputs["x"]}, (datatype, (-1, 1)), (datatype, (-1, 1)), columns={"x": columns})
    with pytest.raises(InvalidInput, match=f"column 'a' for the input 'x': .*{reason}"):
        scorer({"a": np.asarray(cells)})


def test_columns_of_other_types_are_taken_where_no_value_changes():
    scorer = faked(
        lambda inputs: {"y": inputs["x"]}, ("INT64", (-1, 2)), ("INT64", (-1, 2)), columns={"x": ["whole", "float"]}
    )
    # A common type of both columns would round the first.
    scored = scorer({"whole": np.array([2**53 + 1]), "float": np.array([3.0])})
    assert scored["y"].tolist() == [[2**53 + 1, 3]]


@pytest.mark.parametrize("cells", [[[1.0, 2.0], [1.0]], [[1.0, 2.0], None], [[1.0, 2.0], "a"]])
def test_cells_that_are_no_array_together_are_refused(cells):
    scorer = faked(lambda inputs: {"y": inputs["x"]}, ("FP32", (-1, 2)), ("FP32", (-1, 2)))
    with pytest.raises(InvalidInput, match="column 'x' for the input 'x'"):
        scorer(pd.DataFrame({"x": cells}))


def test_whether_a_cell_is_a_number_or_a_list_is_as_declared():
    frame = pd.DataFrame({"x": [1.0, 2.0]})
    for shape, cells in (((-1, -1), [[1], [2]]), ((-1, 1), [1, 2])):
        scorer = faked(lambda inputs: {"y": inputs["x"]}, ("FP32", (-1, 1)), ("FP32", shape))
        assert scorer.with_outputs(frame)["y"].tolist() == cells


def test_a_column_for_what_is_no_input_is_refused_and_no_secret_is_shown():
    scorer = faked(lambda inputs: {"y": inputs["x"]}, ("FP32", (-1, 1)), ("FP32", (-1, 1)), columns={"z": "a"})
    with pytest.raises(InvalidInput, match="no input 'z': it has x"):
        scorer({"x": np.ones(2)})
    scorer = BulkScorer("http://models.example:1", "fake", options={"token": "secret"})
    assert "secret" not in repr(scorer)
    with pytest.raises(InvalidInput, match="unencrypted") as caught:
        scorer({"x": np.ones(2)})
    for frame in traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack:
        assert "secret" not in str(frame.locals) or frame.filename == __file__


def test_a_batch_ends_at_its_first_error_and_with_its_patience():
    asked = []

    def unloaded(inputs):
        asked.append(len(inputs["x"]))
        raise ModelNotReady("The model was unloaded")

    scorer = faked(unloaded, ("FP32", (-1, 1)), ("FP32", (-1, 1)), patience=0.2, concurrency=1)
    with pytest.raises(ModelNotReady):
        scorer({"x": np.ones(10_000, np.float32)})
    # Of more than 300 requests: one in flight, and those that were read ahead of it.
    assert len(asked) < 10


SPARK = pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java: on Debian, default-jre-headless")


@pytest.mark.parametrize("engine", ["dask", "ray", pytest.param("spark", marks=SPARK)])
def test_no_row_is_lost_or_doubled_while_a_worker_is_killed_and_the_server_restarted(
    engine, ports, start_again, tmp_path
):
    url = f"127.0.0.1:{ports['grpc_port']}"
    seconds = 240 + ROWS // 200
    python = make_environment(HERE / "bulk_requirements.txt").python

    def rows_done():
        with urllib.request.urlopen(f"http://127.0.0.1:{ports['metrics_port']}/metrics") as answer:
            found = re.search(r"^nv_inference_count\{.*\} (\S+)$", answer.read().decode(), re.MULTILINE)
        return float(found[1]) if found else 0

    # The client as it is here, with the version that it has: its own environment has what it needs.
    (tmp_path / "plansmith_client").symlink_to(SOURCES / "plansmith_client")
    metadata = next(Path(sysconfig.get_path("purelib")).glob("plansmith_client-*.dist-info"))
    (tmp_path / metadata.name).symlink_to(metadata)
    begun = tmp_path / "begun"
    begun.mkdir()
    done_before = rows_done()
    scoring = subprocess.Popen(
        [python, HERE / "bulk_program.py", engine, url, str(ROWS), "20", begun],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={
            **os.environ,
            "PYTHONPATH": str(tmp_path),
            "DASK_TEMPORARY_DIRECTORY": str(tmp_path / "dask"),
            "RAY_USAGE_STATS_ENABLED": "0",
        },
    )
    try:
        wait_for(lambda: scoring.poll() is not None or rows_done() > done_before + ROWS / 10, seconds=seconds)
        assert scoring.poll() is None
        # Half of the partitions wait until the server is away.
        start_again((begun / "away").touch)
        assert json.loads(scoring.communicate(timeout=seconds)[0].splitlines()[-1]) == {
            "out": ROWS,
            "lost": 0,
            "doubled": 0,
            "wrong": 0,
        }
        assert rows_done() >= ROWS / 2
        assert (begun / "killed").exists()
    finally:
        # Of an engine that could not end itself, the processes are in its group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(scoring.pid, signal.SIGKILL)
        scoring.communicate()


def test_the_adapters_import_no_engine():
    program = "import sys, plansmith_client.spark, plansmith_client.dask, plansmith_client.ray;"
    program += "print(sorted({'pyspark', 'dask', 'distributed', 'ray', 'pandas', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"
