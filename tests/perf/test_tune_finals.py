"""How `plansmith tune` decides: answers are compared, and the best trials measured again in interleaved rounds."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from build_models import write

from plansmith_build.repository.config import config_from_text
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_client import Client
from plansmith_perf.errors import LoadTestMisconfigured, WrongAnswer
from plansmith_perf.load.measuring import MeasuringOptions
from plansmith_perf.load.requests import CheckedRequest
from plansmith_perf.slo import Slo
from plansmith_perf.tuning.answers import compared_answers
from plansmith_perf.tuning.finals import Finalist, check_round_length, play_rounds, round_seconds
from plansmith_perf.tuning.records import FinalRound, SettingRecord, TrialRecord
from plansmith_perf.tuning.trials import TrialRunner
from plansmith_perf.tuning.verdicts import decide, verdict
from plansmith_perf.tuning.workbench import Workbench

if TYPE_CHECKING:
    from collections.abc import Iterator

SLOW = Path(__file__).parents[1] / "models_python" / "slow"
SLO = Slo.parse("p99=50ms")
SETTING = SettingRecord(
    variant="sums", instances=1, threads=0, max_batch_size=8, queue_delay=50000, preferred_batch_size=0
)


def trial(*, number: int, throughput: float = 100, concurrency: int = 8, latency: float = 1000) -> TrialRecord:
    """A trial of the search."""
    return TrialRecord(
        number=number, setting=SETTING, status="measured", reason="", throughput=throughput, concurrency=concurrency,
        latency=latency, seconds=1,
    )  # fmt: skip


def rounds_of(rates: dict[int, list[float]], missed: dict[int, int] | None = None) -> list[FinalRound]:
    return [
        FinalRound(trial=trial, round=number, throughput=rate, latency=1, kept=number >= (missed or {}).get(trial, 0))
        for trial, series in rates.items()
        for number, rate in enumerate(series)
    ]


def test_what_is_faster_in_every_round_wins():
    played = rounds_of({0: [100, 110, 90, 105, 95], 3: [150, 168, 133, 160, 140], 7: [120, 130, 110, 128, 115]})
    decision = decide(played, in_use=0, finalists=[3, 7], rounds=5)
    assert decision.winner == 3
    assert decision.ratio == pytest.approx(1.5, abs=0.03)
    assert decision.p_value < 0.001


@pytest.mark.parametrize(
    ("rates", "said"), [([130, 80, 125, 90, 120], "chance"), ([101, 111, 91, 106, 96], "less than 1.02 times")]
)
def test_noise_and_crumbs_do_not_win(rates, said):
    decision = decide(rounds_of({0: [100, 110, 90, 105, 95], 3: rates}), in_use=0, finalists=[3], rounds=5)
    assert decision.winner is None
    assert said in decision.reason


def test_a_finalist_that_misses_the_objective_in_most_rounds_does_not_win():
    played = rounds_of({0: [100] * 5, 3: [201, 202, 203, 204, 205]}, missed={3: 3})
    decision = decide(played, in_use=0, finalists=[3], rounds=5)
    assert decision.winner is None
    assert "more than half" in decision.reason


def test_what_keeps_the_objective_wins_over_what_does_not():
    decision = decide(rounds_of({3: [10] * 5, 4: [20] * 5}), in_use=None, finalists=[3, 4], rounds=5)
    assert (decision.winner, decision.ratio) == (4, None)


def test_where_the_configuration_in_use_is_lost_on_the_way_nothing_is_said_to_be_better():
    decision = decide(rounds_of({0: [10] * 3, 3: [20] * 5}), in_use=0, finalists=[3], rounds=5)
    assert decision.winner is None
    assert "could not be measured in every round" in decision.reason


def test_the_verdict_says_in_how_many_rounds_the_objective_was_kept():
    trials = [trial(number=0)]

    def said(missed: int) -> str:
        played = rounds_of({0: [100, 110, 90, 105, 95], 3: [150, 168, 133, 160, 140]}, missed={3: missed})
        decision = decide(played, in_use=0, finalists=[3], rounds=5)
        return verdict(trials, decision, SLO.text, in_use_path="config.pbtxt", rounds=5)

    assert said(0).endswith("times the throughput of config.pbtxt, and kept p99=50ms in all of 5 rounds")
    assert said(2).endswith("kept p99=50ms in 3 of 5 rounds")


def test_a_round_lasts_until_there_are_enough_answers_for_the_percentile():
    assert round_seconds(SLO, 100, least=1) == pytest.approx(11)
    assert round_seconds(SLO, 10_000, least=1) == 1
    assert round_seconds(SLO, 1, least=1) == 60
    assert round_seconds(SLO, 1, least=90) == 90
    assert round_seconds(SLO, 0, least=1) == 60


def test_what_is_too_slow_for_the_percentile_is_said_with_what_would_do():
    def in_use(rate: float) -> TrialRecord:
        return trial(number=0, throughput=rate, concurrency=2, latency=2e6)

    check_round_length(SLO, in_use(20), least=1)
    with pytest.raises(LoadTestMisconfigured, match=r"1,000 answers.* 10\.0 a second.*--seconds 110,.*p95=50ms"):
        check_round_length(SLO, in_use(10), least=1)
    check_round_length(SLO, in_use(10), least=110)
    # Nothing was answered in time: two at a time in two seconds are one a second.
    with pytest.raises(LoadTestMisconfigured, match=r" 1\.00 a second.*--seconds 1100,.*p75=50ms"):
        check_round_length(SLO, in_use(0), least=1)


def test_answers_are_compared_as_exactly_as_the_variant_computes(committed_server):
    image = {"images": np.random.default_rng(0).standard_normal((1, 8, 8)).astype(np.float32)}
    with Client(committed_server.grpc_url) as client:
        model = client.model("digits")
        right = dict(model.infer(image))["probabilities"]
        close = [CheckedRequest(image, {"probabilities": right + np.float32(0.01) * right.max()})]
        other = [CheckedRequest(image, {"probabilities": np.roll(right, 5, axis=1)})]
        with pytest.raises(WrongAnswer):
            compared_answers(model, close, reduced_precision=False, tolerance=1e-3)
        answers = compared_answers(model, close, reduced_precision=True, tolerance=1e-3)
        # What the precision costs is no excuse under load: this model rounds a batch as it does its rows.
        assert answers.tolerance == 1e-3
        np.testing.assert_array_equal(answers.requests[0].expected["probabilities"], right)
        with pytest.raises(WrongAnswer, match="agrees"):
            compared_answers(model, other, reduced_precision=True, tolerance=1e-3)


# What is added to each row is the greatest value of the batch, so many times.
DEPENDS_ON_THE_BATCH = "m = ReduceMax (x) f = Constant <value = float {%g}> () s = Mul (f, m) y = Add (x, s)"


@pytest.fixture
def batch_dependent(repository):
    """Makes a model whose answers depend on what else is in the batch, and gives a runner of trials for it."""

    @contextmanager
    def made(factor: float) -> Iterator[tuple[TrialRunner, Any]]:
        (repository / "sums" / "1").mkdir(parents=True)
        body = DEPENDS_ON_THE_BATCH % factor
        write(repository / "sums" / "1" / "model.onnx", f"sums (float[N, 4] x) => (float[N, 4] y) {{ {body} }}")
        text = (
            'name: "sums" backend: "onnxruntime" max_batch_size: 8 '
            "dynamic_batching { max_queue_delay_microseconds: 50000 } "
            'input { name: "x" data_type: TYPE_FP32 dims: 4 } output { name: "y" data_type: TYPE_FP32 dims: 4 }'
        )
        (repository / "sums" / "config.pbtxt").write_text(text)
        rows = [np.eye(4, dtype=np.float32)[:1] * size for size in (1, 2, 3)]
        reference = [CheckedRequest({"x": row}, {"y": row + np.float32(factor) * row.max()}) for row in rows]
        options = MeasuringOptions(seconds=0.5, warmup_seconds=0.1, workers=1, timeout=10, percentiles=[50, 90])
        model = ModelRepository.at(repository).existing_model("sums")
        with Workbench(model, "grpc") as workbench:
            yield (
                TrialRunner(workbench, reference, Slo.parse("p90=2s"), options, batch_size=1, tolerance=1e-3, most=4),
                config_from_text(text),
            )

    return made


def test_reduced_precision_may_be_off_under_load_by_what_a_batch_was_seen_to_cost(batch_dependent):
    with batch_dependent(0.005) as (runner, config), runner.workbench.serve(config) as trial:
        answers = compared_answers(trial.model, runner.reference, reduced_precision=True, tolerance=1e-3)
        # Beside a row of three, a row of one gets 0.01 more; twice that is allowed.
        assert answers.tolerance == pytest.approx(0.02, rel=0.02)


def test_answers_that_depend_on_what_else_is_in_the_batch_are_wrong_however_inexact_the_variant(batch_dependent):
    with batch_dependent(0.5) as (runner, config):
        record = runner.run(1, config, SETTING, reduced_precision=True)
    assert record.status == "wrong"
    assert "under load: WRONG ANSWER: output 'y' is off by" in record.reason


def test_a_finalist_that_can_no_longer_win_is_not_measured_any_further(batch_dependent):
    with batch_dependent(0.005) as (runner, config):
        hasty = replace(runner, slo=Slo.parse("p50=5us"))
        record = trial(number=4, throughput=20, concurrency=1)
        told = []
        played = play_rounds(
            hasty, [Finalist(record, config, reduced_precision=False)], in_use=0, rounds=5,
            progress=lambda *now: told.append(now),
        )  # fmt: skip
    # Three of five missed are no majority any more.
    assert [(one.trial, one.round, one.kept) for one in played] == [(4, number, False) for number in range(3)]
    assert told == [(f"round {number + 1} of 5: trial 4, 1 in flight, 1.10 s", number, 5) for number in range(3)]


@pytest.mark.parametrize(("limit", "in_flight", "kept"), [("390ms", 3, True), ("10ms", 2, False)])
def test_a_finalist_that_misses_at_the_edge_plays_on_with_fewer_in_flight(repository, limit, in_flight, kept):
    shutil.copytree(SLOW, repository / "slow")
    # One at a time, 0.1 s each: six in flight take 0.6 s, four 0.4 s, three 0.3 s.
    text = (repository / "slow" / "config.pbtxt").read_text().partition("dynamic_batching")[0]
    (repository / "slow" / "config.pbtxt").write_text(text)
    seconds = np.full((1, 1), 0.1, np.float32)
    options = MeasuringOptions(seconds=1.5, warmup_seconds=0.1, workers=1, timeout=10, percentiles=[50])
    record = trial(number=4, throughput=50, concurrency=6)
    told = []
    with Workbench(ModelRepository.at(repository).existing_model("slow"), "grpc") as workbench:
        runner = TrialRunner(
            workbench, [CheckedRequest({"seconds": seconds}, {"slept": seconds})], Slo.parse(f"p50={limit}"), options,
            batch_size=1, tolerance=1e-3, most=8,
        )  # fmt: skip
        played = play_rounds(
            runner, [Finalist(record, config_from_text(text), reduced_precision=False)], in_use=0, rounds=3,
            progress=lambda doing, *_: told.append(doing),
        )  # fmt: skip
    assert [(one.concurrency, one.kept) for one in played] == [(in_flight, kept)] * (3 if kept else 2)
    assert [doing for doing in told if " 4 in flight" in doing]
