"""Every table of every command at the widths of a phone, a pipe and a wide terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from plansmith.demo.measure import Measurement as DemoMeasurement
from plansmith.demo.program import show as show_demo
from plansmith_build.checking.answers import Answer, CheckReport
from plansmith_build.commands import check as check_command
from plansmith_build.commands import export as export_command
from plansmith_build.commands import inspect as inspect_command
from plansmith_build.commands.build_display import candidates_table
from plansmith_build.exporting import ExportResult
from plansmith_build.exporting.sources import LoadedModel
from plansmith_build.portable.comparison import OutputComparison
from plansmith_build.repository.inspection import ModelSummary, inspect_model, summaries
from plansmith_build.repository.manifest import AccuracyRecord, AgreementRecord, CandidateRecord, SearchRecord, Tensor
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_client import TensorSpec
from plansmith_client.commands import infer as infer_command
from plansmith_client.commands import models as models_command
from plansmith_client.commands import stats as stats_command
from plansmith_client.protocol.metadata import ModelMetadata, ModelStatus
from plansmith_client.protocol.results import InferResult
from plansmith_client.protocol.statistics import statistics_from_document
from plansmith_client.terminal import Terminal
from plansmith_perf.commands.bench_diff import diff
from plansmith_perf.report.documents import read_document
from plansmith_perf.report.terminal import show_comparison, show_load_test, show_tuning
from plansmith_perf.results.documents import ClosedLoop, LoadTestResult, OpenLoop
from plansmith_perf.results.tables import Column, Table, print_table, visible
from plansmith_perf.tuning.options import TuningResult
from plansmith_perf.tuning.records import TuningRecord
from plansmith_server.launcher.banner import show as show_served
from plansmith_server.launcher.endpoint import ModelState
from plansmith_server.launcher.terminal import Terminal as ServerTerminal

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "perf" / "results"
NAME = "a_model_with_a_name_that_is_longer_than_anybody_would_type"
WIDTHS = (60, 80, 120)


@pytest.fixture(params=WIDTHS)
def width(request, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return request.param


@pytest.fixture(scope="module")
def comparison():
    return read_document(RESULTS / "mlp.json")


@pytest.fixture(scope="module")
def result(comparison):
    """Loads of both kinds, with the figures of a peer: tens of thousands of answers a second."""
    first = max((one for peer in comparison.peers for one in peer.rounds), key=lambda one: one.throughput)
    common = {"seconds": 1234.0, "notes": []}
    loads = (ClosedLoop(concurrency=32), ClosedLoop(concurrency=1024), OpenLoop(rate=1e6, arrivals="poisson"))
    return LoadTestResult(
        tool="plansmith",
        created="2026-03-01T10:00:00+00:00",
        model="a_model_with_a_long_name",
        model_version="1",
        protocol="grpc",
        batch_size=1,
        inputs="random",
        expected_answers="idle server",
        workers=1,
        environment=comparison.environment,
        complete=True,
        interruption=None,
        measurements=[first.model_copy(update={"load": load} | common) for load in loads for _ in range(3)],
        slo=None,
    )


def table_of(said: str) -> list[str]:
    """The lines of the first table, its heading first: those around the first ruled line."""
    lines = said.splitlines()
    rule = next(number for number, line in enumerate(lines) if line.strip() and set(line.strip()) <= {"─", " "})
    rows = []
    for line in lines[rule + 1 :]:
        if not line.strip() or line.startswith(("latenc", "medians", "* ", "No room", "the best", "a_model", "trial ")):
            break
        rows.append(line)
    return [lines[rule - 1], *rows]


def check(said: str, width: int, *needed: str) -> None:
    table = table_of(said)
    assert max(map(cell_len, table)) <= width
    assert "…" not in "\n".join(table)
    for heading in needed:
        assert heading in table[0]


def test_bench(result, width, capsys):
    show_load_test(result)
    said = capsys.readouterr().out
    check(said, width, "load", "answers/s", "p99", "errors")
    assert ("No room for" in said) == (width < 120)
    table = "\n".join(table_of(said))
    assert "1024 in flight" in table
    assert "1,000,000/s" in " ".join(table.split())
    assert "e+0" not in said
    assert f"{result.measurements[0].throughput:,.0f}" in table


def test_bench_diff(result, width, tmp_path, capsys):
    slower = [
        one.model_copy(update={"throughput": one.throughput * (0.5 + 0.01 * number)})
        for number, one in enumerate(result.measurements)
    ]
    for name, measurements in (("before", result.measurements), ("after", slower)):
        text = result.model_copy(update={"measurements": measurements}).model_dump_json()
        (tmp_path / f"{name}_with_a_name_that_is_longer_than_a_column.json").write_text(text)
    before, after = sorted(tmp_path.glob("*.json"), reverse=True)
    diff(before, after)
    said = capsys.readouterr().out
    check(said, width, "load, figure", "before", "after", "ratio", "verdict")
    # Of each of three loads five figures, no verdict folded.
    assert sum(line.strip().endswith(("no difference shown", "worse")) for line in table_of(said)) == 3 * 5


def test_bench_compare(comparison, width, capsys):
    show_comparison(comparison)
    said = capsys.readouterr().out
    check(said, width, "peer", "answers/s", "p50", "p99", "ratio")


def test_tune(width, capsys):
    searches = json.loads((RESULTS / "tune_search.json").read_text())["searches"]
    record = TuningRecord.model_validate(searches["quarter"])
    show_tuning(TuningResult(record=record, met=True, diff="", published=None, storage=Path("trials.journal")))
    said = capsys.readouterr().out
    check(said, width, "trial", "setting", "requests/s")


def check_whole(said: str, width: int, *needed: str) -> None:
    """No line is wider than the terminal, and each of these words stands whole on one of them."""
    assert "…" not in said
    assert max(map(cell_len, said.splitlines())) <= width, said
    for text in needed:
        assert text in said, said


def test_models_and_statistics(width, capsys):
    specs = (TensorSpec("pictures_in_a_batch", "FP32", (-1, 3, 224, 224)), TensorSpec("bias", "INT64", (-1, 1)))
    described = [
        (ModelStatus(NAME, "12", "READY", ""), ModelMetadata(NAME, ("12",), "onnxruntime_onnx", specs, specs[:1], 8)),
        (ModelStatus("broken", "1", "UNAVAILABLE", "this model never loads, and the server says why at length"), None),
    ]
    models_command._show(described)
    check_whole(capsys.readouterr().out, width, "model ", "state", "inputs", "outputs", "unavailable", "broken: this")
    counts = {name: {"count": 123456, "ns": 4567890123456} for name in ("success", "queue", "compute_infer", "fail")}
    entry = {"name": NAME, "version": "12", "inference_count": 1234567, "execution_count": 9, "inference_stats": counts}
    after = {(NAME, "12"): statistics_from_document({"model_stats": [entry]})[0]}
    Terminal().print(stats_command._table({}, after, 1.0))
    said = capsys.readouterr().out
    check_whole(said, width, "requests/s", "123,456.0", "queue ms", "compute ms", "37.00")
    assert ("No room for" in said) == (width < 120)


def test_infer(width, capsys):
    answers = {"probabilities_of_each_class": np.full((8, 1000), 1 / 3, np.float32), "text": np.array([b"word" * 40])}
    infer_command._show(InferResult(answers, model_name=NAME, model_version="1"), 0.0123, None, {})
    check_whole(capsys.readouterr().out, width, "output", "type", "shape", "first values", "FP32", "8 x 1000")


def test_candidates_of_a_build(width, capsys):
    agreement = AgreementRecord.model_construct(name="y", measure="decision at 0.5 by labels", loss=0.01, bound=0.02)
    common = {"judged_by": "y", "drop": 0.01, "ratio_to_fp32": 12.34, "kept_in_fp32": ("a", "b")}
    speeds = {"rows_per_second": 1234567.0, "served_rows_per_second": 123456.0}
    accuracy = AccuracyRecord.model_construct(top1=0.9876, outputs=(agreement,))
    reason = "this ONNX Runtime has no CUDA provider, onnxruntime-gpu has"
    candidates = [
        CandidateRecord.model_construct(
            target=target,
            device=device,
            precision=precision,
            status=status,
            reason=why,
            accuracy=accuracy,
            **common,
            **speeds,
        )
        for target, device, precision, status, why in (
            ("openvino", "cpu", "int8", "chosen", ""),
            ("onnxruntime", "cpu", "int8-fp16", "outside the budget", "loses 3.00% of top1 by labels"),
            ("tensorrt", "gpu", "fp16", "verified, not measured", "no GPU"),
            ("tensorrt", "gpu", "int8", "verified, not measured", "no GPU"),
            ("onnxruntime", "gpu", "fp16", "not possible here", reason),
            ("onnxruntime", "gpu", "bf16", "not possible here", reason),
        )
    ]
    Terminal().print(candidates_table(SearchRecord.model_construct(candidates=candidates)))
    said = capsys.readouterr().out
    check_whole(
        said, width, "target", "precision", "loses", "rows/s", "x FP32", "1,234,567", "12.34", "chosen", "1.00%"
    )
    assert "onnxruntime  " in "\n".join(table_of(said))
    # What is the same of several is said once.
    assert f"onnxruntime GPU fp16 bf16, not possible here: {reason}" in " ".join(said.split())
    assert said.count("no GPU") == 1


def test_inspect_and_check(width, capsys):
    repository = ModelRepository.at(ROOT / "model_repository")
    console = Terminal()
    inspect_command._show_models(console, repository.path, summaries(repository))
    scores, label, probability = (
        Tensor(name=name, datatype=datatype, shape=shape)
        for name, datatype, shape in (
            ("scores", "FP32", (-1, 10)), ("label", "BYTES", (-1, 3)), ("probability", "FP32", (-1, 3))
        )
    )  # fmt: skip
    step = ModelSummary(
        name="digits.1.classes", versions=(1,), backend="pipeline_step", max_batch_size=32,
        inputs=(scores,), outputs=(label, probability), size=3400,
    )  # fmt: skip
    inspect_command._show_models(console, repository.path, [step])
    # Rich, left to itself, cuts this column off.
    check_whole(capsys.readouterr().out, width, "versions", "inputs", "outputs", "size", "3.4 kB")
    inspect_command._show_model(console, inspect_model(repository.existing_model("digits"), None))
    needed = ("versions", "inputs", "outputs", "digits", "file", "size", "SHA-256", "as published", "model.onnx")
    check_whole(capsys.readouterr().out, width, *needed)
    said = "Non-zero zero point is not supported in node with a name of its own"
    answers = [Answer("tensorrt", "gpu", one, "no", said) for one in ("int8", "int8-fp16", "w8a16")]
    answers.append(Answer("onnxruntime", "cpu", "fp32", "yes", "runs", relative_error=1e-6))
    check_command._show(
        console,
        CheckReport("m.onnx", 1, 2, 18, ("x FP32 [-1, 4]",), ("y FP32 [-1, 4]",), 8, "by name", (), tuple(answers)),
    )
    needed = ("engine", "device", "precision", "what it says", "onnxruntime", "tensorrt", "int8-fp16")
    check_whole(capsys.readouterr().out, width, *needed)


def test_export(width, capsys):
    specs = tuple(TensorSpec(name, "INT64", (-1, 16)) for name in ("input_ids", "attention_mask", NAME))
    worst = OutputComparison("logits", "FP32", 1e-6, 1e-6, 1e-4)
    versions = {"torch": "2.13.0+cpu", "onnxscript": "0.6.2", "onnxruntime": "1.31.1", "transformers": "5.24.0"}
    result = ExportResult(Path("m.onnx"), None, specs, specs, {"ai.onnx": 18}, (worst,), 3, versions)
    export_command._show(LoadedModel("pytorch", None, None, "m"), result)
    needed = ("written", "inputs", "outputs", "attention_mask INT64 [-1, 16]", "opset", "verified", "note", "with")
    check_whole(capsys.readouterr().out, width, *needed)


def test_serve_and_the_demonstration(width, capsys):
    models = [ModelState(NAME, "1", "READY", "", "configs/cpu.pbtxt"), ModelState("b", "", "UNAVAILABLE", "", "")]
    places = {name: f"127.0.0.1:{port}" for name, port in (("grpc_url", 1), ("http_url", 2), ("metrics_url", 3))}
    options = SimpleNamespace(repository=Path("model_repository"))
    show_served(
        ServerTerminal(), SimpleNamespace(version="2.51.0", options=options, seconds_to_start=2, **places), models
    )
    needed = ("model ", "version", "state", "configuration", "configs/cpu.pbtxt", "unavailable")
    check_whole(capsys.readouterr().out, width, *needed)
    probabilities = np.eye(10, dtype=np.float32)
    one = DemoMeasurement(probabilities, np.full(10, 0.0123), 12345.6)
    names = ("ONNX Runtime in process", "Triton over gRPC", "Triton over HTTP")
    show_demo(dict.fromkeys(names, one), np.zeros((10, 8, 8), np.float32), np.arange(10), Console())
    check_whole(capsys.readouterr().out, width, "accuracy", "p50 ms", "images/s", "12,346")


def test_control_and_direction_characters_are_written_out():
    console = Console(width=60, record=True, file=io.StringIO())
    hostile = Table("\x1b]0;t\x07", (Column("a\nb", "words"),), (("\x1b[31mred\u202egnp\ud800 [bold]x",),))
    print_table(console, hostile)
    text = console.export_text()
    assert not set("\x1b\x07\u202e") & set(text)
    assert "[bold]x" in text
    assert visible("naïve 日本 \u2066x\x7f\n") == "naïve 日本 \\u2066x\\x7f\\n"
