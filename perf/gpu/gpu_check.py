"""What one NVIDIA GPU and ten minutes can tell: `python perf/gpu/gpu_check.py`, or `make gpu`.

Needs no network. Each step is a process of its own and its result is written at once, so that what was found stays
found where time runs out or something breaks: perf/results/gpu/<device>.json. With --dry-run the same steps run on the
CPU with small models, to see that they work; what they measure then means nothing and is written elsewhere.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from figures_file import write_figures
from steps import RESNET, STEPS, Setting
from texture_classifier import write_texture_classifier

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "perf" / "results" / "gpu"
DIGITS = ROOT / "model_repository" / "digits" / "1" / "model.onnx"


def main() -> int:
    """Run all steps, or the one that is asked for; 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with small models")
    parser.add_argument("--models", type=Path, help="a folder of further ONNX files to build")
    parser.add_argument("--minutes", type=float, default=10, help="begin no step after this; 10 by default")
    parser.add_argument("--output", type=Path, help="the folder of the result; perf/results/gpu by default")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.dry_run and arguments.output is None:
        arguments.output = Path(tempfile.mkdtemp(prefix="plansmith-gpu-dry-run-"))
    if arguments.step is not None:
        print(json.dumps(STEPS[arguments.step](_setting(arguments))))  # noqa: T201
        return 0
    with tempfile.TemporaryDirectory(prefix="plansmith-gpu-") as work:
        return _run_all(arguments, Path(work))


def _run_all(arguments: argparse.Namespace, work: Path) -> int:
    until = time.monotonic() + 60 * arguments.minutes
    steps: dict[str, Any] = {}
    path = None
    for name in STEPS:
        steps[name] = _run_step(name, arguments, work, until - time.monotonic())
        if path is None:
            # The first step says which device this is, and whether there is one.
            if steps[name]["status"] != "done":
                print(steps[name]["reason"], file=sys.stderr)  # noqa: T201
                return 1
            path = _result_path(arguments, steps[name]["found"]["name"])
        write_figures(path, None, dry_run=arguments.dry_run, steps=steps)
        print(f"{name}: {steps[name]['status']}, {steps[name]['seconds']:.0f} s")  # noqa: T201
    print(path)  # noqa: T201
    return int(any(step["status"] != "done" for step in steps.values()))


def _run_step(name: str, arguments: argparse.Namespace, work: Path, seconds: float) -> dict[str, Any]:
    if seconds <= 0:
        return {"status": "not begun", "seconds": 0.0, "reason": "the time was used up"}
    words = [sys.executable, __file__, "--step", name, "--work", str(work)]
    words += ["--dry-run"] if arguments.dry_run else []
    words += ["--models", str(arguments.models)] if arguments.models else []
    started = time.monotonic()
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"status": "stopped", "seconds": time.monotonic() - started, "reason": "the time was used up"}
    taken = {"seconds": round(time.monotonic() - started, 1)}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        return {"status": "failed", **taken, "reason": lines[-1][:500], "output": "\n".join(lines[-40:])}
    return {"status": "done", **taken, "found": json.loads(done.stdout.strip().splitlines()[-1])}


def _result_path(arguments: argparse.Namespace, gpu: str) -> Path:
    folder = arguments.output or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    return Path(folder) / f"{re.sub(r'[^a-z0-9]+', '-', gpu.lower()).strip('-')}.json"


def _setting(arguments: argparse.Namespace) -> Setting:
    more = sorted(arguments.models.glob("*.onnx")) if arguments.models else []
    arguments.work.mkdir(parents=True, exist_ok=True)
    digits = arguments.work / "digits.onnx"
    digits.write_bytes(DIGITS.read_bytes())
    # The first step says whether there is a GPU at all.
    if not arguments.dry_run and arguments.step != next(iter(STEPS)):
        more.append(_resnet(arguments.work))
    return Setting(folder=arguments.work, models=(digits, *more), dry_run=arguments.dry_run)


def _resnet(folder: Path) -> Path:
    """ResNet-50 that tells textures apart, with pictures and their classes beside it; made once."""
    path = folder / f"{RESNET}.onnx"
    if not path.exists():
        write_texture_classifier(path, path.with_suffix(".npz"))
    return path


if __name__ == "__main__":
    sys.exit(main())
