"""How much load `plansmith bench` can make, compared with NVIDIA's perf_analyzer in C++.

Both ask the same MLP (64-128-10) of one server over gRPC with 32 requests in flight, in turn, round by round; plansmith
also compares each answer. Client and server share the machine, so what either leaves the server is in its figure.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Literal

from backend_overhead import write_repository
from figures_file import read_arguments, write_figures
from rich.console import Console
from rich.progress import track

from plansmith_perf.benchmarking.benchmark import BenchmarkOptions, run_benchmark
from plansmith_perf.load.measuring import MeasuringOptions, default_workers
from plansmith_perf.results.documents import ClosedLoop
from plansmith_server import ServerOptions, TritonServer

CONCURRENCY = 32


def requests_per_second(url: str, tool: Literal["plansmith", "perf_analyzer"], seconds: float, workers: int) -> float:
    """Measure once."""
    measuring = MeasuringOptions(seconds, warmup_seconds=0.5, workers=workers, timeout=30, percentiles=[50, 99])
    loads = (ClosedLoop(concurrency=CONCURRENCY),)
    result = run_benchmark(BenchmarkOptions(url=url, model="plansmith", loads=loads, measuring=measuring, tool=tool))
    return result.measurements[0].throughput


def main(rounds: int, seconds: float, workers: int, output: Path) -> None:
    """Measure, print the medians and write the figures."""
    figures: dict[str, list[float]] = {"plansmith": [], "perf_analyzer": []}
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "model_repository"
        write_repository(repository)
        options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)
        with TritonServer(options) as server:
            for _ in track(range(rounds), description="Measuring"):
                figures["plansmith"].append(requests_per_second(server.grpc_url, "plansmith", seconds, workers))
                figures["perf_analyzer"].append(requests_per_second(server.grpc_url, "perf_analyzer", seconds, workers))
    ratio = statistics.median(a / b for a, b in zip(*figures.values(), strict=True))
    ours, theirs = map(statistics.median, figures.values())
    console = Console(highlight=False)
    console.print(f"plansmith {ours:,.0f} requests/s, perf_analyzer {theirs:,.0f}: {ratio:.2f}, median of pairs")
    report = output / "load_generator.json"
    write_figures(report, server, figures=figures)
    console.print(f"All rounds: {report}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured, in turn [%(default)s]")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement [%(default)s]")
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes of plansmith [%(default)s]")
    arguments = read_arguments(parser)
    main(arguments.rounds, arguments.seconds, arguments.workers, arguments.output)
