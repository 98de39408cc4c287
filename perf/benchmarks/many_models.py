"""How long a server of many small models takes to start, and how much memory each model keeps for itself.

`python perf/benchmarks/many_models.py [--output FOLDER] [--models 40]` serves the MLP 64-128-10 so many times, half of
them on each of the backends `onnxruntime` and `openvino`. Each round starts it twice: as `plansmith serve` does, and
with `--poll`, where each configuration is looked at by a process of its own before its model is loaded.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import psutil
from backend_overhead import CONFIG
from figures_file import read_arguments, write_figures
from mlp import write_mlp
from rich.console import Console
from rich.progress import track
from rich.table import Table

from plansmith_server import ServerOptions, TritonServer

CONTROLS = ("none", "poll")
BACKENDS = ("onnxruntime", "openvino")
# Until a server that has just started is idle.
SETTLING_SECONDS = 2.0
MEBIBYTE = 2**20


def write_repository(repository: Path, models: int) -> None:
    """Write so many models of one network."""
    for number in range(models):
        version = repository / f"mlp_{number:02}" / "1"
        version.mkdir(parents=True)
        write_mlp(version / "model.onnx")
        config = CONFIG.format(backend=BACKENDS[number % len(BACKENDS)])
        version.with_name("config.pbtxt").write_text(config, encoding="utf-8")


def private_memory(server: TritonServer) -> list[float]:
    """MiB that each process of a model shares with nobody, sorted."""
    processes = psutil.Process(server.pid).children(recursive=True)
    # The shell that starts a backend's process waits for it.
    stubs = [process for process in processes if not process.children()]
    return sorted(process.memory_full_info().uss / MEBIBYTE for process in stubs)


def main(rounds: int, models: int, output: Path) -> None:
    """Measure, print the table and write the figures."""
    seconds: dict[str, list[float]] = {control: [] for control in CONTROLS}
    memory: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        write_repository(Path(folder), models)
        for number, control in track([(n, c) for n in range(rounds) for c in CONTROLS], description="Starting"):
            options = ServerOptions(
                repository=Path(folder), http_port=0, grpc_port=0, metrics_port=0, control=control, strict=True
            )
            with TritonServer(options) as server:
                seconds[control].append(server.seconds_to_start)
                if number == 0 and control == "none":
                    time.sleep(SETTLING_SECONDS)
                    memory = private_memory(server)
    table = Table("what", "median", title=f"{models} models")
    for control, values in seconds.items():
        table.add_row(f"seconds until ready, --control {control}", f"{statistics.median(values):.1f}")
    table.add_row("MiB of private memory a model, the largest", f"{memory[-1]:.0f}")
    Console().print(table)
    report = output / "many_models.json"
    write_figures(report, server, models=models, figures=seconds, private_memory=memory)
    Console().print(f"All rounds: {report}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is started, in turn [%(default)s]")
    parser.add_argument("--models", type=int, default=40, help="how many are served [%(default)s]")
    arguments = read_arguments(parser)
    main(arguments.rounds, arguments.models, arguments.output)
