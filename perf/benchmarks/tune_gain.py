"""What tuning gains: the tuned configuration against Triton's defaults, inside the same SLO.

The MLP (64-128-10) and ResNet-50 are built, and their config.pbtxt is stripped to what Triton needs: one instance, no
dynamic batching, ONNX Runtime in FP32. `plansmith tune` then searches, and measures its winner against that, in turn.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from figures_file import read_arguments
from rich.console import Console
from tuned_models import build_mlp, build_resnet50, tune

if TYPE_CHECKING:
    from plansmith_perf.tuning.records import TuningRecord

SETTINGS = {
    "mlp": ("--slo", "p99=20ms", "--seconds", "1.5"),
    "resnet50": ("--slo", "p99=500ms", "--seconds", "3", "--max-concurrency", "16", "--distinct-inputs", "8"),
}


def tuned(model: str, trials: int, rounds: int) -> TuningRecord:
    """Build one of the models and tune it; changes nothing outside a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="plansmith-tune-") as name:
        folder = Path(name)
        samples: tuple[str, ...] = ()
        if model == "resnet50":
            samples = ("--samples", str(build_resnet50(folder)))
        else:
            build_mlp(folder)
        limits = ("--dry-run", "--trials", str(trials), "--rounds", str(rounds))
        return tune(folder, model, *limits, *SETTINGS[model], *samples)


def main(models: list[str], trials: int, rounds: int, output: Path) -> None:
    """Tune, print what was gained and write the evidence."""
    console = Console(highlight=False)
    for model in models:
        record = tuned(model, trials, rounds)
        (output / f"tune_gain_{model}.json").write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if record.winner is None or record.ratio is None:
            console.print(f"{model}, {record.slo}: {record.verdict}")
            continue
        rates = [
            statistics.median(played.throughput for played in record.rounds if played.trial == number)
            for number in (record.winner, 0)
        ]
        console.print(
            f"{model}, {record.slo}: {rates[0]:,.0f} requests/s with {record.trial(record.winner).setting}, "
            f"{rates[1]:,.0f} by default: {record.ratio:.2f}, median of {rounds} pairs"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), help="[both]")
    parser.add_argument("--trials", type=int, default=12, help="settings that are measured [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="pairs at the end [%(default)s]")
    arguments = read_arguments(parser)
    main(arguments.models, arguments.trials, arguments.rounds, arguments.output)
