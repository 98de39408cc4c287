"""`plansmith tune` as a user runs it: real servers, a short search, what it publishes and what it leaves alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from build_models import snapshot, write

from plansmith_build.errors import InvalidModel
from plansmith_build.repository.config import config_from_text
from plansmith_build.repository.manifest import read_manifest
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_build.repository.signing import sign_version
from plansmith_perf.load.analysis import samples_needed
from plansmith_perf.tuning.publishing import TunedManifest, publish_tuned
from plansmith_perf.tuning.records import TuningRecord

DIGITS = Path(__file__).parents[2] / "model_repository" / "digits"
SHORT = ("--seconds", "0.3", "--warmup", "0.1", "--max-concurrency", "8", "--rounds", "3", "--workers", "1")
# One trial beside the present configuration: batches that wait for nothing.
NARROW = ("--variants", "onnxruntime", "--instances", "1", "--threads", "1", "--max-batch-sizes", "32")
# p90 takes 100 answers, more than a model that waits 100 ms gives in the search.
TUNE = ("tune", "digits", "--slo", "p90=2s", *SHORT, *NARROW, "--queue-delays", "0", "--trials", "1")


@pytest.fixture
def digits(repository):
    """The committed model, whose folder the test may change."""
    shutil.copytree(DIGITS, repository / "digits")
    return repository / "digits"


@pytest.fixture(scope="module")
def tuned(plansmith, tmp_path_factory):
    """A model whose batches wait 100 ms for nothing; tuned with Ctrl-C, then as a dry run, then for good."""
    folder = tmp_path_factory.mktemp("tuned")
    model = folder / "model_repository" / "digits"
    shutil.copytree(DIGITS, model)
    text = (model / "config.pbtxt").read_text()
    slow = text.replace("dynamic_batching {\n}", "dynamic_batching {\n  max_queue_delay_microseconds: 100000\n}")
    assert slow != text
    (model / "config.pbtxt").write_text(slow)
    before = snapshot(folder / "model_repository")

    command = [Path(sys.executable).with_name("plansmith"), *TUNE, "--storage", "trials.journal"]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0,
        env={**os.environ, "COLUMNS": "300", "NO_COLOR": "1"},
    ) as process:  # fmt: skip
        first = process.stderr.readline()
        started = {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
        status = process.wait(60)
    interrupted = SimpleNamespace(status=status, first=first, said=rest, left=snapshot(folder / "model_repository"))
    interrupted.alive = [pid for pid in started if psutil.pid_exists(pid)]

    words = (*TUNE, "--storage", "trials.journal", "--resume", "--json")
    dry = json.loads(plansmith(*words, "--dry-run", cwd=folder).stdout)
    after_dry = snapshot(folder / "model_repository")
    done = json.loads(plansmith(*words, cwd=folder).stdout)
    return SimpleNamespace(
        folder=folder, model=model, before=before, interrupted=interrupted, dry=dry, after_dry=after_dry, done=done,
        slow=slow,
    )  # fmt: skip


def test_ctrl_c_leaves_the_repository_as_it_was_and_no_server(tuned):
    assert tuned.interrupted.status == 130
    assert "--resume" in tuned.interrupted.said
    assert "Traceback" not in tuned.interrupted.said
    assert tuned.interrupted.left == tuned.before
    assert tuned.interrupted.alive == []


def test_what_was_measured_before_ctrl_c_is_not_measured_again(tuned):
    in_use = TuningRecord.model_validate(tuned.dry["tuning"]).trial(0)
    assert f"{in_use.throughput:,.0f} requests/s with {in_use.concurrency} in flight" in tuned.interrupted.first
    assert tuned.done["tuning"]["trials"] == tuned.dry["tuning"]["trials"]


def test_a_dry_run_shows_the_change_and_makes_none(tuned):
    assert tuned.after_dry == tuned.before
    assert tuned.dry["version"] is None
    assert "-  max_queue_delay_microseconds: 100000" in tuned.dry["diff"]
    assert "+++ digits/configs/cpu.pbtxt" in tuned.dry["diff"]


def test_the_winner_is_published_as_the_models_configuration(tuned, plansmith):
    assert tuned.done["version"] == 2
    config = config_from_text((tuned.model / "configs" / "cpu.pbtxt").read_text())
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    # What a person wrote stays theirs.
    assert (tuned.model / "config.pbtxt").read_text() == tuned.slow
    assert (tuned.model / "2" / "model.onnx").read_bytes() == (tuned.model / "1" / "model.onnx").read_bytes()
    plansmith("verify", cwd=tuned.folder)


def test_the_evidence_stands_in_the_manifest(tuned):
    manifest = TunedManifest.model_validate_json((tuned.model / "2" / "manifest.json").read_text())
    assert manifest.tuning == TuningRecord.model_validate(tuned.done["tuning"])
    record = manifest.tuning
    assert (record.model, record.model_version, record.config, record.slo) == (
        "digits",
        1,
        "configs/cpu.pbtxt",
        "p90=2s",
    )
    assert record.winner is not None
    assert record.trial(record.winner).throughput > record.trial(0).throughput
    assert {played.trial for played in record.rounds} == {0, record.winner}
    assert len(record.rounds) == 6
    assert "kept p90=2s in all of 3 rounds" in record.verdict
    assert record.ratio > 1.02
    assert manifest.configs["configs/cpu.pbtxt"] == (tuned.model / "configs" / "cpu.pbtxt").read_text()


def test_the_rounds_that_decide_have_enough_answers_for_the_percentile_and_the_search_is_short(tuned):
    record = TuningRecord.model_validate(tuned.done["tuning"])
    assert record.trial(0).answers < samples_needed(90)
    assert any("too short for p90" in note for note in record.trial(0).notes)
    assert all(played.kept and played.answers >= samples_needed(90) for played in record.rounds)
    assert all(played.seconds > record.seconds for played in record.rounds if played.trial == 0)


def test_a_model_that_is_too_slow_for_the_percentile_is_refused_before_the_search(tuned, plansmith, tmp_path):
    repository = (
        "--repository",
        tuned.folder / "model_repository",
        "--storage",
        tmp_path / "s",
        "--max-concurrency",
        "1",
    )
    words = ("tune", "digits", "--slo", "p99=2s", *SHORT, *NARROW, "--config-name", "other", "--queue-delays", "0")
    done = plansmith(*words, *repository, cwd=tmp_path, expect=2)
    assert "p99 takes 1,000 answers" in done.stderr
    # One at a time that waits 100 ms gets at most ten answers a second.
    assert int(re.search(r"--seconds (\d+)", done.stderr)[1]) >= 90
    assert "p95=2s" in done.stderr
    assert "1/1" not in done.stderr


def test_the_version_before_the_tuning_can_be_rolled_back_to(tuned, plansmith, tmp_path):
    shutil.copytree(tuned.folder / "model_repository", tmp_path / "model_repository")
    plansmith("rollback", "digits", "1", cwd=tmp_path)
    assert read_manifest(tmp_path / "model_repository/digits/3/manifest.json").rolled_back_from == 1
    assert not (tmp_path / "model_repository/digits/configs").exists()


def test_a_tuned_version_that_is_rolled_back_to_keeps_its_evidence(tuned, plansmith, tmp_path):
    shutil.copytree(tuned.folder / "model_repository", tmp_path / "model_repository")
    for version in ("1", "2"):
        plansmith("rollback", "digits", version, cwd=tmp_path)
    before, after = (
        TunedManifest.model_validate_json(
            (tmp_path / "model_repository/digits" / version / "manifest.json").read_bytes()
        )
        for version in ("2", "4")
    )
    assert after.rolled_back_from == 2
    assert after.tuning == before.tuning


def test_what_is_signed_is_verified_before_it_is_tuned_and_signed_again(digits, plansmith, tmp_path):
    for words in (
        ("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem"),
        ("ec", "-in", "key.pem", "-pubout", "-out", "key.pub"),
    ):
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=tmp_path)
    sign_version(digits / "1", tmp_path / "key.pem")
    words = ("tune", "digits", "--slo", "p99=2s", *SHORT, *NARROW, "--sign-key", "key.pem")
    assert "name the public key with --public-key" in plansmith(*words, cwd=tmp_path, expect=2).stderr
    plansmith("prune", "--all", "--sign-key", "key.pem", cwd=tmp_path)
    manifest = digits / "1/manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    done = plansmith(*words, "--public-key", "key.pub", cwd=tmp_path, expect=2)
    assert "the signature of digits/1 does not hold" in done.stderr


def test_a_result_is_not_published_over_a_version_that_came_meanwhile(tuned, tmp_path, plansmith):
    shutil.copytree(tuned.folder / "model_repository", tmp_path / "model_repository")
    manifest = read_manifest(tmp_path / "model_repository/digits/1/manifest.json")
    before = snapshot(tmp_path / "model_repository")
    repository = ModelRepository.at(tmp_path / "model_repository")
    record = TuningRecord.model_validate(tuned.done["tuning"])
    with pytest.raises(InvalidModel, match="tune again"):
        publish_tuned(repository, manifest, record, "", staging=None, sign=None)
    assert snapshot(tmp_path / "model_repository") == before


def test_where_nothing_is_faster_the_configuration_keeps_its_place(digits, plansmith, tmp_path):
    before = snapshot(digits)
    # The only setting in the space waits 200 ms for each batch, and no preferred size ends that wait early.
    slow = ("--queue-delays", "200000", "--preferred-batch-sizes", "0")
    words = ("tune", "digits", "--slo", "p99=2s", *SHORT, *NARROW, *slow, "--trials", "1")
    done = plansmith(*words, "--storage", "trials.journal", cwd=tmp_path)
    assert "config.pbtxt keeps its place" in done.stdout
    assert snapshot(digits) == before


def test_a_variant_that_computes_something_else_or_does_not_load_loses(digits, plansmith, tmp_path):
    text = (digits / "config.pbtxt").read_text()
    network = "other (float[N, 8, 8] images) => (float[N, 10] probabilities)"
    body = "{ w = Constant <value = float[64, 10] {" + ", ".join(["0.01"] * 640) + "}> () f = Flatten (images)"
    write(digits / "1" / "model.other.onnx", f"{network} {body} probabilities = MatMul (f, w) }}")
    (digits / "configs").mkdir()
    (digits / "1" / "model.broken.onnx").write_bytes(b"no network")
    for name, file in {"other": "model.other.onnx", "broken": "model.broken.onnx"}.items():
        (digits / "configs" / f"{name}.pbtxt").write_text(f'{text}\ndefault_model_filename: "{file}"\n')
    words = ("--variants", "other,broken", "--instances", "1", "--threads", "1", "--queue-delays", "0", "--dry-run")
    done = plansmith(
        "tune", "digits", "--slo", "p99=2s", *SHORT, *words, "--max-batch-sizes", "32", "--json", "--storage", "s",
        cwd=tmp_path,
    )  # fmt: skip
    record = TuningRecord.model_validate(json.loads(done.stdout)["tuning"])
    assert {trial.setting.variant: trial.status for trial in record.trials} == {
        "onnxruntime model.onnx": "measured",
        "onnxruntime model.other.onnx": "wrong",
        "onnxruntime model.broken.onnx": "failed",
    }
    assert "probabilities" in next(trial.reason for trial in record.trials if trial.status == "wrong")
    assert record.winner is None


def test_an_objective_that_one_request_misses_exits_with_3_and_says_how_close_it_came(digits, plansmith, tmp_path):
    words = ("tune", "digits", "--slo", "p50=5us", *SHORT, *NARROW, "--queue-delays", "0", "--storage", "s")
    before = snapshot(digits)
    done = plansmith(*words, cwd=tmp_path, expect=3)
    assert "no configuration keeps p50=5us" in done.stdout
    assert "the closest came to" in done.stdout
    assert snapshot(digits) == before


@pytest.fixture
def lookup(repository):
    """A model that takes row numbers below 3 only, and has no manifest."""
    body = "{ t = Constant <value = float[3, 2] {0, 1, 2, 3, 4, 5}> () y = Gather <axis = 0> (t, x) }"
    (repository / "lookup" / "1").mkdir(parents=True)
    write(repository / "lookup" / "1" / "model.onnx", f"lookup (int64[N, 1] x) => (float[N, 1, 2] y) {body}")
    (repository / "lookup" / "config.pbtxt").write_text(
        'backend: "onnxruntime" max_batch_size: 8 dynamic_batching {} '
        'input { name: "x" data_type: TYPE_INT64 dims: 1 } output { name: "y" data_type: TYPE_FP32 dims: [1, 2] }'
    )


def test_a_model_that_takes_no_random_values_is_tuned_with_samples(lookup, plansmith, tmp_path):
    words = ("tune", "lookup", "--slo", "p99=2s", *SHORT, "--variants", "onnxruntime", "--instances", "1", "--dry-run")
    words = (*words, "--threads", "1", "--queue-delays", "off", "--max-batch-sizes", "8", "--storage", "s")
    assert "--samples FILE" in plansmith(*words, cwd=tmp_path, expect=2).stderr
    np.savez(tmp_path / "rows.npz", x=np.array([[0], [2]]))
    done = plansmith(*words, "--samples", "rows.npz", "--json", cwd=tmp_path)
    record = TuningRecord.model_validate(json.loads(done.stdout)["tuning"])
    assert record.inputs == "rows.npz"
    assert all(trial.status in ("measured", "hopeless") for trial in record.trials)


def ensemble(digits):
    folder = digits.with_name("both")
    (folder / "1").mkdir(parents=True)
    step = 'step { model_name: "digits" model_version: -1 input_map { key: "images" value: "x" } '
    (folder / "config.pbtxt").write_text(
        'platform: "ensemble" max_batch_size: 8 input { name: "x" data_type: TYPE_FP32 dims: [8, 8] } '
        f'output {{ name: "y" data_type: TYPE_FP32 dims: 10 }} ensemble_scheduling {{ {step}'
        'output_map { key: "probabilities" value: "y" } } }'
    )


def sequence(digits):
    shutil.copytree(digits, digits.with_name("both"))
    config = digits.with_name("both") / "config.pbtxt"
    config.write_text(
        config.read_text().replace("dynamic_batching {\n}", "sequence_batching { }").replace('"digits"', '"both"')
    )


def decoupled(digits):
    shutil.copytree(digits, digits.with_name("both"))
    config = digits.with_name("both") / "config.pbtxt"
    config.write_text(
        config.read_text().replace('"digits"', '"both"') + "\nmodel_transaction_policy { decoupled: true }\n"
    )


def python(digits):
    shutil.copytree(Path(__file__).parents[1] / "models_python" / "double", digits.with_name("both"))


@pytest.mark.parametrize(
    ("make", "said"),
    [(ensemble, "tune digits"), (sequence, "sequences"), (decoupled, "decoupled"), (python, "onnxruntime or openvino")],
)
def test_what_cannot_be_tuned_is_refused_with_the_reason(make, said, digits, plansmith, tmp_path):
    make(digits)
    done = plansmith("tune", "both", "--slo", "p99=2s", "--dry-run", cwd=tmp_path, expect=2)
    assert said in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("digitz", "--slo", "p99=2s"), "there are: digits"),
        (("digits", "--slo", "fast"), "p99=50ms"),
        (("digits", "--slo", "p99=2s", "--repository", "nowhere"), "nowhere"),
        (("digits", "--slo", "p99=2s", "--instances", "0"), "--instances"),
        (("digits", "--slo", "p99=2s", "--queue-delays", "soon"), "--queue-delays"),
        (("digits", "--slo", "p99=2s", "--seconds", "0"), "--seconds"),
        *((("digits", "--slo", "p99=2s", "--tolerance", bad), "--tolerance") for bad in ("nan", "-1", "inf")),
        (("digits", "--slo", "p99=2s", "--warmup", "nan"), "--warmup"),
        (("digits", "--slo", "p99=2s", "--preferred-batch-sizes", "4096"), "--preferred-batch-sizes"),
        (("digits", "--slo", "p99=2s", "--variants", "cuda"), "onnxruntime model.onnx"),
        (("digits", "--slo", "p99=2s", "--config-name", "../up"), "slash"),
        (("digits", "--slo", "p99=2s", "--samples", "none.npz"), "none.npz"),
        (("digits", "--slo", "p99=2s", "--max-batch-sizes", "2", "--batch-size", "4"), "--batch-size"),
        (("digits", "--slo", "p99=2s", "--storage", "."), "--storage"),
    ],
)
def test_bad_input_is_named(words, said, digits, plansmith, tmp_path):
    assert said in plansmith("tune", *words, cwd=tmp_path, expect=2).stderr


def test_a_version_that_could_not_be_published_is_refused_before_the_work(digits, plansmith, tmp_path):
    with (digits / "1" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    assert (
        "it differs from what was published"
        in plansmith("tune", "digits", "--slo", "p99=2s", cwd=tmp_path, expect=2).stderr
    )
    (digits / "1" / "manifest.json").unlink()
    assert "has no manifest" in plansmith("tune", "digits", "--slo", "p99=2s", cwd=tmp_path, expect=2).stderr
