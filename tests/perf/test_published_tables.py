"""The figures in the README and in docs/ are those of the committed results."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = Path("perf/benchmarks/published_tables.py")
PAGES = ("README.md", "docs/comparison.md", "docs/tuning.md", "docs/tensorrt.md", "docs/examples.md")


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, root / PROGRAM, "--check"]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path):
    """The pages, the results and the program, to be changed."""
    for page in PAGES:
        (tmp_path / page).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / page, tmp_path / page)
    (tmp_path / PROGRAM).parent.mkdir(parents=True)
    shutil.copy(ROOT / PROGRAM, tmp_path / PROGRAM)
    shutil.copytree(ROOT / "perf/results", tmp_path / "perf/results")
    return tmp_path


def test_every_table_says_what_the_results_say():
    done = check(ROOT)
    assert done.returncode == 0, done.stderr


def test_a_figure_that_was_typed_is_noticed_and_written_over(copy):
    readme = copy / "README.md"
    text = readme.read_text(encoding="utf-8")
    start = text.index("<!-- table summary -->")
    typed = text[:start] + text[start:].replace("perf_analyzer |", "perf_analyzer | 1", 1)
    assert typed != text
    readme.write_text(typed, encoding="utf-8")
    done = check(copy)
    assert done.returncode == 1
    assert "README.md" in done.stderr
    subprocess.run([sys.executable, copy / PROGRAM], check=True)
    assert readme.read_text(encoding="utf-8") == text


def test_rows_come_from_the_run_that_measured_both_and_only_what_was_measured_has_one(copy):
    results, page = copy / "perf/results", copy / "docs/comparison.md"
    few = json.loads((results / "mlp.json").read_text(encoding="utf-8"))
    few["peers"] = [peer for peer in few["peers"] if peer["name"] in ("plansmith", "FastAPI + ONNX Runtime")]
    for measured in few["peers"][0]["rounds"]:
        measured["throughput"] *= 2
    (results / "mlp_few.json").write_text(json.dumps(few), encoding="utf-8")
    origin = {key: few[key] for key in ("created", "environment")}
    built = {name: {"seconds": 51.5, "peak_gib": 1.44} for name in ("resnet50", "recogniser")}
    (results / "searched_builds.json").write_text(json.dumps({**origin, "figures": built}), encoding="utf-8")
    figures = {"plansmith": [500, 520], "FastAPI + sentence-transformers": [100, 104]}
    built_minilm = {"rows_per_second": 500.0, "fp32_rows_per_second": 250.0, "ratio_to_fp32": 1.95, "drop": 0.0004}
    sentences = {**origin, "chosen": "openvino int8", "in_process": built_minilm, "figures": figures}
    sentences["cosine"] = {"least": 0.9971, "mean": 0.999}
    (results / "minilm_text.json").write_text(json.dumps(sentences), encoding="utf-8")
    rates = {"plansmith": [500, 520], "framework": [100, 104], "same engine": [250, 260]}
    example = {"chosen": "INT8 on openvino", "framework": "PyTorch", "agree": {}, "rates": rates}
    examples = {**origin, "figures": {"words": example}}
    (results / "applications.json").write_text(json.dumps(examples), encoding="utf-8")
    before = page.read_text(encoding="utf-8")
    subprocess.run([sys.executable, copy / PROGRAM], check=True)
    index = (copy / "docs/examples.md").read_text(encoding="utf-8")
    assert "| words | 510, INT8 on openvino | 102, PyTorch | 255 | 5.00 and 2.00 |" in index
    text = page.read_text(encoding="utf-8")
    assert "| searched build of ResNet-50, s | 51.5 | 60 |" in text
    assert (
        "openvino int8 | 510 | 102, FastAPI + sentence-transformers; cosine similarity at least 0.9971 | 5.00 |" in text
    )
    assert "openvino int8, cosine loss 0.04% | 500 | 250, ONNX Runtime in FP32 | 1.95 |" in text
    rows = [line for line in text.splitlines() if line.startswith("| ") and line not in before.splitlines()]
    # The servers that the second run left out keep the figures of the first.
    assert sum("FastAPI + ONNX Runtime" in row for row in rows) == 1
    assert not any("LitServe" in row for row in rows)


def test_each_page_has_its_tables():
    for page in PAGES:
        assert "<!-- table " in (ROOT / page).read_text(encoding="utf-8")
