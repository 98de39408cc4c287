"""Every table of bench, bench diff, bench compare and tune at the widths of a phone, a pipe and a wide terminal."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from plansmith_perf.commands.bench_diff import diff
from plansmith_perf.comparing.results import read_comparison
from plansmith_perf.report.terminal import show_comparison, show_load_test, show_tuning
from plansmith_perf.results.documents import ClosedLoop, LoadTestResult, OpenLoop
from plansmith_perf.results.tables import Column, Table, print_table, visible
from plansmith_perf.tuning.options import TuningResult
from plansmith_perf.tuning.records import TuningRecord

RESULTS = Path(__file__).parents[2] / "perf" / "results"
WIDTHS = (60, 80, 120)


@pytest.fixture(params=WIDTHS)
def width(request, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return request.param


@pytest.fixture(scope="module")
def comparison():
    return read_comparison(RESULTS / "mlp.json")


@pytest.fixture(scope="module")
def result(comparison):
    """Loads of both kinds, with the figures of a peer: tens of thousands of answers a second."""
    first = max((one for peer in comparison.peers for one in peer.rounds), key=lambda one: one.throughput)
    loads = (ClosedLoop(concurrency=32), ClosedLoop(concurrency=1024), OpenLoop(rate=12345.5, arrivals="poisson"))
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
        measurements=[first.model_copy(update={"load": load, "notes": []}) for load in loads for _ in range(3)],
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
    check(capsys.readouterr().out, width, "load", "figure", "before", "after", "ratio", "verdict")


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


def test_control_and_direction_characters_are_written_out():
    console = Console(width=60, record=True, file=io.StringIO())
    hostile = Table("\x1b]0;t\x07", (Column("a\nb", "words"),), (("\x1b[31mred\u202egnp\ud800 [bold]x",),))
    print_table(console, hostile)
    text = console.export_text()
    assert not set("\x1b\x07\u202e") & set(text)
    assert "[bold]x" in text
    assert visible("naïve 日本 \u2066x\x7f\n") == "naïve 日本 \\u2066x\\x7f\\n"
