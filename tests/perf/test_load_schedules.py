"""The load of a Locust run in time: shapes, schedules and recorded arrivals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.load.arrivals import schedule
from plansmith_perf.locust.arrival_log import read_arrival_log
from plansmith_perf.locust.options import parse_options

GIVEN = {
    **dict.fromkeys(("model", "model_version", "samples", "golden", "arrival_log", "slo", "result", "page_host"), ""),
    "protocol": "both",
    "grpc_url": "localhost:8001",
    "http_url": "http://localhost:8000",
    "batch_size": 1,
    "distinct_inputs": 16,
    "tolerance": 1e-3,
    "seed": 0,
    "timeout": 30.0,
    "think_time": 0.0,
    "warmup": 0.0,
    "arrival_rate": 0.0,
    "arrivals": "poisson",
    "load_shape": "constant",
    "shape_base": 0.1,
    "shape_steps": 5,
    "shape_spike": 0.2,
    "arrival_column": "timestamp",
    "num_users": 10,
    "spawn_rate": None,
    "run_time": 100,
}


def profile(**options):
    return parse_options(GIVEN | options).profile


def due(rate, seconds=math.inf, **more):
    times = schedule(rate, **({"arrivals": "constant", "seed": 0} | more))
    return np.fromiter(itertools.takewhile(lambda moment: moment < seconds, times), dtype=np.float64)


@pytest.mark.parametrize(
    ("shape", "levels"),
    [
        ("constant", [10, 10, 10, 10, 10]),
        ("ramp", [1, 3.25, 5.5, 7.75, 10]),
        ("step", [1, 3.25, 5.5, 7.75, 10]),
        ("spike", [1, 1, 10, 1, 1]),
    ],
)
def test_a_shape_says_how_many_users_there_are(shape, levels):
    shaped = profile(load_shape=shape)
    assert shaped.segments[-1].end == 100
    assert [shaped.level(moment) for moment in (0, 25, 50, 75, 100)] == pytest.approx(levels)


def test_steps_are_flat_and_a_spike_is_as_long_as_asked():
    steps = profile(load_shape="step", shape_steps=2, shape_base=0.5)
    assert [steps.level(moment) for moment in (0, 49.9, 50, 99.9)] == [5, 5, 10, 10]
    spike = profile(load_shape="spike", shape_spike=0.5, shape_base=0)
    assert [spike.level(moment) for moment in (24.9, 25, 74.9, 75)] == [0, 10, 10, 0]


def test_constant_arrivals_are_evenly_spaced_without_an_end():
    times = due(profile(arrival_rate=250, run_time=None), seconds=10)
    assert times == pytest.approx(np.arange(2500) / 250)


@pytest.mark.parametrize("shape", ["constant", "ramp", "step", "spike"])
@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_as_many_requests_are_due_at_each_time_as_the_shape_says(shape, arrivals):
    rate = profile(load_shape=shape, arrival_rate=400)
    times = due(rate, arrivals=arrivals)
    assert np.all(np.diff(times) >= 0)
    assert times[-1] < 100
    edges = np.linspace(0, 100, 11)
    found, _ = np.histogram(times, edges)
    fine = np.linspace(0, 100, 10_001)[:-1] + 0.005
    expected = np.array([rate.level(moment) for moment in fine]).reshape(10, -1).mean(axis=1) * 10
    # Six standard deviations of a Poisson process; constant arrivals are off by one at most.
    allowed = 6 * np.sqrt(expected) if arrivals == "poisson" else 1.5
    assert np.all(np.abs(found - expected) <= allowed)


def test_poisson_gaps_are_exponential_and_repeatable():
    rate = profile(arrival_rate=100)
    times = due(rate, arrivals="poisson", seed=3)
    gaps = np.diff(times)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.1)
    assert np.array_equal(times, due(rate, arrivals="poisson", seed=3))
    assert not np.array_equal(times[:100], due(rate, arrivals="poisson", seed=4)[:100])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.log", "# from the proxy\n100.5\n\n100.0\n102.25\n"),
        ("iso.log", "2026-03-01T10:00:00.500Z\n2026-03-01T11:00:00+01:00\n2026-03-01T10:00:02.250\n"),
        ("log.csv", "id,timestamp\na,0.5\nb,0\nc,2.25\n"),
        ("log.jsonl", '{"timestamp": 7.5}\n{"timestamp": "7", "id": 3}\n{"timestamp": 9.25}\n'),
    ],
)
def test_recorded_arrivals_are_read_in_each_format_and_put_in_order(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_arrival_log(tmp_path / name, column="timestamp") == pytest.approx([0, 0.5, 2.25])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.log", None, "cannot be read: No such file"),
        ("empty.log", b"# nothing\n\n", "has no arrivals"),
        ("words.log", b"1.0\nsoon\n", r"line 2: 'soon' is not a time: write seconds"),
        ("nan.log", b"nan\n", "line 1: 'nan' is not a time"),
        ("milliseconds.log", b"1772359200000\n1772362800000\n", "divide milliseconds by 1000"),
        ("binary.log", b"\xff\xfe\x00", "is not UTF-8 text"),
        ("other.csv", b"id,time\na,1\n", "line 1 has no column 'timestamp'.*--arrival-column: id, time"),
        ("hole.csv", b"id,timestamp\na,1\nb\n", "line 3: '' is not a time"),
        ("broken.jsonl", b'{"timestamp": 1}\n{"timestamp"\n', "line 2 is no JSON"),
        ("other.jsonl", b'{"time": 1}\n', "line 1 is not a JSON object with 'timestamp'"),
        ("list.jsonl", b'{"timestamp": [1]}\n', "line 1: .* is not a time"),
    ],
)
def test_a_log_that_cannot_be_replayed_is_refused_with_the_line_and_what_to_do(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadTestMisconfigured, match=sentence):
        read_arrival_log(tmp_path / name, column="timestamp")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"arrival_rate": -1.0}, "--arrival-rate must be 0 or more and finite, got -1"),
        ({"arrival_rate": math.inf}, "--arrival-rate must be 0 or more and finite, got inf"),
        ({"think_time": math.nan}, "--think-time must be 0 or more and finite, got nan"),
        ({"timeout": 0.0}, "--timeout must be above 0 and finite, got 0"),
        ({"batch_size": 0}, "--batch-size must be 1 or more, got 0"),
        ({"shape_base": 1.0}, "--shape-base is a share and must be below 1, got 1"),
        ({"shape_steps": 1}, "--shape-steps must be 2 or more, got 1"),
        ({"shape_spike": 0.0}, "--shape-spike must be above 0, got 0"),
        ({"slo": "fast"}, "must look like p99=50ms, with the unit us, ms or s, got 'fast'"),
        ({"load_shape": "sawtooth"}, "--load-shape must be one of constant, ramp.*, got sawtooth"),
        ({"load_shape": "ramp", "run_time": None}, "give --run-time"),
        ({"load_shape": "replay"}, "give --arrival-log FILE"),
        ({"load_shape": "replay", "arrival_log": "a.log", "arrival_rate": 5.0}, "leave --arrival-rate out"),
        ({"arrival_log": "a.log"}, "--load-shape replay"),
        ({"arrival_rate": 5.0, "think_time": 1.0}, "--think-time is for a closed loop"),
        ({"warmup": 100.0}, "leaves nothing"),
        ({"result": "/nowhere/result.json"}, "the folder /nowhere does not exist"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_a_sentence(options, sentence):
    with pytest.raises(LoadTestMisconfigured, match=sentence):
        parse_options(GIVEN | options)
