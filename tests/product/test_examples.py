"""The programs in examples/ do what they say, run as a user runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import psutil

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits"


def run(program: Path, *words: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, program, *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "160", "NO_COLOR": "1"},
        timeout=600,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_training_leaves_a_network_that_reads_digits_it_has_not_seen(tmp_path):
    said = run(DIGITS / "train.py", "--output", tmp_path / "made", cwd=tmp_path)
    onnx.checker.check_model(tmp_path / "made" / "digits.onnx", full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "made" / "digits.onnx", providers=["CPUExecutionProvider"])
    with np.load(tmp_path / "made" / "held_out.npz") as held_out:
        probabilities = session.run(None, {"images": held_out["images"]})[0]
        accuracy = (probabilities.argmax(axis=1) == held_out["labels"]).mean()
    assert accuracy > 0.97
    assert f"{accuracy:.1%}" in said


def test_a_few_lines_ask_a_running_server_over_either_protocol(committed_server, tmp_path):
    for url in (committed_server.grpc_url, committed_server.http_url):
        said = run(DIGITS / "classify.py", "--url", url, cwd=tmp_path)
        true, predicted = (line.split()[1:] for line in said.splitlines())
        assert true == predicted


def test_the_demonstration_shows_the_whole_way_and_leaves_no_server(tmp_path):
    said = run(DIGITS / "demo.py", "--output", tmp_path / "demo", cwd=tmp_path)
    rows = {name: re.search(rf"{name} +│ +([\d.]+)%", said) for name in ("ONNX Runtime in process", "gRPC", "HTTP")}
    accuracies = {name: float(found[1]) for name, found in rows.items() if found}
    assert accuracies.keys() == rows.keys(), said
    assert len(set(accuracies.values())) == 1
    assert min(accuracies.values()) > 97
    picture = (tmp_path / "demo" / "demo.svg").read_text()
    assert "images/s" in picture.replace("&#160;", " ")
    # A picture that can be shown anywhere loads nothing.
    assert "url(http" not in picture
    assert not [
        process.pid for process in psutil.process_iter(["cmdline"]) if str(tmp_path) in str(process.info["cmdline"])
    ]
