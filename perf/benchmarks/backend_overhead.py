"""What plansmith's `onnxruntime` backend costs compared with a hand-written Python backend for one model.

Both serve the same MLP (64-128-10, dynamic batching, one instance) in the same server, and perf_analyzer asks them in
turn, round by round. The result is the ratio of their throughput; only ratios carry over to another machine. ONNX
Runtime's threads spin between runs in the hand-written one, as they do by default; plansmith's backend is asked without
and with that.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

from figures_file import read_arguments, write_figures
from mlp import write_mlp
from rich.console import Console
from rich.progress import track
from rich.table import Table

from plansmith_perf.perf_analyzer.installation import install_perf_analyzer
from plansmith_perf.perf_analyzer.program import PerfAnalyzer, Question
from plansmith_perf.results.documents import ClosedLoop
from plansmith_server import ServerOptions, TritonServer

CONFIG = """
backend: "{backend}"
max_batch_size: 64
input {{ name: "x" data_type: TYPE_FP32 dims: 64 }}
output {{ name: "y" data_type: TYPE_FP32 dims: 10 }}
dynamic_batching {{ }}
instance_group {{ kind: KIND_CPU count: 1 }}
"""
SPINNING = 'parameters { key: "session.intra_op.allow_spinning" value { string_value: "1" } }\n'
# Name: backend, and what else its configuration has.
MODELS = {
    "plansmith": ("onnxruntime", ""),
    "plansmith_spinning": ("onnxruntime", SPINNING),
    "handwritten": ("python", ""),
}


def write_repository(repository: Path) -> None:
    """Write the models: the same network behind each backend."""
    for name, (backend, more) in MODELS.items():
        version = repository / name / "1"
        version.mkdir(parents=True)
        write_mlp(version / "model.onnx")
        (repository / name / "config.pbtxt").write_text(CONFIG.format(backend=backend) + more, encoding="utf-8")
    shutil.copy(Path(__file__).with_name("handwritten_backend.py"), repository / "handwritten" / "1" / "model.py")


def _measured(analyzer: PerfAnalyzer, model: str, target: str, concurrency: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        report = analyzer.run(
            Question(model, target), ClosedLoop(concurrency=concurrency), seconds=6.0, folder=Path(folder)
        )
    return report.rows_per_second


def main(rounds: int, concurrencies: list[int], output: Path) -> None:
    """Measure, print the table and write the figures."""
    analyzer = install_perf_analyzer()
    throughput: dict[int, dict[str, list[float]]] = {c: {model: [] for model in MODELS} for c in concurrencies}
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "model_repository"
        write_repository(repository)
        options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)
        with TritonServer(options) as server:
            plan = [(c, model) for _ in range(rounds) for c in concurrencies for model in MODELS]
            for concurrency, model in track(plan, description="Measuring"):
                throughput[concurrency][model].append(_measured(analyzer, model, server.grpc_url, concurrency))

    ours = list(MODELS)[:-1]
    ratios = [f"{name}, ratio" for name in ours]
    table = Table("concurrency", *MODELS, *ratios, title="MLP 64-128-10, requests/s, median of rounds")
    for concurrency, measured in throughput.items():
        medians = [f"{statistics.median(measured[model]):,.0f}" for model in MODELS]
        pairs = [zip(measured[name], measured["handwritten"], strict=True) for name in ours]
        paired = [f"{statistics.median(mine / theirs for mine, theirs in pair):.2f}" for pair in pairs]
        table.add_row(str(concurrency), *medians, *paired)
    Console().print(table)
    report = output / "backend_overhead.json"
    write_figures(report, server, figures=throughput)
    Console().print(f"All rounds: {report}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured, in turn [%(default)s]")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16, 32], help="[1 16 32]")
    arguments = read_arguments(parser)
    main(arguments.rounds, arguments.concurrency, arguments.output)
