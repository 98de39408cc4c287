"""The search for the highest rate that keeps a service level objective."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_measurements import distribution, made_up

from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.load.analysis import Records
from plansmith_perf.load.arrivals import due_times
from plansmith_perf.load.tally import Tally
from plansmith_perf.results.documents import ClosedLoop, LoadTestResult, Measurement, OpenLoop, SloOutcome
from plansmith_perf.slo import Slo, highest_rate
from plansmith_server import ServerOptions, TritonServer

SHORT = ("--seconds", "1", "--warmup", "0.2")


def measurement(
    load, *, milliseconds: float, errors: int = 0, in_time: float = 1.0, requests: int = 1000, growth: float = 0.0
) -> Measurement:
    """A second whose requests all took as long."""
    latency = distribution(np.full(requests - errors, int(milliseconds * 1e6)), [50, 99])
    counts = {"requests": requests, "errors": errors, "error_rate": errors / requests, "latency_growth": growth}
    return made_up(load, latency, throughput=(requests - errors) * in_time, **counts)


def search(latency, requests=lambda _: 1000) -> tuple[SloOutcome, list[ClosedLoop | OpenLoop]]:
    """Run the search on a server whose latency in milliseconds, and its answers, are functions of the load."""
    series = highest_rate(Slo.parse("p99=50ms"), "poisson")
    loads = [next(series)]
    while True:
        try:
            measured = measurement(loads[-1], milliseconds=latency(loads[-1]), requests=requests(loads[-1]))
            loads.append(series.send(measured))
        except StopIteration as end:
            return end.value, loads


def queue(capacity: float):
    """An M/M/1 queue's latency in milliseconds; 10 s where it never empties."""

    def latency(load):
        if isinstance(load, ClosedLoop):
            return 1000 / capacity
        return min(10_000.0, 1000 / (capacity - load.rate)) if load.rate < capacity else 10_000.0

    return latency


@pytest.mark.parametrize("capacity", [30, 400, 20_000])
def test_the_highest_rate_is_found_within_five_per_cent_and_confirmed(capacity):
    outcome, loads = search(queue(capacity))
    highest = capacity - 1000 / 50
    assert outcome.met
    assert highest / 1.06 <= outcome.rate <= highest
    assert loads[-1] == OpenLoop(rate=outcome.rate, arrivals="poisson")
    assert loads.count(loads[-1]) == 2
    assert len(loads) < 20


def test_a_server_that_is_too_slow_for_one_request_is_asked_no_further():
    outcome, loads = search(lambda _: 51)
    assert outcome == SloOutcome(slo="p99=50ms", met=False, rate=None)
    assert loads == [ClosedLoop(concurrency=1)]


def test_a_rate_that_is_not_confirmed_is_lowered():
    seen: set[float] = set()

    def lucky_once(load):
        if isinstance(load, OpenLoop) and load.rate in seen:
            return 51
        if isinstance(load, OpenLoop):
            seen.add(load.rate)
        return queue(400)(load)

    outcome, loads = search(lucky_once)
    assert outcome.met
    assert outcome.rate == pytest.approx(0.9 * loads[-2].rate)


def test_a_rate_that_too_few_answers_were_seen_to_keep_is_not_told():
    with pytest.raises(LoadTestMisconfigured, match=r"keeps it, .*, got 900; .* --seconds 2,"):
        search(queue(400), lambda load: 1000 if isinstance(load, ClosedLoop) else 900)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"milliseconds": 51}, "p99 is 51.0"),
        ({"milliseconds": 1, "errors": 2}, "0.20% of the requests failed"),
        ({"milliseconds": 1, "in_time": 0.9}, "900 of 1,000 requests were answered when time was over"),
        ({"milliseconds": 1, "growth": 0.02}, "the latency grew by 20 ms each second"),
    ],
)
def test_slow_answers_errors_and_a_growing_queue_all_miss_the_objective(bad, why):
    slo = Slo.parse("p99=50ms")
    assert slo.is_met(measurement(ClosedLoop(concurrency=1), milliseconds=49))
    missed = measurement(OpenLoop(rate=100, arrivals="poisson"), **bad)
    assert not slo.is_met(missed)
    assert why in slo.why_missed(missed)


