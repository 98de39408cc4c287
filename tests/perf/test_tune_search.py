"""How `plansmith tune` searches: the choices, the climb to the highest throughput, the study."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from made_measurements import distribution, made_up

from plansmith_build.repository.config import config_from_text, text_from_config
from plansmith_build.repository.manifest import read_manifest
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.load.measuring import MeasuringOptions
from plansmith_perf.slo import Slo
from plansmith_perf.tuning.ladder import climb
from plansmith_perf.tuning.options import TuningOptions
from plansmith_perf.tuning.question import engine_versions, look
from plansmith_perf.tuning.records import TrialRecord
from plansmith_perf.tuning.settings import Setting, config_of, setting_from_config
from plansmith_perf.tuning.space import SpaceLimits, search_space
from plansmith_perf.tuning.study import TuningStudy
from plansmith_perf.tuning.variants import variants_of

DIGITS = Path(__file__).parents[2] / "model_repository" / "digits"
SLO = Slo.parse("p99=50ms")


@pytest.fixture
def variants():
    config = config_from_text((DIGITS / "config.pbtxt").read_text())
    return variants_of({"config.pbtxt": config}, read_manifest(DIGITS / "1" / "manifest.json"), folder=DIGITS / "1")


def space_of(variants, /, *, cores=2, **limits):
    return search_space(variants, cores=cores, slo_limit=SLO.limit, batch_size=1, limits=SpaceLimits(**limits))


def answer(load, *, rate: float, milliseconds: float):
    """One second with as many right answers, each as late."""
    latency = distribution(np.full(max(1, int(rate)), int(milliseconds * 1e6)), [50, 99])
    return made_up(load, latency, requests=int(rate), throughput=rate, rows_per_second=rate)


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


def test_the_climb_goes_on_over_one_doubling_that_brings_nothing():
    """A server that takes one request at a time or batches of four: two in flight wait for each other."""
    rates = {1: 200, 2: 200, 4: 700, 8: 900, 16: 900, 32: 900, 64: 900}
    series = climb(SLO, start=1, most=64)
    load = next(series)
    while True:
        rate = rates[load.concurrency]
        try:
            load = series.send(answer(load, rate=rate, milliseconds=1000 * load.concurrency / rate))
        except StopIteration as end:
            found = end.value
            break
    assert found.best.throughput == 900


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
        ({"variants": ["cuda"]}, "choose from"),
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
        limits=SpaceLimits(), storage=None, resume=True, samples=None, distinct_inputs=16, batch_size=1,
        protocol="grpc", most_concurrency=64, rounds=5, dry_run=True,
        measuring=MeasuringOptions(seconds=1, warmup_seconds=0.3, workers=1, timeout=30, percentiles=[50, 99]),
    )  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        *({"distinct_inputs": 4}, {"batch_size": 2}, {"protocol": "http"}, {"most_concurrency": 8}),
        *(
            {"measuring": {name: 2}}
            for name in ("seconds", "warmup_seconds", "workers", "timeout", "tolerance", "seed")
        ),
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
    same = replace(options, measuring=replace(options.measuring, seed=1), rounds=9, dry_run=False, trials=3)
    assert question.key(same) == question.key(options)


def test_the_versions_of_what_computes_a_trial_are_part_of_the_question(repository):
    assert engine_versions() == {
        name: version(name) for name in ("onnxruntime", "openvino", "nvidia-pytriton", "plansmith-server")
    }
    shutil.copytree(DIGITS, repository / "digits")
    options = options_of(repository)
    question = look(ModelRepository.at(repository), options)
    assert question.facts(options)["software"] == engine_versions()
