"""One network in the framework that it was written in and in the engines that run what was exported: ResNet-50.

`python perf/benchmarks/framework_table.py [--output FOLDER]` exports a PyTorch module with `plansmith export`, builds
it with `plansmith build`, and measures PyTorch, ONNX Runtime and OpenVINO in process, in FP32 and in turn; where there
is an NVIDIA GPU also PyTorch, CUDA and TensorRT on it. Every answer is compared. `frameworks.json` is a result of
`plansmith bench compare`, with ratios to PyTorch on the CPU. `--short` takes a small network and a moment.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from torch_driver import TorchPlan, load_module

from plansmith_perf.comparing.comparing import ComparisonOptions, run_comparison
from plansmith_perf.comparing.contestants import EngineContestant
from plansmith_perf.comparing.peer import Opener, Peer
from plansmith_perf.comparing.peers import ENGINE_PEERS, IN_PROCESS, peers_for_a_gpu
from plansmith_perf.load.measuring import MeasuringOptions
from plansmith_perf.report.terminal import show_comparison

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plansmith_perf.comparing.contestants import Contestant
    from plansmith_perf.comparing.results import Comparison
    from plansmith_perf.comparing.subject import Subject

BASELINE = "PyTorch in process"
SOURCE = "https://docs.pytorch.org/docs/stable/generated/torch.autograd.grad_mode.inference_mode.html"


def export_and_build(network: str, folder: Path) -> None:
    """Put the network into `folder`/model_repository, by the commands that a user has."""
    # The module with the network is next to this file.
    place = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    for words in (
        ("export", f"torch_network:{network}", "--output", f"{network}.onnx"),
        ("build", f"{network}.onnx", "--name", network),
    ):
        command = [str(Path(sys.executable).with_name("plansmith")), *words]
        subprocess.run(command, cwd=folder, env=place, check=True, stdout=subprocess.DEVNULL)


def torch_peer(network: str, device: str, name: str) -> Peer:
    """The module itself."""
    return Peer("pytorch", name, "in process", f"FP32, inference mode; {IN_PROCESS}", SOURCE, opener(network, device))


def opener(network: str, device: str) -> Opener:
    """Loads the module."""

    @contextmanager
    def opened(subject: Subject, most: int) -> Iterator[Contestant]:
        yield EngineContestant(
            subject=subject,
            versions={"torch": torch.__version__},
            compute=load_module(network, device, subject.outputs),
            plan=TorchPlan,
            own={"network": network, "device": device},
            most=most,
        )

    return opened


def compare(network: str, folder: Path, *, rounds: int, seconds: float) -> Comparison:
    """Measure each framework once a round."""
    on_gpu, note = peers_for_a_gpu()
    if torch.cuda.is_available():
        on_gpu = [torch_peer(network, "cuda", f"{BASELINE}, CUDA"), *on_gpu]
    readers = [peer for peer in ENGINE_PEERS if peer.key in ("onnxruntime", "openvino")]
    options = ComparisonOptions(
        repository=folder / "model_repository",
        model=network,
        peers=[torch_peer(network, "cpu", BASELINE), *readers, *on_gpu],
        baseline=BASELINE,
        rounds=rounds,
        measuring=MeasuringOptions(
            seconds=seconds,
            warmup_seconds=min(1.0, seconds),
            workers=1,
            timeout=60.0,
        ),
        concurrency=8,
        notes=[note] if note else [],
    )
    return run_comparison(options)


def main() -> None:
    """Export, build, measure, show and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/bench"), help="folder for the result [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured, in turn [%(default)s]")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each measurement [%(default)s]")
    parser.add_argument("--short", action="store_true", help="one short round with a small network")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    network, rounds, seconds = "resnet50", arguments.rounds, arguments.seconds
    if arguments.short:
        network, rounds, seconds = "small_resnet", 1, 0.5
    with (
        tempfile.TemporaryDirectory(prefix="plansmith-frameworks-") as folder,
        Console(stderr=True).status(f"Measuring {network}"),
    ):
        export_and_build(network, Path(folder))
        result = compare(network, Path(folder), rounds=rounds, seconds=seconds)
    show_comparison(result)
    (arguments.output / "frameworks.json").write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if not result.complete:
        sys.exit(130)


if __name__ == "__main__":
    main()
