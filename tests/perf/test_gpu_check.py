"""The GPU check, as far as a machine without a GPU can try it: every step runs, writes, and claims nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "perf" / "benchmarks"))

from published_tables import gpu  # noqa: E402 - it stands outside of the packages

PROGRAM = ROOT / "perf" / "gpu" / "gpu_check.py"

pytestmark = pytest.mark.timeout(2400)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The file that the check writes."""
    folder = tmp_path_factory.mktemp("gpu")
    done = subprocess.run(
        [sys.executable, PROGRAM, "--dry-run", "--output", folder], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def dry_run(written):
    """What the check writes, by step."""
    return json.loads(written.read_text())


def test_a_dry_run_says_that_it_is_one_and_publishes_nothing(dry_run):
    assert dry_run["dry_run"] is True
    assert dry_run["steps"]["device"]["found"]["name"] == "dry run"
    published = ROOT / "perf" / "results" / "gpu"
    assert not (published / "dry-run.json").exists()


def test_every_step_works_and_keeps_what_it_found(dry_run):
    steps = dry_run["steps"]
    assert {step["status"] for step in steps.values()} == {"done"}
    for name in ("digits", "encoder"):
        measured = [entry for entry in steps["onnxruntime"]["found"][name] if entry["rows_per_second"]]
        assert {entry["precision"] for entry in measured} >= {"fp32"}
        assert steps["triton"]["found"][name]["rows_per_second"] > 0
    assert steps["pytorch"]["found"]["eager_ms"] > 0


def test_engines_are_compiled_and_a_server_without_an_rtx_gpu_refuses_them(dry_run):
    found = dry_run["steps"]["tensorrt-rtx"]["found"]
    assert [entry["status"] for entry in found["built"]] == ["compiled, not measured"]
    assert "rows_per_second" not in found
    assert "no GPUs are available" in found["refused"]
    assert {entry["status"] for entry in dry_run["steps"]["tensorrt"]["found"]["digits"]} == {"compiled, not measured"}


def test_the_table_of_gpus_is_made_of_such_files(written):
    rows = gpu(written.parent)
    assert [row[0] for row in rows[1:]] == ["dry run", *[""] * (len(rows) - 2)]
    measured = {what: figure for _, what, figure in rows[1:]}
    for what in ("digits, onnxruntime fp32 (CPU), in process", "digits, served", "encoder, served"):
        assert measured[what].endswith(" rows/s")
    assert measured["encoder, PyTorch eager, 8 rows"].endswith(" ms")
    assert measured["encoder, PyTorch compiled, 8 rows"].endswith(" ms")
    changed = "a run of as many rows as the one before, and of another number; algorithms: HEURISTIC"
    assert measured[changed].count(" ms") == 2
    assert measured["engine for RTX, served"].startswith("refused: ")


def test_without_a_gpu_the_real_check_stops_and_writes_nothing(tmp_path):
    done = subprocess.run([sys.executable, PROGRAM, "--output", tmp_path], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "there is no GPU to check" in done.stderr
    assert not list(tmp_path.iterdir())