def recording(load, capacity: float, seconds: float, seed: int) -> Measurement:
    """What is measured of a server that answers one request after the other, exactly so many a second."""
    took = int(1e9 / capacity)
    if isinstance(load, ClosedLoop):
        # A client that takes a third of that time for itself.
        due = np.arange(0, int(seconds * 1e9), took + took // 3)
    else:
        due = due_times(load, seconds=seconds, seed=seed)
    done = np.empty_like(due)
    free = 0
    for number, moment in enumerate(due.tolist()):
        free = max(free, moment) + took
        done[number] = free
    records = Records(due, due, done, np.ones(due.size, np.bool_))
    latency = distribution(done - due, [50])
    tally = Tally()
    tally.add(records, [""] * due.size, end=seconds * 1e9)
    return measurement(load, milliseconds=1).model_copy(
        update={
            "seconds": seconds,
            "requests": due.size,
            "throughput": tally.per_second(seconds),
            "latency": latency,
            "latency_growth": tally.latency_growth(seconds) if isinstance(load, OpenLoop) else None,
        }
    )


def certified(limit: str, capacity: float, seconds: float) -> SloOutcome:
    """What the search finds of such a server."""
    series = highest_rate(Slo.parse(limit), "constant")
    load = next(series)
    for seed in itertools.count():
        try:
            load = series.send(recording(load, capacity, seconds, seed))
        except StopIteration as end:
            return end.value
    raise AssertionError


@pytest.mark.parametrize("limit", ["p50=100ms", "p50=500ms", "p50=30s"])
@pytest.mark.parametrize("seconds", [5, 10, 30])
@pytest.mark.parametrize("capacity", [50, 100, 1000])
def test_no_more_than_a_server_of_known_capacity_answers_is_certified_however_generous_the_limit(
    capacity, seconds, limit
):
    outcome = certified(limit, capacity, seconds)
    assert outcome.met
    assert 0.93 * capacity <= outcome.rate <= 1.02 * capacity


def test_a_model_slower_than_one_answer_a_second_meets_an_objective_too():
    outcome = certified("p50=10s", 0.4, 600)
    assert outcome.met
    assert 0.93 * 0.4 <= outcome.rate <= 1.02 * 0.4


@pytest.mark.parametrize(("rate", "grows"), [(90, False), (99, False), (102, True), (104.4, True), (150, True)])
def test_the_latency_grows_by_what_is_too_much(rate, grows):
    measured = recording(OpenLoop(rate=rate, arrivals="constant"), 100, 10, 0)
    assert measured.latency_growth == pytest.approx(rate / 100 - 1 if grows else 0.0, abs=1e-3)
    assert Slo.parse("p50=30s").is_met(measured) != grows


def test_bursts_that_pass_are_no_overload():
    """Independent arrivals at 80 % of what the server can."""
    measured = [recording(OpenLoop(rate=80, arrivals="poisson"), 100, 30, seed) for seed in range(20)]
    assert sum(Slo.parse("p50=500ms").is_met(each) for each in measured) >= 19


@pytest.mark.parametrize(("text", "limit"), [("p99=50ms", 50_000), ("p50=0.5s", 500_000), ("p99.9=800us", 800)])
def test_an_objective_is_written_with_its_unit(text, limit):
    assert Slo.parse(text).limit == limit


@pytest.mark.parametrize("text", ["", "p99", "p99=50", "p100=5ms", "p0=5ms", "p99=0ms", "99=5ms", "p99=-5ms"])
def test_what_is_no_objective_is_refused(text):
    with pytest.raises(LoadTestMisconfigured, match="p99=50ms"):
        Slo.parse(text)


def test_an_objective_that_one_request_misses_exits_with_3(plansmith, committed_server, tmp_path):
    words = ("bench", "digits", "--url", committed_server.grpc_url, *SHORT, "--slo", "p50=1us", "-o", "result.json")
    done = plansmith(*words, expect=3, cwd=tmp_path)
    assert re.search(r"p50=1us is not met at any rate .*, the last one, p50 is \d", done.stderr), done.stderr
    result = LoadTestResult.model_validate_json((tmp_path / "result.json").read_text())
    assert [measured.load for measured in result.measurements] == [ClosedLoop(concurrency=1)]
    assert result.slo == SloOutcome(slo="p50=1us", met=False, rate=None)


def test_a_run_that_is_too_short_for_the_percentile_is_refused_with_the_time_it_takes(plansmith, served_naps, tmp_path):
    np.savez(tmp_path / "naps.npz", seconds=np.full((2, 1), 0.05, np.float32))
    words = ("bench", "slow", "--url", served_naps, *SHORT, "--samples", "naps.npz", "--slo", "p99=5s")
    said = plansmith(*words, cwd=tmp_path, expect=2).stderr
    assert "p99 takes 1,000 answers" in said
    # One instance that sleeps for 50 ms answers at most 20 requests in that second.
    assert int(re.search(r"--seconds (\d+)", said)[1]) >= 55


def test_the_search_finds_where_a_real_server_stops_keeping_up(plansmith, served_naps, tmp_path):
    np.savez(tmp_path / "naps.npz", seconds=np.full((2, 1), 0.02, np.float32))
    long_enough = ("--seconds", "2.5", "--warmup", "0.2")
    words = ("bench", "slow", "--url", served_naps, *long_enough, "--samples", "naps.npz", "--arrivals", "constant")
    done = plansmith(*words, "--slo", "p50=200ms", "--json", cwd=tmp_path)
    result = LoadTestResult.model_validate_json(done.stdout)
    # One instance that sleeps for 20 ms cannot answer more than 50 requests a second.
    assert result.slo.met
    assert 1 <= result.slo.rate <= 51
    assert result.measurements[-1].load == OpenLoop(rate=result.slo.rate, arrivals="constant")


@pytest.fixture(scope="module")
def served_naps(tmp_path_factory):
    repository = tmp_path_factory.mktemp("served")
    shutil.copytree(Path(__file__).parents[1] / "models_python" / "slow", repository / "slow")
    # With this queue policy, Triton 2.51's dynamic batcher at times sees a request only after half a second.
    config = repository / "slow" / "config.pbtxt"
    config.write_text(config.read_text().partition("dynamic_batching")[0])
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, config_name="none")
    with TritonServer(options) as server:
        yield server.grpc_url
