"""The table of frameworks: one PyTorch module, exported by the command, in every engine that is here."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from plansmith_perf.comparing.results import paired_ratio
from plansmith_perf.report.documents import read_document

PROGRAM = Path(__file__).parents[2] / "perf" / "benchmarks" / "framework_table.py"


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed: pip install torch")
def test_a_pytorch_module_and_the_engines_that_run_its_export_give_equal_answers_in_one_run(tmp_path):
    command = [sys.executable, PROGRAM, "--short", "--output", tmp_path]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    comparison = read_document(tmp_path / "frameworks.json")
    assert comparison.complete
    first, *others = comparison.peers
    assert first.name == comparison.baseline == "PyTorch in process"
    assert {"ONNX Runtime in process", "OpenVINO in process"} <= {peer.name for peer in others}
    for peer in comparison.peers:
        assert (peer.status, peer.reason) == ("measured", None)
        assert peer.top1_agreement == 1.0
        assert all(measured.errors == 0 < measured.requests for measured in peer.rounds)
        assert paired_ratio(comparison, peer.name) > 0
    assert "torch" in first.versions
