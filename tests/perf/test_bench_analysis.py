"""What a load test computes: schedules, percentiles, stability, and how many answers a percentile takes."""

from __future__ import annotations

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from made_measurements import distribution

from plansmith_perf.load.analysis import Records, samples_needed
from plansmith_perf.load.arrivals import due_times
from plansmith_perf.load.recording import MOST_OUTCOMES
from plansmith_perf.load.tally import Tally
from plansmith_perf.results.documents import OpenLoop

SECOND = 1_000_000_000


def records(done: np.ndarray, *, latency: int = 1_000_000) -> Records:
    done = done.astype(np.int64)
    return Records(done - latency, done - latency, done, np.ones(done.size, dtype=bool))


def tally(records: Records) -> Tally:
    whole = Tally()
    whole.add(records, [""] * records.due.size)
    return whole


def test_constant_arrivals_are_evenly_spaced():
    due = due_times(OpenLoop(rate=200, arrivals="constant"), seconds=2.5, seed=0)
    assert due.size == 500
    assert np.all(np.abs(np.diff(due) - 5_000_000) <= 1)


def test_poisson_arrivals_have_exponential_gaps_of_the_rate():
    due = due_times(OpenLoop(rate=1000, arrivals="poisson"), seconds=30, seed=1)
    gaps = np.diff(due) / SECOND
    assert np.all(gaps >= 0)
    assert due[-1] < 30 * SECOND
    assert due.size == pytest.approx(30_000, abs=4 * np.sqrt(30_000))
    # An exponential distribution's standard deviation is its mean.
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)
    assert np.array_equal(due, due_times(OpenLoop(rate=1000, arrivals="poisson"), seconds=30, seed=1))


def test_percentiles_are_right_within_the_precision_of_the_histogram():
    nanoseconds = np.random.default_rng(0).lognormal(14, 1, size=20_000).astype(np.int64)
    result = distribution(nanoseconds, [50, 99, 99.9])
    for percent in (50, 99, 99.9):
        exact = np.percentile(nanoseconds, percent, method="inverted_cdf") / 1000
        assert result.percentiles[f"{percent:g}"] == pytest.approx(exact, rel=2e-3, abs=1)
    assert result.mean == pytest.approx(nanoseconds.mean() / 1000)
    histogram = HdrHistogram.decode(result.histogram)
    for percent in (1e-9, 1, 50, 99, 99.9, 99.99, 100):
        found = distribution(nanoseconds, [percent]).percentiles[f"{percent:g}"]
        assert found == histogram.get_value_at_percentile(percent)
    assert distribution(np.array([], dtype=np.int64), [50]) is None


@pytest.mark.parametrize(("percentile", "answers"), [(50, 20), (90, 100), (99, 1000), (99.9, 10_000)])
def test_a_percentile_takes_ten_answers_beyond_it(percentile, answers):
    assert samples_needed(percentile) == answers


def test_a_server_that_slows_down_is_not_stable():
    steady = np.linspace(0, 5 * SECOND, 5000, endpoint=False)
    slowing = np.sqrt(np.linspace(0, 1, 5000, endpoint=False)) * 5 * SECOND
    assert tally(records(steady)).stability(5).stable
    assert not tally(records(slowing)).stability(5).stable
    assert tally(records(np.array([]))).stability(5) is None


def test_what_chance_explains_is_stable():
    due = due_times(OpenLoop(rate=40, arrivals="poisson"), seconds=5, seed=3)
    result = tally(records(due)).stability(5)
    assert result.spread > 0.1
    assert result.stable


def test_the_timeline_shows_the_second_in_which_the_server_stalled():
    rows = tally(records(np.array([0.1, 0.2, 2.5]) * SECOND)).timeline(3)
    assert [row.answers for row in rows] == [2, 0, 1]
    assert rows[1].median_latency is None
    assert rows[0].median_latency == pytest.approx(1000)


def test_a_load_that_is_added_up_in_parts_is_the_load_as_a_whole():
    rng = np.random.default_rng(0)
    sent = np.sort(rng.uniform(-1, 4, 5000) * SECOND).astype(np.int64)
    done = sent + rng.lognormal(15, 1, sent.size).astype(np.int64)
    outcomes = rng.choice(["", "", "", "refused", "WRONG ANSWER: off"], sent.size).tolist()
    load = Records(sent - 1000, sent, done, np.array([not outcome for outcome in outcomes]))
    whole, parts = Tally(), Tally()
    whole.add(load, outcomes, end=3.5 * SECOND)
    for part in np.array_split(rng.permutation(sent.size), 7):
        parts.add(load.select(part), [outcomes[index] for index in part], end=3.5 * SECOND)
    inside = (load.due >= 0) & (load.due < 3.5 * SECOND)
    wrong = np.array([outcome.startswith("WRONG") for outcome in outcomes])
    latency = (load.done - load.due)[inside & load.right]
    for tally in (whole, parts):
        assert tally.requests == inside.sum()
        assert tally.warmup_requests == (load.due < 0).sum()
        assert (tally.errors, tally.wrong_answers) == ((inside & ~load.right).sum(), (inside & wrong).sum())
        assert tally.stability(3.5) == whole.stability(3.5)
        assert tally.timeline(3.5) == whole.timeline(3.5)
        assert tally.latency.distribution([50, 99]).percentiles == distribution(latency, [50, 99]).percentiles
    assert whole.in_time == (load.right & (load.done >= 0) & (load.done < 3.5 * SECOND)).sum()
    assert sum(second.answers for second in whole.timeline(3.5)) == whole.in_time
    for number, second in enumerate(whole.timeline(3.5)[:3]):
        then = np.sort((load.done - load.due)[load.right & (load.done // SECOND == number)] / 1000)
        exact = [then[int(share * then.size + 0.5) - 1] for share in (0.5, 0.99)]
        assert [second.median_latency, second.p99_latency] == pytest.approx(exact, rel=2e-3)


def test_different_outcomes_without_end_do_not_fill_the_memory():
    tally = Tally()
    for begin in range(0, 3000, 100):
        tally.add(
            Records(*(np.arange(100),) * 3, np.zeros(100, dtype=bool)), [f"error {begin + i}" for i in range(100)]
        )
    assert tally.errors == 3000
    assert len(tally.failures) <= MOST_OUTCOMES + 1
