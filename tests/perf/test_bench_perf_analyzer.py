"""`plansmith bench --tool perf_analyzer`: NVIDIA's load generator, real, with its figures in the same result."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from build_models import write
from hdrh.histogram import HdrHistogram

from plansmith_perf.results.documents import LoadTestResult, read_result
from plansmith_server import ServerOptions, TritonServer

MODELS = Path(__file__).parents[1] / "models_python"
SHORT = ("--seconds", "1", "--warmup", "0.2")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    repository = tmp_path_factory.mktemp("served")
    shutil.copytree(MODELS / "slow", repository / "slow")
    (repository / "same" / "1").mkdir(parents=True)
    write(repository / "same" / "1" / "model.onnx", "same (string[N, 1] x) => (string[N, 1] y) { y = Identity (x) }")
    (repository / "same" / "config.pbtxt").write_text(
        'backend: "onnxruntime" max_batch_size: 8 input { name: "x" data_type: TYPE_STRING dims: 1 } '
        'output { name: "y" data_type: TYPE_STRING dims: 1 }'
    )
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, config_name="none")
    with TritonServer(options) as running:
        yield running


@pytest.fixture
def bench(plansmith, tmp_path):
    def run(*words: str | Path) -> LoadTestResult:
        done = plansmith("bench", *words, *SHORT, "--tool", "perf_analyzer", "--json", cwd=tmp_path)
        return LoadTestResult.model_validate_json(done.stdout)

    return run


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_its_requests_become_a_result_like_any_other(bench, committed_server, protocol):
    url = committed_server.grpc_url if protocol == "grpc" else committed_server.http_url
    result = bench("digits", "--url", url, "-c", "1,4", "--percentiles", "50,99.9")
    assert result.tool.startswith("perf_analyzer 2.")
    assert (result.protocol, result.complete, result.expected_answers) == (protocol, True, "not looked at")
    assert [measured.load.concurrency for measured in result.measurements] == [1, 4]
    for measured in result.measurements:
        histogram = HdrHistogram.decode(measured.latency.histogram)
        assert histogram.get_total_count() == measured.requests > 0
        assert histogram.get_value_at_percentile(99.9) == measured.latency.percentiles["99.9"]
        assert measured.throughput * measured.seconds == pytest.approx(measured.requests, rel=0.2)
        assert sum(row.answers for row in measured.timeline) > 0
        assert measured.warmup_requests > 0
        assert measured.server_side.requests > 0
        assert measured.client_usage.memory > 0
        assert any("does not look at the answers" in note for note in measured.notes)


def test_on_a_schedule_it_says_what_its_latencies_hide(bench, committed_server):
    result = bench("digits", "--url", committed_server.grpc_url, "--rate", "200", "--arrivals", "constant")
    (measured,) = result.measurements
    assert measured.throughput == pytest.approx(200, rel=0.2)
    assert measured.dispatch_lag is None
    assert any("from the moment of sending" in note for note in measured.notes)


def test_requests_too_large_to_be_exported_have_percentiles_and_no_histogram(bench, committed_server):
    words = ("digits", "--url", committed_server.grpc_url, "-c", "2", "--batch-size", "16")
    (measured,) = bench(*words, "--percentiles", "50,99").measurements
    assert measured.latency.histogram is None
    assert set(measured.latency.percentiles) == {"50", "90", "95", "99"}
    assert 0 < measured.latency.percentiles["50"] <= measured.latency.percentiles["99"]
    assert measured.rows_per_second == pytest.approx(16 * measured.throughput)
    assert measured.throughput > 0


def test_percentiles_that_it_does_not_tell_are_refused(plansmith, committed_server):
    words = ("digits", "--url", committed_server.grpc_url, "--batch-size", "16", "--percentiles", "99.9")
    said = plansmith("bench", *words, "--tool", "perf_analyzer", expect=2).stderr
    assert "does not tell p99.9" in said


def test_it_sends_the_samples_that_it_is_given_text_too(bench, server, tmp_path):
    np.savez(tmp_path / "words.npz", x=np.array([["one"], ["two words"], ["größer"]]))
    result = bench("same", "--url", server.grpc_url, "-c", "2", "--samples", "words.npz")
    assert result.inputs == "words.npz"
    assert result.measurements[0].requests > 0


def test_where_a_request_fails_what_was_measured_before_is_kept(plansmith, server, tmp_path):
    np.savez(tmp_path / "naps.npz", seconds=np.full((4, 1), 0.05, np.float32))
    words = ("slow", "--url", server.grpc_url, "-c", "1,64", "--samples", "naps.npz", "--tool", "perf_analyzer")
    # Long enough for a refusal to come before perf_analyzer gives up on a window without answers.
    long = ("--seconds", "3", "--warmup", "0.2")
    said = plansmith("bench", *words, *long, "-o", "result.json", cwd=tmp_path, expect=1).stderr
    assert "perf_analyzer failed on model 'slow'" in said
    assert "queue" in said
    result = read_result(tmp_path / "result.json")
    assert not result.complete
    assert [measured.load.concurrency for measured in result.measurements] == [1]


@pytest.fixture
def naps(tmp_path):
    """Inputs of the model that takes as long as it is told: an answer each 0.8 s."""
    np.savez(tmp_path / "naps.npz", seconds=np.full((2, 1), 0.8, np.float32))
    return tmp_path / "naps.npz"


def test_a_run_that_it_does_not_find_stable_is_a_result_that_says_so(bench, server, naps):
    # Windows of a third of a second: in no three in a row is there an answer.
    (measured,) = bench("slow", "--url", server.grpc_url, "-c", "1", "--samples", naps).measurements
    assert measured.complete
    assert not measured.stability.stable
    assert len(measured.stability.throughput) > 3
    assert 0.0 in measured.stability.throughput
    assert any("not stable: in no 3 of its windows" in note for note in measured.notes)
    assert measured.latency is None or measured.latency.mean == pytest.approx(800_000, rel=0.5)
    assert measured.throughput <= 2 / 0.8


def test_an_unstable_run_keeps_no_objective_and_is_no_failure(plansmith, server, naps, tmp_path):
    words = ("slow", "--url", server.grpc_url, "--samples", naps, "--slo", "p50=5s", "--tool", "perf_analyzer")
    done = plansmith("bench", *words, *SHORT, expect=3, cwd=tmp_path)
    assert "p50" in done.stderr
    assert "Traceback" not in done.stderr


def test_golden_answers_are_refused_because_it_looks_at_none(plansmith, committed_server, held_out, tmp_path):
    np.savez(tmp_path / "samples.npz", images=held_out["images"][:4])
    words = ("--samples", "samples.npz", "--golden", "samples.npz", "--tool", "perf_analyzer")
    url = ("--url", committed_server.grpc_url)
    assert "leave --golden out" in plansmith("bench", "digits", *url, *words, expect=2, cwd=tmp_path).stderr


def test_where_it_cannot_be_had_one_sentence_says_so(committed_server, tmp_path):
    command = Path(sys.executable).with_name("plansmith")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "COLUMNS": "300"}
    words = [command, "bench", "digits", "--url", committed_server.grpc_url, "--tool", "perf_analyzer"]
    # One that is killed, pip and all, while an index keeps it waiting.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(120)
        silent_index = {"PIP_INDEX_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        installing = subprocess.Popen(words, env=environment | silent_index, start_new_session=True)
        with silent.accept()[0]:
            os.killpg(installing.pid, signal.SIGKILL)
        installing.wait()
    assert list((tmp_path / "plansmith").iterdir())
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment | {"PIP_NO_INDEX": "1"})
    assert done.returncode == 1
    assert "perf_analyzer could not be installed" in done.stderr
    assert "-py3-sdk container" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "plansmith").iterdir()) == []
    (tmp_path / "file").touch()
    nowhere = environment | {"XDG_CACHE_HOME": str(tmp_path / "file")}
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=nowhere)
    assert "(Not a directory): set XDG_CACHE_HOME to a folder" in done.stderr
