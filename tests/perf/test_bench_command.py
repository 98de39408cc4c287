"""`plansmith bench`, run as a user runs it against a real Triton."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from applications import request_of, served_steps
from hdrh.histogram import HdrHistogram
from http_rates import Asker

from plansmith_client import Client
from plansmith_perf.load.server_side import read_counters
from plansmith_perf.results.documents import LoadTestResult
from plansmith_server import ServerOptions, TritonServer

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "tests" / "models_python"
SHORT = ("--seconds", "1", "--warmup", "0.3")


def serve(repository: Path, *models: str) -> TritonServer:
    for name in models:
        shutil.copytree(MODELS / name, repository / name)
    return TritonServer(
        ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, config_name="none")
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("served"), "failing", "slow") as running:
        yield running


@pytest.fixture
def bench(plansmith, committed_server, tmp_path):
    """Runs `plansmith bench digits --json` for a second a load; gives the result."""

    def run(*words: str | Path, url: str = committed_server.grpc_url) -> LoadTestResult:
        done = plansmith("bench", "digits", "--url", url, *SHORT, "--json", *words, cwd=tmp_path)
        return LoadTestResult.model_validate_json(done.stdout)

    return run


@pytest.fixture
def samples(held_out, tmp_path):
    file = tmp_path / "samples.npz"
    np.savez(file, images=held_out["images"][:24])
    return file


def test_a_closed_loop_is_measured_at_each_concurrency_with_the_percentiles_of_its_histogram(bench):
    result = bench("--concurrency", "1,4", "--percentiles", "50,99.9")
    assert result.complete
    assert result.protocol == "grpc"
    assert result.served.startswith("onnxruntime; ")
    assert [measured.load.concurrency for measured in result.measurements] == [1, 4]
    for measured in result.measurements:
        assert measured.errors == 0
        assert measured.warmup_requests > 0
        assert measured.latency.count == measured.requests > 0
        histogram = HdrHistogram.decode(measured.latency.histogram)
        assert histogram.get_total_count() == measured.latency.count
        assert {p: histogram.get_value_at_percentile(float(p)) for p in ("50", "99.9")} == measured.latency.percentiles
        assert measured.dispatch_lag is None
        assert sum(second.answers for second in measured.timeline) / measured.seconds == measured.throughput
        # The server saw the same load as the client: queueing and computing are parts of a request's time.
        assert measured.server_side.requests > 0
        assert 0 < measured.server_side.compute_infer < measured.latency.mean
        assert measured.server_usage.memory > 0
        assert measured.client_usage.memory > 0


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_an_open_loop_keeps_its_schedule_and_counts_latency_from_it(bench, committed_server, protocol):
    url = committed_server.grpc_url if protocol == "grpc" else committed_server.http_url
    result = bench("--rate", "50", "--arrivals", "constant", "--workers", "2", url=url)
    (measured,) = result.measurements
    assert result.protocol == protocol
    assert measured.errors == 0
    assert abs(measured.requests - 50) <= 1
    assert measured.latency.mean == pytest.approx(measured.service.mean + measured.dispatch_lag.mean)


def test_a_load_that_is_more_than_the_model_can_take_is_an_error_rate_and_not_the_end(plansmith, server, tmp_path):
    np.savez(tmp_path / "naps.npz", seconds=np.full((4, 1), 0.1, np.float32))
    done = plansmith(
        *("bench", "slow", "--url", server.grpc_url, "--rate", "60", *SHORT, "--json", "--samples", "naps.npz"),
        cwd=tmp_path,
    )
    (measured,) = LoadTestResult.model_validate_json(done.stdout).measurements
    assert 0.3 < measured.error_rate < 1
    assert any("maximum queue size" in message for message in measured.error_messages)
    assert sum(measured.error_messages.values()) == measured.errors
    assert measured.complete


def test_examples_are_asked_in_binary_and_computed_by_others_from_the_file_that_is_served(committed_server):
    images = np.random.default_rng(0).random((3, 8, 8), np.float32)
    port = int(committed_server.http_url.rpartition(":")[2])
    with closing(Asker(port, "/v2/models/digits/infer", lambda _: request_of({"images": images}))) as ask:
        answer = json.loads(ask(b""))["outputs"][0]["data"]
    (step,) = served_steps(committed_server.options.repository, "digits")
    assert str(Path(step["engine"]["file"]).parent) == step["folder"]
    with Client(committed_server.grpc_url) as client:
        expected = client.model("digits")(images)[next(iter(step["outputs"]))]
    np.testing.assert_allclose(np.reshape(answer, expected.shape), expected, atol=1e-4)


def test_a_run_writes_its_report(plansmith, committed_server, tmp_path):
    words = ("bench", "digits", "--url", committed_server.grpc_url, *SHORT, "-c", "1,2")
    plansmith(*words, "--report", "report.html", cwd=tmp_path)
    assert "digits" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ".html" in plansmith(*words, "--report", "report.pdf", cwd=tmp_path, expect=2).stderr


def test_a_rate_that_the_generator_itself_cannot_send_ends_and_says_what_was_not_sent(bench):
    result = bench("--rate", "1000000", "--workers", "1", "--seconds", "0.3", "--warmup", "0", "--percentiles", "50")
    (measured,) = result.measurements
    unsent = sum(count for message, count in measured.error_messages.items() if message.startswith("never sent"))
    assert measured.requests / 2 < unsent <= measured.errors
    assert any("the client is the bottleneck" in note or "the client was late" in note for note in measured.notes)
    assert measured.dispatch_lag.maximum > measured.dispatch_lag.minimum


def test_real_samples_are_checked_against_golden_answers(bench, committed_server, samples, tmp_path):
    with Client(committed_server.grpc_url) as client, np.load(samples) as arrays:
        # float64, as numpy computes.
        answers = {name: array.astype(float) for name, array in client.model("digits")(arrays["images"]).items()}
    np.savez(tmp_path / "golden.npz", **answers)
    result = bench("-c", "2", "--batch-size", "4", "--samples", samples, "--golden", "golden.npz")
    assert (result.inputs, result.expected_answers) == ("samples.npz", "golden.npz")
    (measured,) = result.measurements
    assert measured.errors == 0
    assert measured.rows_per_second == pytest.approx(4 * measured.throughput)


def test_samples_and_golden_answers_may_be_json(bench, plansmith, committed_server, samples, tmp_path):
    with Client(committed_server.grpc_url) as client, np.load(samples) as arrays:
        answers = dict(client.model("digits")(arrays["images"]))
        (tmp_path / "samples.json").write_text(json.dumps({"images": arrays["images"].tolist()}))
    (tmp_path / "golden.json").write_text(json.dumps({name: array.tolist() for name, array in answers.items()}))
    result = bench("-c", "2", "--samples", "samples.json", "--golden", "golden.json")
    assert (result.inputs, result.expected_answers) == ("samples.json", "golden.json")
    assert result.measurements[0].errors == 0
    (tmp_path / "samples.json").write_text('{"images": [[[1, 2], [3]]]}')
    words = ("bench", "digits", "--url", committed_server.grpc_url, "--samples", "samples.json")
    done = plansmith(*words, expect=2, cwd=tmp_path)
    assert "tensor 'images'" in done.stderr


def test_a_server_whose_answers_are_not_golden_is_not_measured(plansmith, committed_server, samples, tmp_path):
    with Client(committed_server.grpc_url) as client, np.load(samples) as arrays:
        answers = dict(client.model("digits")(arrays["images"][::-1]))
    np.savez(tmp_path / "golden.npz", **answers)
    files = ("--samples", samples, "--golden", tmp_path / "golden.npz")
    done = plansmith("bench", "digits", "--url", committed_server.grpc_url, *files, expect=3)
    assert "is off by" in done.stderr or "other values" in done.stderr


def test_a_model_that_random_values_do_not_suit_asks_for_samples(plansmith, server):
    done = plansmith("bench", "failing", "--url", server.grpc_url, *SHORT, expect=2)
    assert "--samples" in done.stderr
    assert "does not take random values" in done.stderr


def test_the_table_says_when_a_run_is_too_short_for_its_percentiles(plansmith, committed_server, tmp_path):
    words = ("bench", "digits", "--url", committed_server.http_url, *SHORT, "--rate", "45", "-o", "result.json")
    done = plansmith(*words, cwd=tmp_path)
    assert "too short for p90" in done.stdout
    assert "p99" in done.stdout
    # In a pipe or a log no bar is seen.
    assert done.stderr.splitlines()[:1] == ["Measuring at 45/s, poisson"]
    assert "" not in done.stderr.splitlines()
    assert json.loads((tmp_path / "result.json").read_text())["schema_version"] == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("-c", "0"), "--concurrency must be whole numbers of 1 or more, separated by commas, got '0'"),
        (("-c", "1,two"), "got '1,two'"),
        (("--rate", "-3"), "--rate must be numbers above 0, separated by commas, got '-3'"),
        (("--rate", "nan"), "got 'nan'"),
        (("--percentiles", "100"), "below 100"),
        (("--seconds", "0"), "--seconds must be above 0, got 0"),
        (("--golden", "answers.npz"), "--samples"),
        (("--batch-size", "100000"), "--batch-size 100000"),
        (("--output", "nowhere/result.json"), "does not exist"),
        (("--output", "."), "this is a folder"),
        (("--output", "/proc/result.json", "-c", "1", "--seconds", "0.2", "--warmup", "0"), "cannot be written"),
        (("--tolerance", "-1"), "--tolerance must be 0 or more, got -1"),
        (("--rate", "1e10"), "--rate 10,000,000,000 for 6 s is a schedule of"),
        (("--rate", "5", "-c", "5"), "give one of them"),
        (("--slo", "p99=50ms", "-c", "5"), "give one of them"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_a_sentence(plansmith, committed_server, tmp_path, words, sentence):
    done = plansmith("bench", "digits", "--url", committed_server.grpc_url, *words, expect=2, cwd=tmp_path)
    assert sentence in done.stderr
    assert done.stderr.count("Error:") == 1


def test_nobody_at_the_address_is_one_sentence(plansmith):
    done = plansmith("bench", "digits", "--url", "127.0.0.1:1", "--timeout", "2", expect=1)
    assert done.stderr.startswith("Error: No answer from 127.0.0.1:1")


def start_long_bench(url: str, file: Path, *words: str) -> subprocess.Popen[str]:
    command = Path(sys.executable).with_name("plansmith")
    words = ("bench", words[0], "--url", url, "--seconds", "60", "--warmup", "0", "-o", str(file), *words[1:])
    return subprocess.Popen(
        [command, *words], stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "300", "NO_COLOR": "1"}
    )


def wait_for_load(url: str, model: str, at_least: int) -> None:
    """Until the server has answered more requests than those that precede a measurement."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        counters = read_counters(url, model, "")
        if counters is not None and counters.requests >= at_least:
            return
        time.sleep(0.1)
    pytest.fail("no load came")


