"""The soak's own program, for some seconds instead of half an hour."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "perf" / "benchmarks" / "soak.py"


def test_a_server_under_mixed_load_keeps_nothing_of_its_requests(tmp_path):
    command = [sys.executable, PROGRAM, "--warmup", "6", "--seconds", "6", "--output", tmp_path]
    # Its own bar of 2 % is for half an hour.
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=280)
    report = tmp_path / "soak.json"
    assert report.is_file(), done.stderr
    found = json.loads(report.read_text(encoding="utf-8"))
    assert all(found["requests"].get(kind) for kind in ("valid", "large", "invalid", "given up"))
    before, after = found["figures"]["looks"]
    assert after["descriptors"] <= before["descriptors"]
    assert after["regions"] <= before["regions"]
    # The tensors of the large requests alone, if they were kept, would be more than that.
    assert after["memory"] < 1.15 * before["memory"]
