"""`perf/locustfile.py` loads any model of a running server, checks the answers and can gate a pipeline."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from plansmith_perf.errors import WrongAnswer
from plansmith_perf.requests import check_answer

LOCUSTFILE = Path(__file__).parent.parent / "perf" / "locustfile.py"


@pytest.fixture
def locust(committed_server, tmp_path):
    """Runs the locustfile headless for two seconds; gives the process and the rows of its statistics by protocol."""

    def run(*words: str, grpc_url: str = committed_server.grpc_url):
        command = [
            *(sys.executable, "-m", "locust", "-f", LOCUSTFILE, *words),
            *("--headless", "--users", "4", "--spawn-rate", "4", "--run-time", "2s", "--csv", tmp_path / "run"),
            *("--grpc-url", grpc_url, "--http-url", committed_server.http_url),
        ]
        done = subprocess.run(
            list(map(str, command)),
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
            env={**os.environ, "NO_COLOR": "1"},
        )
        statistics = tmp_path / "run_stats.csv"
        rows = list(csv.DictReader(statistics.read_text().splitlines())) if statistics.exists() else []
        return done, {row["Type"]: row for row in rows if row["Type"]}

    return run


def test_both_protocols_are_loaded_and_every_answer_is_right(locust):
    done, rows = locust("--model", "digits", "--batch-size", "4")
    assert done.returncode == 0, done.stderr
    assert rows.keys() == {"gRPC", "HTTP"}
    for row in rows.values():
        assert row["Name"] == "digits"
        assert int(row["Request Count"]) > 0
        assert int(row["Failure Count"]) == 0


def test_one_protocol_can_be_picked(locust):
    done, rows = locust("HttpUser", "--model", "digits")
    assert done.returncode == 0, done.stderr
    assert rows.keys() == {"HTTP"}


def test_the_only_model_of_a_server_needs_no_name(locust):
    done, rows = locust("GrpcUser")
    assert done.returncode == 0, done.stderr
    assert rows["gRPC"]["Name"] == "digits"


def test_a_model_that_is_not_there_ends_the_run_with_one_sentence(locust):
    done, rows = locust("GrpcUser", "--model", "nosuch")
    assert done.returncode == 2
    assert done.stdout.count("Error:") == 1
    assert "nosuch" in done.stdout
    assert not rows


def test_a_server_that_is_not_there_ends_the_run_with_one_sentence(locust):
    done, rows = locust("GrpcUser", "--model", "digits", grpc_url="127.0.0.1:1")
    assert done.returncode == 1
    assert done.stdout.count("Error:") == 1
    assert "127.0.0.1:1" in done.stdout
    assert not rows


EXPECTED = {"scores": np.array([[1.0, -4.0]], np.float32), "names": np.array([[b"a"]], object)}


def test_the_order_of_additions_may_differ_under_load():
    check_answer({**EXPECTED, "scores": EXPECTED["scores"] + 1e-3}, EXPECTED, tolerance=1e-3)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"names": EXPECTED["names"]}, "'scores' is missing"),
        ({**EXPECTED, "scores": EXPECTED["scores"][:, ::-1]}, "'scores' is off by"),
        ({**EXPECTED, "scores": EXPECTED["scores"] * np.float32(np.nan)}, "'scores' is off by"),
        ({**EXPECTED, "scores": EXPECTED["scores"].repeat(2, axis=0)}, r"'scores' is float32 \[2, 2\]"),
        ({**EXPECTED, "scores": EXPECTED["scores"].astype(np.float64)}, "'scores' is float64"),
        ({**EXPECTED, "names": np.array([[b"b"]], object)}, "'names' has other values"),
    ],
    ids=["missing", "permuted", "nan", "shape", "dtype", "text"],
)
def test_a_wrong_answer_is_a_failure_and_not_a_success(wrong, sentence):
    with pytest.raises(WrongAnswer, match=sentence):
        check_answer(wrong, EXPECTED, tolerance=1e-3)
