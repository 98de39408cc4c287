"""How many replicas a rate takes: against queues whose latency is known exactly, and from a real load test."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from plansmith_perf.capacity import fitted

SERVICE = 100.0
"""Requests per second of one server whose service times are exponential (M/M/1)."""


def p99(rate):
    """Microseconds, waiting included."""
    return 1e6 * math.log(100) / (SERVICE - rate)


def test_the_curve_of_a_queue_that_is_known_is_found_and_predicts_its_limit():
    rates = np.array([10.0, 30, 50, 70, 80, 90])
    curve = fitted(rates, [p99(rate) for rate in rates])
    assert curve.saturation == pytest.approx(SERVICE, rel=0.02)
    assert curve.error < 0.05
    for rate in (20, 60, 85):
        assert curve.latency(rate) == pytest.approx(p99(rate), rel=0.02)
    # log(100) / (100 - rate) seconds are 100 ms at 53.9/s.
    assert curve.highest_rate(100_000) == pytest.approx(53.9, rel=0.06)
    assert curve.highest_rate(1) == 0
    # Nothing is said of rates that were not measured.
    assert curve.highest_rate(1e12) == 90


def test_a_model_that_fits_badly_says_so_and_plans_with_more_replicas():
    rates = np.array([10.0, 30, 50, 70, 80, 90])
    exact = np.array([p99(rate) for rate in rates])
    rough = fitted(rates, exact * [1, 1.4, 0.8, 1.3, 0.9, 1])
    assert rough.error > 0.2
    assert rough.highest_rate(150_000) < fitted(rates, exact).highest_rate(150_000)


def test_the_error_that_is_allowed_for_covers_a_load_that_was_slower_than_predicted():
    rates = np.array([10.0, 30, 50, 70, 80, 90])
    exact = np.array([p99(rate) for rate in rates])
    # Twice what the others predict is an error of all of the prediction, not of half of what was measured.
    assert fitted(rates, exact * [1, 1, 2, 1, 1, 1]).error > 0.9


@pytest.fixture(scope="module")
def measured(plansmith, committed_server, tmp_path_factory):
    """A load test of the committed model at rates far below what it can take."""
    file = tmp_path_factory.mktemp("capacity") / "result.json"
    plansmith(
        *("bench", "digits", "--url", committed_server.grpc_url, "--rate", "10,15,20,25", "--seconds", "3"),
        *("--warmup", "0.3", "--workers", "1", "--distinct-inputs", "4", "--output", file),
    )
    return file


@pytest.fixture
def result(measured, tmp_path):
    """The same with the latency of a queue that is known at rates of 20 to 50, all kept up with."""
    document = json.loads(measured.read_text())
    for each, rate in zip(document["measurements"], (20, 30, 40, 50), strict=True):
        each["load"]["rate"] = each["throughput"] = rate
        each |= {"seconds": 10, "requests": 10 * rate, "errors": 0, "latency_growth": 0, "complete": True}
        each["latency"]["percentiles"]["50"] = p99(rate)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(document))
    return path


def test_replicas_are_told_with_what_is_allowed_for(plansmith, result):
    words = ("capacity", result, "--slo")
    said = json.loads(plansmith(*words, "p50=60s", "--rate", "2000", "--json").stdout)
    assert (said["replicas"], said["each"]) == (40, 50)
    assert "40 replicas: 50.0/s each, where p50 is about 92" in plansmith(*words, "p50=60s", "--rate", "2000").stdout
    assert "1 replica: 49.0/s each" in plansmith(*words, "p50=60s", "--rate", "49").stdout
    refused = plansmith(*words, "p50=1us", "--rate", "2000", expect=3).stdout
    assert "No number of replicas keeps p50=1us: one alone takes about 46" in refused
    assert "ms with the model's error" in refused
    assert "The measured p50 was off the model's by" in refused
    # A percentile that was not asked for is in the histogram.
    assert "1 replica: 49.0/s each, where p47 is" in plansmith(*words, "p47=60s", "--rate", "49").stdout


def test_too_few_rates_are_refused_with_the_way_to_measure_more(plansmith, result, tmp_path):
    document = json.loads(result.read_text())
    *others, last = document["measurements"]
    few = tmp_path / "few.json"
    # Of the last rate one request in a hundred was turned away.
    for measurements in (others, [*others, last | {"errors": 5, "error_rate": 0.01}]):
        few.write_text(json.dumps(document | {"measurements": measurements}))
        said = plansmith("capacity", few, "--rate", "2000", "--slo", "p50=1s", expect=2).stderr
        assert "3 rates of the result have a p50" in said
        assert "plansmith bench digits --rate 100,200,400,600" in said
