"""The peers against plansmith on the two models of the speed table: an MLP with 32 clients, and ResNet-50 with 8.

`python perf/benchmarks/peers_table.py [--output FOLDER] [--only mlp] [--short]` builds both with `plansmith build`, the
ResNet-50 for the fastest precision within 0.5 % of accuracy, tunes both (`plansmith tune`), and writes `mlp.json` and
`resnet50.json`, two results of `plansmith bench compare`. The bars: ResNet-50 five times FastAPI + ONNX Runtime with
99 % of the top-1 answers, 1.15 times FastAPI with the same engine and precision, and 0.95 of that engine in process;
the MLP twice FastAPI + ONNX Runtime. `--few` measures only the peers of the bars, into `mlp_few.json` and
`resnet50_few.json`: pairs that are in there are published from there. `--short` is for trying it out: nothing is tuned.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from figures_file import read_arguments
from mlp import write_mlp
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from texture_classifier import INPUT, texture_images, write_texture_classifier

from peers.foreign_servers import BASELINE, FOREIGN_SERVERS, SAME_ENGINE
from plansmith_perf.comparing.comparing import ComparisonOptions, run_comparison
from plansmith_perf.comparing.peers import choose_peers
from plansmith_perf.load.measuring import MeasuringOptions
from plansmith_perf.report.terminal import show_comparison

if TYPE_CHECKING:
    from plansmith_perf.comparing.peer import Peer
    from plansmith_perf.comparing.results import Comparison

MODELS = ("mlp", "resnet50")
CLIENTS = {"mlp": 32, "resnet50": 8}
# Of each measurement: a p95 takes 200 answers, of which the slower peers on ResNet-50 give some 40 a second.
SECONDS = {"mlp": 4.0, "resnet50": 8.0}
TUNING = {
    # For the load that is measured.
    "mlp": ("--slo", "p99=50ms", "--trials", "12", "--max-concurrency", "32"),
    "resnet50": ("--slo", "p99=500ms", "--trials", "8", "--seconds", "3", "--max-concurrency", "16"),
}
COMPARED_ROWS = 128


def build(name: str, folder: Path, *, tune: bool) -> Path | None:
    """Build the model into `folder`/model_repository; gives the file of its real samples, if there are any."""
    samples = None
    words: tuple[str, ...] = ()
    if name == "mlp":
        write_mlp(folder / "mlp.onnx")
    else:
        write_texture_classifier(folder / "resnet50.onnx", folder / "calibration.npz")
        words = ("--data", "calibration.npz", "--max-drop", "0.5%")
        samples = folder / "samples.npz"
        # Others than those of the build.
        np.savez(samples, **{INPUT: texture_images(COMPARED_ROWS, seed=7)[0]})
    plansmith(folder, "build", f"{name}.onnx", "--name", name, *words)
    if tune:
        given = ("--samples", str(samples)) if samples else ()
        storage = ("--storage", "trials.journal", "--protocol", "http")
        plansmith(folder, "tune", name, *TUNING[name], *given, *storage)
    return samples


def plansmith(folder: Path, *words: str) -> None:
    """Run the command there."""
    command = [str(Path(sys.executable).with_name("plansmith")), *words]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def chosen_peers(*, few: bool) -> list[Peer]:
    """The servers of others, after those that plansmith brings."""
    if few:
        return [*choose_peers("engine"), *(peer for peer in FOREIGN_SERVERS if peer.name == BASELINE), *SAME_ENGINE]
    own = choose_peers("all")
    servers = sum(peer.kind in ("plansmith", "server") for peer in own)
    return [*own[:servers], *FOREIGN_SERVERS, *SAME_ENGINE, *own[servers:]]


def compare(name: str, folder: Path, samples: Path | None, arguments: argparse.Namespace) -> Comparison:
    """Measure all peers, or with --short few."""
    short = arguments.short
    options = ComparisonOptions(
        repository=folder / "model_repository",
        model=name,
        peers=chosen_peers(few=short or arguments.few),
        baseline=BASELINE,
        rounds=1 if short else arguments.rounds,
        measuring=MeasuringOptions(
            seconds=1.0 if short else arguments.seconds or SECONDS[name],
            warmup_seconds=0.5 if short else 1.0,
            workers=2,
            timeout=60.0,
        ),
        concurrency=CLIENTS[name],
        samples=samples,
        distinct_inputs=COMPARED_ROWS,
    )
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=options.rounds * len(options.peers))
        return run_comparison(options, progress=lambda doing, done: bar.update(task, description=doing, completed=done))


def main() -> None:
    """Build, compare, show and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=MODELS, help="one of the two models")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured, in turn [%(default)s]")
    parser.add_argument("--seconds", type=float, help="length of each measurement [4 for the MLP, 8 for ResNet-50]")
    parser.add_argument("--few", action="store_true", help="only the peers of the bars")
    parser.add_argument("--short", action="store_true", help="one short round with these peers, and no tuning")
    arguments = read_arguments(parser)
    for name in [arguments.only] if arguments.only else MODELS:
        with tempfile.TemporaryDirectory(prefix="plansmith-peers-") as folder:
            samples = build(name, Path(folder), tune=not arguments.short)
            result = compare(name, Path(folder), samples, arguments)
        show_comparison(result)
        stem = f"{name}_few" if arguments.few else name
        (arguments.output / f"{stem}.json").write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if not result.complete:
            sys.exit(130)


if __name__ == "__main__":
    main()
