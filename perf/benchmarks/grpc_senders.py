"""What the load generator's own HTTP/2 gains over `grpc.aio` that is given bytes and gives bytes.

Both ask the same MLP (64-128-10) of one server over gRPC with 32 requests in flight, in turn, round by round, and
compare each answer. The order changes with each round. Client and server share the machine: leave it to them alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from backend_overhead import write_repository
from figures_file import write_figures
from rich.console import Console
from rich.progress import track

from plansmith_perf.benchmarking.benchmark import run_benchmark
from plansmith_perf.benchmarking.options import BenchmarkOptions
from plansmith_perf.load.measuring import MeasuringOptions, default_workers
from plansmith_perf.results.documents import ClosedLoop
from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from plansmith_perf.load.senders import GrpcSending

CONCURRENCY = 32
SENDERS: tuple[GrpcSending, ...] = ("own", "aio")
ENOUGH = 0.75


def requests_per_second(url: str, sender: GrpcSending, seconds: float, workers: int) -> float:
    """Measure once."""
    measuring = MeasuringOptions(
        seconds=seconds,
        warmup_seconds=1.0,
        workers=workers,
        timeout=30,
        tolerance=1e-3,
        percentiles=[50, 99],
        seed=0,
        grpc=sender,
    )
    loads = (ClosedLoop(concurrency=CONCURRENCY),)
    result = run_benchmark(BenchmarkOptions(url, "plansmith", "", loads, None, None, 16, 1, measuring))
    (measured,) = result.measurements
    if measured.errors:
        raise SystemExit(f"{sender}: {measured.errors} of {measured.requests} failed: {measured.error_messages}")
    return measured.throughput


def main(rounds: int, seconds: float, workers: int, output: Path) -> None:
    """Measure, print the medians and write the figures."""
    figures: dict[str, list[float]] = {sender: [] for sender in SENDERS}
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "model_repository"
        write_repository(repository)
        options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)
        with TritonServer(options) as server:
            for number in track(range(rounds), description="Measuring"):
                for sender in SENDERS if number % 2 else SENDERS[::-1]:
                    figures[sender].append(requests_per_second(server.grpc_url, sender, seconds, workers))
    ratio = statistics.median(aio / own for own, aio in zip(figures["own"], figures["aio"], strict=True))
    own, aio = (statistics.median(figures[sender]) for sender in SENDERS)
    console = Console(highlight=False)
    console.print(f"own HTTP/2 {own:,.0f} requests/s, grpc.aio {aio:,.0f}: {ratio:.3f}, median of pairs")
    console.print(f"grpc.aio is {'' if ratio >= ENOUGH else 'not '}enough: the limit is {ENOUGH}")
    report = output / "grpc_senders.json"
    write_figures(report, server, figures=figures, workers=workers)
    console.print(f"All rounds: {report}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9, help="how often each is measured, in turn [%(default)s]")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement [%(default)s]")
    parser.add_argument("--workers", type=int, default=default_workers(), help="processes that send [%(default)s]")
    parser.add_argument("--output", type=Path, default=Path("out/bench"), help="folder for the figures [%(default)s]")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    main(arguments.rounds, arguments.seconds, arguments.workers, arguments.output)
