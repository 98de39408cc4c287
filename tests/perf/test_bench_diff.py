"""`plansmith bench diff`: a difference is told from noise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from made_measurements import distribution, made_up

from plansmith_perf.load.analysis import Records
from plansmith_perf.load.tally import Tally
from plansmith_perf.results.differences import Difference, difference
from plansmith_perf.results.documents import ClosedLoop, Environment, LoadTestResult, Measurement, OpenLoop

SECOND = 1_000_000_000
SHORT = ("--seconds", "0.5", "--warmup", "0.1", "--workers", "1")


def measurement(rates, *, milliseconds: float = 2.0, errors: int = 0, concurrency: int = 8) -> Measurement:
    """One second for each of the rates, answered with latencies around a mean."""
    done = np.concatenate([i * SECOND + np.linspace(0, SECOND, round(r), endpoint=False) for i, r in enumerate(rates)])
    latency = np.random.default_rng(len(done)).lognormal(np.log(milliseconds * 1e6), 0.1, size=done.size)
    records = Records(*(times.astype(np.int64) for times in (done - latency, done - latency, done)), done >= 0)
    seconds = float(len(rates))
    tally = Tally()
    tally.add(records, [""] * done.size)
    return made_up(
        ClosedLoop(concurrency=concurrency),
        distribution(records.done - records.due, [50, 99]),
        seconds=seconds,
        requests=done.size + errors,
        errors=errors,
        throughput=done.size / seconds,
        stability=tally.stability(seconds),
        timeline=tally.timeline(seconds),
        error_rate=errors / (done.size + errors),
    )


def result(*measurements: Measurement, model: str = "digits") -> LoadTestResult:
    environment = Environment(
        processor="x", cores=2, memory=1, system="Linux", python="3.11", packages={}, server="triton 2.51.0"
    )
    return LoadTestResult(
        tool="plansmith", created="2026-01-01T00:00:00+00:00", model=model, model_version="1", protocol="grpc",
        batch_size=1, inputs="random", expected_answers="idle server", workers=2, environment=environment,
        complete=True, interruption=None, measurements=list(measurements),
    )  # fmt: skip


def drifting(rng: np.random.Generator, *, seconds: int, mean: float) -> np.ndarray:
    """A rate that wanders: each second is like the one before it."""
    noise = np.zeros(seconds)
    for i in range(1, seconds):
        noise[i] = 0.6 * noise[i - 1] + rng.normal(0, 0.03)
    return mean * np.exp(noise)


def rounds(rng: np.random.Generator, *, mean: float, milliseconds: float = 2.0, count: int = 5) -> list[Measurement]:
    """Rounds whose speed differs by some per cent from run to run, and hardly within a run."""
    speeds = np.exp(rng.normal(0, 0.04, size=count))
    return [measurement([mean * speed] * 2, milliseconds=milliseconds / speed) for speed in speeds]


def verdicts(found: Difference) -> dict[str, str]:
    return {change.figure: change.verdict for change in found.changes}


def test_of_runs_of_the_same_server_few_are_called_different():
    rng = np.random.default_rng(0)
    pairs = [(result(*rounds(rng, mean=500)), result(*rounds(rng, mean=500))) for _ in range(100)]
    called = [any("no difference" not in v for v in verdicts(difference(*pair)).values()) for pair in pairs]
    assert sum(called) <= 10


def test_seconds_that_resemble_their_neighbours_do_not_make_noise_significant():
    rng = np.random.default_rng(1)
    called = 0
    for _ in range(100):
        sides = [result(measurement(drifting(rng, seconds=30, mean=200))) for _ in range(2)]
        (change,) = [change for change in difference(*sides).changes if change.figure == "answers/s"]
        assert change.of_each == "second"
        called += change.chance < 0.05
    # Taken as independent, about a third of them would be.
    assert called <= 12


def test_a_server_that_is_a_quarter_faster_is_called_better():
    rng = np.random.default_rng(2)
    found = difference(result(*rounds(rng, mean=400, milliseconds=2.5)), result(*rounds(rng, mean=500, milliseconds=2)))
    assert set(verdicts(found).values()) == {"better"}
    change = found.changes[0]
    assert change.figure == "answers/s"
    assert change.of_each == "round"
    assert change.counts == (5, 5)
    assert change.ratio == pytest.approx(1.25, abs=0.1)
    low, high = change.interval
    assert low < change.ratio < high
    assert not found.worse(than=0)


def test_a_slower_server_is_worse_by_its_amount_only():
    rng = np.random.default_rng(3)
    found = difference(result(*rounds(rng, mean=500)), result(*rounds(rng, mean=400, milliseconds=2.5)))
    assert {change.figure for change in found.worse(than=0.05)} == {"answers/s", "p50", "p99"}
    assert found.worse(than=1.0) == []


def test_more_errors_are_worse_whatever_the_speed():
    before, after = measurement([500] * 6), measurement([500] * 6, errors=60)
    found = difference(result(before), result(after))
    assert verdicts(found)["errors"] == "worse"
    assert [change.figure for change in found.worse(than=0.5)] == ["errors"]
    assert verdicts(difference(result(after), result(before)))["errors"] == "better"


def test_too_little_data_says_so_instead_of_an_opinion():
    found = difference(result(measurement([500] * 3)), result(measurement([900] * 3)))
    assert set(verdicts(found).values()) == {"too little data"}
    assert all(change.chance is None for change in found.changes)


def test_only_loads_that_both_have_are_compared_and_what_else_differs_is_said():
    before = result(measurement([500] * 6), measurement([500] * 6, concurrency=1))
    after = result(measurement([500] * 6), model="other")
    found = difference(before, after)
    assert {change.load for change in found.changes} == {ClosedLoop(concurrency=8)}
    assert "the model differs: digits before, other after" in found.notes
    assert any("--rounds 5" in note for note in found.notes)
    nothing = difference(result(measurement([5] * 6, concurrency=2)), result(measurement([5] * 6)))
    assert nothing.changes == []
    assert "have no load in common" in nothing.notes[-1]


@pytest.fixture(scope="module")
def measured(plansmith, committed_server, tmp_path_factory):
    """Two real results of one server, of three rounds each."""
    folder = tmp_path_factory.mktemp("results")
    for name in ("one.json", "two.json"):
        words = ("bench", "digits", "--url", committed_server.grpc_url, *SHORT, "-c", "1,2", "--rounds", "3")
        plansmith(*words, "-o", name, cwd=folder)
    return folder


def test_real_results_are_compared_load_by_load(plansmith, measured):
    found = Difference.model_validate_json(
        plansmith("bench", "diff", "one.json", "two.json", "--json", cwd=measured).stdout
    )
    assert {change.load.concurrency for change in found.changes} == {1, 2}
    assert {"answers/s", "p50", "p99"} <= {change.figure for change in found.changes}
    assert all(change.counts == (3, 3) for change in found.changes)
    shown = plansmith("bench", "diff", "one.json", "two.json", cwd=measured).stdout
    assert "1 in flight" in shown
    assert "verdict" in shown


def test_a_result_is_not_different_from_itself(plansmith, measured):
    done = plansmith("bench", "diff", "one.json", "one.json", "--fail-if-slower", "0%", "--json", cwd=measured)
    assert {change.verdict for change in Difference.model_validate_json(done.stdout).changes} == {"no difference shown"}


def test_a_pipeline_is_failed_by_a_slower_result(plansmith, measured):
    document = json.loads((measured / "one.json").read_text())
    # What was measured may have varied by more than ten times where others kept the machine busy.
    for name, rate in (("fast.json", 1000), ("slow.json", 100)):
        for number, m in enumerate(document["measurements"]):
            m["throughput"] = rate + number
        (measured / name).write_text(json.dumps(document))
    done = plansmith("bench", "diff", "fast.json", "slow.json", "--fail-if-slower", "5%", cwd=measured, expect=3)
    assert "Worse by more than" in done.stderr
    plansmith("bench", "diff", "fast.json", "slow.json", cwd=measured)


def test_a_pipeline_does_not_pass_on_what_was_not_compared(plansmith, measured):
    document = json.loads((measured / "one.json").read_text())
    for m in document["measurements"]:
        m["load"]["concurrency"] += 100
    (measured / "other.json").write_text(json.dumps(document))
    words = ("bench", "diff", "one.json", "other.json")
    done = plansmith(*words, "--fail-if-slower", "5%", cwd=measured, expect=2)
    assert "cannot say that nothing got worse at 1 in flight" in done.stderr
    plansmith(*words, cwd=measured)


def test_rounds_measure_every_load_in_turn(measured):
    loads = [
        m.load.concurrency for m in LoadTestResult.model_validate_json((measured / "one.json").read_text()).measurements
    ]
    assert loads == [1, 2, 1, 2, 1, 2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("diff", "none.json", "none.json"), "none.json cannot be read"),
        (("diff", "one.json", "bad.json"), "is not a result of a load test"),
        (
            ("diff", "one.json", "one.json", "--fail-if-slower", "much"),
            "--fail-if-slower must be a percentage such as 5%, got 'much'",
        ),
        (("digits", "--slo", "p99=1s", "--rounds", "2"), "either --slo or --rounds"),
    ],
)
def test_what_cannot_be_compared_is_named(plansmith, measured, words, said):
    (measured / "bad.json").write_text("{}")
    assert said in plansmith("bench", *words, cwd=measured, expect=2).stderr


def test_a_model_that_is_called_like_a_command_is_still_a_model(plansmith, committed_server):
    done = plansmith("bench", "run", "diff", "--url", committed_server.grpc_url, expect=2)
    assert "diff" in done.stderr
    assert "BEFORE" not in done.stderr


def test_open_loops_of_another_rate_are_other_loads():
    slow, fast = OpenLoop(rate=10, arrivals="constant"), OpenLoop(rate=20, arrivals="constant")
    sides = [result(measurement([10] * 6).model_copy(update={"load": load})) for load in (slow, fast)]
    assert difference(*sides).changes == []
