"""What a quarter of the trials finds: `plansmith tune` against an exhaustive search of the same space.

Both tune the MLP (64-128-10). What each publishes is then served, and the two servers are asked in turn, each with the
number of requests in flight that its search found best.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path

from figures_file import read_arguments, write_figures
from rich.console import Console
from rich.progress import track
from tuned_models import IN_USE, build_mlp, tune

from plansmith_perf.benchmarking.benchmark import BenchmarkOptions, run_benchmark
from plansmith_perf.load.measuring import MeasuringOptions
from plansmith_perf.results.documents import ClosedLoop
from plansmith_server import ServerOptions, TritonServer

SPACE = (
    *("--instances", "1,2", "--threads", "1,2", "--queue-delays", "off,0,200,1000"),
    *("--max-batch-sizes", "64", "--preferred-batch-sizes", "0,8"),
)
SLO = "p99=20ms"
SHARE = 0.25


def requests_per_second(server: TritonServer, concurrency: int) -> float:
    """Measure once."""
    measuring = MeasuringOptions(seconds=3, warmup_seconds=0.5, workers=2, timeout=30, percentiles=[50, 99])
    loads = (ClosedLoop(concurrency=concurrency),)
    result = run_benchmark(BenchmarkOptions(url=server.grpc_url, model="mlp", loads=loads, measuring=measuring))
    return result.measurements[0].throughput


def main(rounds: int, seconds: float, output: Path) -> None:
    """Search twice, measure both winners in turn, print and write the figures."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="plansmith-tune-") as name:
        folders = {search: Path(name) / search for search in ("exhaustive", "quarter")}
        folders["exhaustive"].mkdir()
        build_mlp(folders["exhaustive"])
        shutil.copytree(folders["exhaustive"], folders["quarter"])
        settings = ("--slo", SLO, "--seconds", str(seconds), "--rounds", "3", *SPACE)
        records = {"exhaustive": tune(folders["exhaustive"], "mlp", *settings, "--exhaustive")}
        trials = int(SHARE * records["exhaustive"].space)
        records["quarter"] = tune(folders["quarter"], "mlp", *settings, "--trials", str(trials))
        figures: dict[str, list[float]] = {search: [] for search in folders}
        options = {
            search: ServerOptions(
                repository=folder / "model_repository", http_port=0, grpc_port=0, metrics_port=0, config_name=IN_USE
            )
            for search, folder in folders.items()
        }
        with TritonServer(options["exhaustive"]) as one, TritonServer(options["quarter"]) as other:
            for _ in track(range(rounds), description="Measuring"):
                for search, server in {"exhaustive": one, "quarter": other}.items():
                    record = records[search]
                    concurrency = record.trial(record.winner or 0).concurrency or 1
                    figures[search].append(requests_per_second(server, concurrency))
    ratio = statistics.median(b / a for a, b in zip(*figures.values(), strict=True))
    for search, record in records.items():
        best = record.trial(record.winner or 0)
        rate = statistics.median(figures[search])
        console.print(
            f"{search}: {len(record.trials) - 1} trials of {record.space}, {rate:,.0f} requests/s, {best.setting}"
        )
    console.print(f"ratio {ratio:.3f}, median of {rounds} pairs")
    documents = {search: json.loads(record.model_dump_json()) for search, record in records.items()}
    report = output / "tune_search.json"
    write_figures(report, one, figures=figures, searches=documents)
    console.print(f"All rounds: {report}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="pairs at the end [%(default)s]")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement of a trial [%(default)s]")
    arguments = read_arguments(parser)
    main(arguments.rounds, arguments.seconds, arguments.output)