def test_ctrl_c_keeps_what_was_measured_and_marks_it(committed_server, tmp_path):
    before = read_counters(committed_server.grpc_url, "digits", "").requests
    file = tmp_path / "result.json"
    process = start_long_bench(committed_server.grpc_url, file, "digits", "-c", "2,4")
    wait_for_load(committed_server.grpc_url, "digits", before + 300)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "partial" in said
    assert "Traceback" not in said
    result = LoadTestResult.model_validate_json(file.read_text())
    (measured,) = result.measurements
    assert not result.complete
    assert not measured.complete
    assert result.interruption == "Ctrl-C"
    assert measured.requests > 0
    assert measured.seconds < 60


def test_a_server_that_dies_leaves_a_partial_result(tmp_path):
    file = tmp_path / "result.json"
    with serve(tmp_path / "served", "double") as server:
        process = start_long_bench(server.grpc_url, file, "double", "-c", "2,4")
        wait_for_load(server.grpc_url, "double", 300)
        server.stop()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert "is gone" in said
    result = LoadTestResult.model_validate_json(file.read_text())
    (measured,) = result.measurements
    assert not measured.complete
    assert measured.latency.count > 0
    assert "Traceback" not in said


def test_what_a_killed_command_leaves_is_removed_by_the_next(committed_server, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    (temporary / "plansmith-a_folder").mkdir()
    (temporary / "plansmith-a_folder" / "of_somebody_else").touch()
    before = read_counters(committed_server.grpc_url, "digits", "").requests
    process = start_long_bench(committed_server.grpc_url, tmp_path / "result.json", "digits", "-c", "2")
    wait_for_load(committed_server.grpc_url, "digits", before + 300)
    process.kill()
    process.communicate(timeout=60)
    left = sorted(path.name for path in temporary.glob("*/*/*"))
    assert {"000000.request", "plan-0.json"} <= set(left)
    process = start_long_bench(committed_server.grpc_url, tmp_path / "result.json", "digits", "-c", "1", *SHORT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert [path.name for path in temporary.glob("*/*")] == ["of_somebody_else"]
    # As by bench, so by the others: nothing makes folders of its own in the system's.
    sources = [path for part in ("client", "perf") for path in (ROOT / part / "src").rglob("*.py")]
    assert {path.stem for path in sources if "tempfile." in path.read_text()} == {"subject"}


@pytest.fixture(scope="module")
def unusual(tmp_path_factory):
    """A server of a model that takes sequences and of one that answers any number of times."""
    repository = tmp_path_factory.mktemp("unusual")
    for name in ("accumulate", "repeat"):
        shutil.copytree(MODELS.with_name("models_client") / name, repository / name)
    with serve(repository) as running:
        yield running


@pytest.mark.parametrize("protocol", ["grpc_url", "http_url"])
@pytest.mark.parametrize(
    ("model", "sentence"),
    [("accumulate", "'accumulate' takes sequences"), ("repeat", "'repeat' is decoupled")],
)
def test_models_of_sequences_and_streams_are_refused_with_what_can_measure_them(
    plansmith, unusual, protocol, model, sentence
):
    said = plansmith("bench", model, "--url", getattr(unusual, protocol), *SHORT, "-c", "1", expect=2).stderr
    assert sentence in said
    assert "perf_analyzer" in said
    assert "--samples" not in said
