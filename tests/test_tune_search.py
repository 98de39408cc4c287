"""How `plansmith tune` searches: the choices, the climb to the highest throughput, the study, the last rounds."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from build_models import write

from plansmith_build.config import config_from_text, text_from_config
from plansmith_build.manifest import read_manifest
from plansmith_build.repository import ModelRepository
from plansmith_client import Client
from plansmith_perf.errors import LoadTestMisconfigured, WrongAnswer
from plansmith_perf.load.analysis import distribution
from plansmith_perf.load.measuring import MeasuringOptions
from plansmith_perf.requests import CheckedRequest
from plansmith_perf.results import ClosedLoop, Measurement, Usage
from plansmith_perf.slo import Slo
from plansmith_perf.tuning.answers import compared_answers
from plansmith_perf.tuning.finals import Finalist, decide, play_rounds
from plansmith_perf.tuning.ladder import climb
from plansmith_perf.tuning.options import TuningOptions
from plansmith_perf.tuning.question import engine_versions, look
from plansmith_perf.tuning.records import FinalRound, SettingRecord, TrialRecord
from plansmith_perf.tuning.round_length import check_round_length, round_seconds
from plansmith_perf.tuning.settings import Setting, config_of, setting_from_config
from plansmith_perf.tuning.space import SpaceLimits, search_space
from plansmith_perf.tuning.study import TuningStudy
from plansmith_perf.tuning.trials import TrialRunner
from plansmith_perf.tuning.variants import variants_of
from plansmith_perf.tuning.verdicts import verdict
from plansmith_perf.tuning.workbench import Workbench

if TYPE_CHECKING:
    from collections.abc import Iterator

DIGITS = Path(__file__).parent.parent / "model_repository" / "digits"
SLOW = Path(__file__).parent / "models_python" / "slow"
SLO = Slo.parse("p99=50ms")


@pytest.fixture
def variants():
    config = config_from_text((DIGITS / "config.pbtxt").read_text())
    return variants_of({"config.pbtxt": config}, read_manifest(DIGITS / "1" / "manifest.json"), folder=DIGITS / "1")


def space_of(variants, /, *, cores=2, **limits):
    return search_space(variants, cores=cores, slo_limit=SLO.limit, batch_size=1, limits=SpaceLimits(**limits))


def answer(load: ClosedLoop, *, rate: float, milliseconds: float) -> Measurement:
    """One second with as many right answers, each as late."""
    latency = distribution(np.full(max(1, int(rate)), int(milliseconds * 1e6)), [50, 99])
    usage = Usage(cpu_percent=0, memory=0, processes=1)
    return Measurement(
        load=load, seconds=1, warmup_seconds=0, warmup_requests=0, complete=True, requests=int(rate), errors=0,
        error_rate=0, error_messages={}, throughput=rate, rows_per_second=rate, latency=latency, service=latency,
        dispatch_lag=None, stability=None, timeline=[], server_side=None, server_usage=None, client_usage=usage,
        notes=[],
    )  # fmt: skip


def climbed(capacity: float, seconds_alone: float, *, start=1, most=64, to_beat=0.0):
    """Climb on a server that answers one request in `seconds_alone` and never more than `capacity` a second."""
    series = climb(SLO, start=start, most=most, to_beat=to_beat)
    loads = [next(series)]
    while True:
        number = loads[-1].concurrency
        rate = min(capacity, number / seconds_alone)
        try:
            loads.append(series.send(answer(loads[-1], rate=rate, milliseconds=1000 * number / rate)))
        except StopIteration as end:
            return end.value, [load.concurrency for load in loads]


@pytest.mark.parametrize("start", [1, 4, 16, 64])
def test_the_climb_ends_at_the_highest_throughput_inside_the_objective_wherever_it_begins(start):
    # 100 ms alone for 400/s: 20 in flight take 50 ms.
    found, loads = climbed(400, 0.005, start=start)
    assert found.best.throughput == pytest.approx(400)
    assert found.best.load.concurrency <= 20
    assert len(loads) == len(set(loads)) <= 8


def test_a_server_that_misses_the_objective_alone_is_asked_no_further():
    found, loads = climbed(10, 0.1)
    assert found.best is None
    assert not found.hopeless
    assert loads == [1]


def test_the_climb_stops_where_more_requests_in_flight_bring_only_latency():
    _, loads = climbed(1000, 0.001)
    assert max(loads) <= 4


def test_what_is_slower_under_more_load_is_given_up_after_one_probe():
    found, loads = climbed(400, 0.005, start=8, to_beat=1000)
    assert found.hopeless
    assert loads == [16]


def test_what_may_be_better_is_not_given_up():
    found, loads = climbed(1100, 0.005, start=8, to_beat=1000)
    assert not found.hopeless
    assert found.best.throughput == pytest.approx(1100)
    assert loads[0] == 16


def test_openvino_is_tried_beside_onnx_runtime_in_the_same_precision(variants):
    assert [variant.name for variant in variants] == ["onnxruntime model.onnx", "openvino model.onnx f32"]
    assert not any(variant.reduced_precision for variant in variants)


def test_a_configuration_of_lower_precision_is_known_by_the_builds_own_record(tmp_path):
    portable = config_from_text((DIGITS / "config.pbtxt").read_text())
    lower = config_from_text((DIGITS / "config.pbtxt").read_text())
    lower.default_model_filename = "model.int8.onnx"
    manifest = read_manifest(DIGITS / "1" / "manifest.json").model_dump(mode="json")
    accuracy = {"rows": 1, "top1": None, "top5": None, "outputs": []}
    data = {"kind": "random", "source": "", "sha256": "", "rows": 1, "labelled": False}
    candidate = {
        **dict.fromkeys(("reason", "file", "engine", "layout"), ""),
        **dict.fromkeys(("rows_per_second", "fp32_rows_per_second", "ratio_to_fp32", "served_rows_per_second"), 1),
        "target": "onnxruntime",
        "device": "cpu",
        "precision": "int8",
        "status": "chosen",
        "instances": 1,
        "config": "configs/cpu.pbtxt",
        "kept_in_fp32": [],
        "accuracy": accuracy,
        "drop": 0.001,
        "threads": 0,
    }
    manifest["search"] = {
        "max_drop": 0.005, "calibration": data, "validation": data, "fp32": accuracy, "measured": "", "cores": 2,
        "candidates": [candidate],
    }  # fmt: skip
    (tmp_path / "model.onnx").touch()
    (tmp_path / "model.int8.onnx").touch()
    configs = {"config.pbtxt": portable, "configs/cpu.pbtxt": lower}
    found = variants_of(configs, type(read_manifest(DIGITS / "1/manifest.json"))(**manifest), folder=tmp_path)
    assert {variant.name: variant.reduced_precision for variant in found} == {
        "onnxruntime model.onnx": False,
        "onnxruntime model.int8.onnx": True,
        "openvino model.onnx f32": False,
    }


def test_every_setting_can_be_written_as_a_configuration_and_read_back(variants):
    space = space_of(variants, cores=4)
    for params in space.everything():
        setting = space.setting(params)
        config = config_from_text(text_from_config(config_of(setting)))
        again = setting_from_config(type(setting.variant)("again", config.backend, config, reduced_precision=False))
        assert again.record().model_copy(update={"variant": setting.variant.name}) == setting.record()
        assert space.params(setting) == params


def test_what_is_not_searched_stays_as_it_is(variants):
    variants[0].config.dynamic_batching.default_queue_policy.max_queue_size = 7
    config = config_of(Setting(variants[0], 2, 1, 64, 500))
    assert config.dynamic_batching.default_queue_policy.max_queue_size == 7
    assert config.output[0].label_filename == "labels.txt"
    assert config.dynamic_batching.max_queue_delay_microseconds == 500


def test_no_setting_is_in_the_space_twice_and_batches_never_become_smaller(variants):
    settings = [space_of(variants).setting(params) for params in space_of(variants).everything()]
    assert len(settings) == len(set(settings))
    assert {setting.max_batch_size for setting in settings} == {32, 128}
    assert setting_from_config(variants[0]) in settings


def test_a_delay_that_leaves_nothing_of_the_objective_is_not_tried(variants):
    tight = search_space(variants, cores=2, slo_limit=1000, batch_size=1, limits=SpaceLimits())
    assert tight.batching == ("off", "0", "200")


def test_the_user_chooses_what_is_tried(variants):
    limits = {"instances": [2], "threads": [1], "max_batch_sizes": [8], "queue_delays": [None, 300]}
    space = space_of(variants, variants=["openvino"], preferred_batch_sizes=[0], **limits)
    records = [space.setting(params).record() for params in space.everything()]
    assert [(r.variant, r.instances, r.threads, r.max_batch_size, r.queue_delay) for r in records] == [
        ("openvino model.onnx f32", 2, 1, 32, None),
        ("openvino model.onnx f32", 2, 1, 8, 300),
    ]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"variants": ["cuda"]}, "there are"),
        ({"max_batch_sizes": [0]}, "less"),
        ({"queue_delays": []}, "no setting"),
        ({"max_batch_sizes": [8], "preferred_batch_sizes": [0, 16]}, "more than the largest batch, 8"),
    ],
)
def test_limits_that_leave_nothing_are_refused(variants, limits, said):
    with pytest.raises(LoadTestMisconfigured, match=said):
        space_of(variants, **limits)


def test_as_many_instances_as_the_user_names_are_tried_however_few_the_cores(variants):
    settings = [
        space_of(variants, instances=[2, 8]).setting(p) for p in space_of(variants, instances=[2, 8]).everything()
    ]
    assert {(s.instances, s.threads) for s in settings} == {(2, 1), (2, 2), (8, 1)}


def test_a_model_without_batches_has_no_batching_to_choose(variants):
    for variant in variants:
        variant.config.max_batch_size = 0
        variant.config.ClearField("dynamic_batching")
    settings = [space_of(variants).setting(params) for params in space_of(variants).everything()]
    assert {(setting.max_batch_size, setting.queue_delay) for setting in settings} == {(0, None)}
    with pytest.raises(LoadTestMisconfigured, match="takes no batches"):
        space_of(variants, queue_delays=[5])


def landscape(number: int, setting: Setting, *, scale: float = 1.0) -> TrialRecord:
    """A throughput that each parameter has its part in, as a function of the setting."""
    rate = 1000 * scale * (1.5 if "openvino" in setting.variant.name else 1.0)
    rate *= {1: 1.0, 2: 1.2, 4: 1.1}[setting.instances] * {0: 1.0, 1: 1.1, 2: 1.0, 4: 0.7}[setting.threads]
    rate *= {None: 0.7, 0: 1.0, 200: 1.15, 1000: 1.05, 4000: 0.6}[setting.queue_delay]
    rate *= {32: 1.0, 128: 1.05}[setting.max_batch_size] * {0: 1.0, 4: 0.97, 16: 1.04}[setting.preferred_batch_size]
    return TrialRecord(
        number=number, setting=setting.record(), status="measured", reason="", throughput=rate, concurrency=8,
        latency=1000, seconds=1,
    )  # fmt: skip


def searched(path, variants, *, trials, resume=False, exhaustive=False, seed=0, run=landscape, cores=4):
    study = TuningStudy(path, "question", space_of(variants, cores=cores), seed=seed, trials=trials, resume=resume)
    study.search(run, limit=SLO.limit, exhaustive=exhaustive)
    return study


def test_a_quarter_of_the_trials_comes_within_five_per_cent_of_all_of_them(variants, tmp_path):
    everything = searched(tmp_path / "all", variants, trials=10_000, exhaustive=True).records
    assert len({str(record.setting) for record in everything}) == len(everything)
    best = max(record.throughput for record in everything)
    for seed in range(2):
        some = searched(tmp_path / f"some{seed}", variants, trials=len(everything) // 4, seed=seed).records
        assert len(some) == len(everything) // 4
        assert max(record.throughput for record in some) >= 0.95 * best


def test_the_same_seed_tries_the_same(variants, tmp_path):
    once, again, other = (
        [str(record.setting) for record in searched(tmp_path / name, variants, trials=12, seed=seed).records]
        for name, seed in {"once": 1, "again": 1, "other": 2}.items()
    )
    assert once == again != other


def test_an_interrupted_search_goes_on_with_what_it_has(variants, tmp_path):
    def until_the_fifth(number, setting):
        if number == 5:
            raise KeyboardInterrupt
        return landscape(number, setting)

    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "storage", variants, trials=9, run=until_the_fifth)
    kept = TuningStudy(tmp_path / "storage", "question", space_of(variants, cores=4), seed=0, trials=9, resume=True)
    before = kept.records
    assert len(before) == 4
    after = searched(tmp_path / "storage", variants, trials=9, resume=True, run=lambda n, s: landscape(n, s, scale=2))
    assert after.records[:4] == before
    assert len(after.records) == 9
    assert not searched(tmp_path / "storage", variants, trials=1).records[1:]


def test_a_search_whose_best_is_far_from_the_objective_ends_early(variants, tmp_path):
    def slow(number, setting):
        update = {"status": "misses", "throughput": 0.0, "latency": 3 * SLO.limit}
        return landscape(number, setting).model_copy(update=update)

    assert len(searched(tmp_path / "storage", variants, trials=20, run=slow).records) == len(variants)


def test_wrong_and_failed_settings_never_win_and_do_not_end_the_search(variants, tmp_path):
    def partly(number, setting):
        if setting.queue_delay is None:
            return landscape(number, setting)
        status = "wrong" if setting.queue_delay else "failed"
        return landscape(number, setting).model_copy(update={"status": status, "throughput": 0.0, "latency": None})

    study = searched(tmp_path / "storage", variants, trials=30, run=partly, cores=2)
    assert study._study.best_trial.params["batching"] == "off"


def test_a_storage_that_is_no_storage_is_refused(variants, tmp_path):
    (tmp_path / "storage").write_text("not a journal\n")
    with pytest.raises(LoadTestMisconfigured, match="--storage"):
        searched(tmp_path / "storage", variants, trials=2)


def options_of(repository: Path) -> TuningOptions:
    return TuningOptions(
        repository=repository, model="digits", slo=SLO, config_name="cpu", trials=None, exhaustive=False,
        limits=SpaceLimits(), seed=0, storage=None, resume=True, samples=None, distinct_inputs=16, batch_size=1,
        protocol="grpc", most_concurrency=64, rounds=5, dry_run=True,
        measuring=MeasuringOptions(
            seconds=1, warmup_seconds=0.3, workers=1, timeout=30, tolerance=1e-3, percentiles=[50, 99], seed=0
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        *({"seed": 1}, {"distinct_inputs": 4}, {"batch_size": 2}, {"protocol": "http"}, {"most_concurrency": 8}),
        *({"measuring": {name: 2}} for name in ("seconds", "warmup_seconds", "workers", "timeout", "tolerance")),
        {"slo": Slo.parse("p99=60ms")},
    ],
    ids=str,
)
def test_trials_that_were_measured_otherwise_are_not_resumed(repository, change):
    shutil.copytree(DIGITS, repository / "digits")
    options = options_of(repository)
    changed = {"measuring": replace(options.measuring, **change["measuring"])} if "measuring" in change else change
    question = look(ModelRepository.at(repository), options)
    assert question.key(replace(options, **changed)) != question.key(options)


def test_what_is_done_with_the_result_is_no_other_question(repository, tmp_path):
    shutil.copytree(DIGITS, repository / "digits")
    np.save(tmp_path / "samples.npy", np.zeros((4, 8, 8), np.float32))
    options = replace(options_of(repository), samples=tmp_path / "samples.npy")
    question = look(ModelRepository.at(repository), options)
    # Samples are the same whatever the seed, which is then of the search alone.
    same = replace(options, seed=1, rounds=9, dry_run=False, trials=3)
    assert question.key(same) == question.key(options)


def test_the_versions_of_what_computes_a_trial_are_part_of_the_question(repository):
    assert engine_versions() == {
        name: version(name) for name in ("onnxruntime", "openvino", "nvidia-pytriton", "plansmith-server")
    }
    shutil.copytree(DIGITS, repository / "digits")
    options = options_of(repository)
    question = look(ModelRepository.at(repository), options)
    assert question.facts(options)["software"] == engine_versions()


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


def test_the_verdict_says_in_how_many_rounds_the_objective_was_kept(variants):
    trials = [landscape(0, setting_from_config(variants[0]))]

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


def test_what_is_too_slow_for_the_percentile_is_said_with_what_would_do(variants):
    def in_use(rate: float) -> TrialRecord:
        return landscape(0, setting_from_config(variants[0])).model_copy(
            update={"throughput": rate, "concurrency": 2, "latency": 2e6}
        )

    check_round_length(SLO, in_use(20), least=1)
    with pytest.raises(LoadTestMisconfigured, match=r"1,000 answers.* 10 a second.*--seconds 110,.*p95=50ms"):
        check_round_length(SLO, in_use(10), least=1)
    check_round_length(SLO, in_use(10), least=110)
    # Nothing was answered in time: two at a time in two seconds are one a second.
    with pytest.raises(LoadTestMisconfigured, match=r" 1 a second.*--seconds 1100,.*p75=50ms"):
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
        options = MeasuringOptions(
            seconds=0.5, warmup_seconds=0.1, workers=1, timeout=10, tolerance=1e-3, percentiles=[50, 90], seed=0
        )
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
        setting = SettingRecord(
            variant="sums", instances=1, threads=0, max_batch_size=8, queue_delay=50000, preferred_batch_size=0
        )
        record = runner.run(1, config, setting, reduced_precision=True)
    assert record.status == "wrong"
    assert "under load: WRONG ANSWER: output 'y' is off by" in record.reason


def test_a_finalist_that_can_no_longer_win_is_not_measured_any_further(batch_dependent):
    with batch_dependent(0.005) as (runner, config):
        hasty = replace(runner, slo=Slo.parse("p50=5us"))
        setting = SettingRecord(
            variant="sums", instances=1, threads=0, max_batch_size=8, queue_delay=50000, preferred_batch_size=0
        )
        record = TrialRecord(
            number=4, setting=setting, status="measured", reason="", throughput=20, concurrency=1, latency=5, seconds=1
        )
        told = []
        played = play_rounds(
            hasty, [Finalist(record, config, reduced_precision=False)], in_use=0, rounds=5,
            progress=lambda *now: told.append(now),
        )  # fmt: skip
    # Three of five missed are no majority any more.
    assert [(one.trial, one.round, one.kept) for one in played] == [(4, number, False) for number in range(3)]
    assert told == [(f"round {number + 1} of 5: trial 4, 1 in flight, 1.1 s", number, 5) for number in range(3)]


@pytest.mark.parametrize(("limit", "in_flight", "kept"), [("70ms", 3, True), ("10ms", 2, False)])
def test_a_finalist_that_misses_at_the_edge_plays_on_with_fewer_in_flight(repository, limit, in_flight, kept):
    shutil.copytree(SLOW, repository / "slow")
    # One at a time, 20 ms each: six in flight take 120 ms.
    text = (repository / "slow" / "config.pbtxt").read_text().partition("dynamic_batching")[0]
    (repository / "slow" / "config.pbtxt").write_text(text)
    seconds = np.full((1, 1), 0.02, np.float32)
    options = MeasuringOptions(
        seconds=0.5, warmup_seconds=0.1, workers=1, timeout=10, tolerance=1e-3, percentiles=[50], seed=0
    )
    setting = SettingRecord(
        variant="slow", instances=1, threads=0, max_batch_size=1, queue_delay=None, preferred_batch_size=0
    )
    record = TrialRecord(
        number=4, setting=setting, status="measured", reason="", throughput=50, concurrency=6, latency=5, seconds=1
    )
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
