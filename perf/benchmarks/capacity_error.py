"""How far off `plansmith capacity` is: fitted to half of the rates that were measured, and compared with the others.

The models sleep, so that their service times are known and a slow machine changes little: a constant time, an
exponential one, four instances, and batches that take longer the larger they are. A real server serves them, and
`plansmith bench` asks.

    python perf/benchmarks/capacity_error.py [--seconds 100] > table.md
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plansmith_perf.capacity import fitted
from plansmith_perf.results.documents import OpenLoop, read_result
from plansmith_perf.slo import not_kept_up
from plansmith_server import ServerOptions, TritonServer

# Every second one, and the highest, are fitted; the others are predicted.
RATES = (2.5, 5, 7.5, 10, 12.5, 15, 17.5, 20, 22.5)
PERCENTILES = ("50", "95", "99")
MODEL = """
import json, time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        given = json.loads(args["model_config"])["parameters"]
        self.alone, self.each, self.varied = (
            float(given[name]["string_value"]) for name in ("alone", "each", "varied"))
        self.random = np.random.default_rng()

    def execute(self, requests):
        seconds = self.alone + self.each * len(requests)
        time.sleep(self.random.exponential(seconds) if self.varied else seconds)
        return [pb_utils.InferenceResponse([pb_utils.Tensor(
            "y", pb_utils.get_input_tensor_by_name(request, "x").as_numpy())]) for request in requests]
"""


@dataclass(frozen=True)
class Sleeper:
    """A model that takes 25 requests a second at most, or 30 in batches.

    Attributes:
        description: for the table.
        alone: seconds of each computation.
        each: seconds more for each request in it.
        varied: whether the time is exponentially distributed with this mean, instead of constant.
        instances: how many compute at once.
        batch: the largest batch; 0 without batching.
    """

    description: str
    alone: float
    each: float = 0.0
    varied: bool = False
    instances: int = 1
    batch: int = 0

    def write(self, folder: Path) -> None:
        """Write the model into its folder of a repository."""
        (folder / "1").mkdir(parents=True)
        (folder / "1" / "model.py").write_text(MODEL, encoding="utf-8")
        numbers = {"alone": self.alone, "each": self.each, "varied": int(self.varied)}
        lines = [
            f'backend: "python" max_batch_size: {self.batch}',
            'input { name: "x" data_type: TYPE_FP32 dims: 1 } output { name: "y" data_type: TYPE_FP32 dims: 1 }',
            f"instance_group {{ kind: KIND_CPU count: {self.instances} }}",
            *(f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}' for name, value in numbers.items()),
            *(["dynamic_batching { }"] if self.batch else []),
        ]
        (folder / "config.pbtxt").write_text("\n".join(lines), encoding="utf-8")


MODELS = {
    "constant": Sleeper("one instance, 40 ms each", 0.04),
    "varied": Sleeper("one instance, 40 ms on average, exponentially distributed", 0.04, varied=True),
    "four": Sleeper("four instances, 160 ms each", 0.16, instances=4),
    "batched": Sleeper("batches of up to 8, 40 ms and 28 ms for each request", 0.04, each=0.028, batch=8),
}


def measure(server: TritonServer, name: str, seconds: float, folder: Path) -> Path:
    """Ask a model at each rate: the result's file."""
    command = [Path(sys.executable).with_name("plansmith"), "bench", name, "--url", server.grpc_url]
    loads = ["--rate", ",".join(map(str, RATES)), "--seconds", f"{seconds:g}", "--percentiles", ",".join(PERCENTILES)]
    result = folder / f"{name}.json"
    subprocess.run([*command, *loads, "--workers", "1", "--output", result], check=True, stdout=subprocess.DEVNULL)
    return result


def errors(result: Path, percentile: str) -> tuple[list[float], float, float]:
    """How far off the prediction each rate was that was not fitted, as shares of the prediction.

    Returns:
        These; the error that the fitted model states itself; the highest rate that was kept up with.
    """
    points = [
        (each.load.rate, each.latency.percentiles[percentile])
        for each in read_result(result).measurements
        if isinstance(each.load, OpenLoop) and not not_kept_up(each)
    ]
    rates, latencies = np.array(points).T
    held = np.arange(len(rates)) % 2 == 1
    held[-1] = False
    curve = fitted(rates[~held], latencies[~held])
    missed = [latency / curve.latency(rate) - 1 for rate, latency in zip(rates[held], latencies[held], strict=True)]
    return missed, curve.error, float(rates[-1])


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=100.0, help="of each rate")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as place:
        repository = Path(place) / "models"
        for name, model in MODELS.items():
            model.write(repository / name)
        options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)
        with TritonServer(options) as server, ThreadPoolExecutor(len(MODELS)) as pool:
            results = dict(
                zip(MODELS, pool.map(lambda name: measure(server, name, seconds, Path(place)), MODELS), strict=True)
            )
        sys.stdout.write("| a server with | up to | | off on average | at most | stated |\n|---|---|---|---|---|---|\n")
        for name, model in MODELS.items():
            for percentile in PERCENTILES:
                missed, stated, highest = errors(results[name], percentile)
                sizes = np.abs(missed)
                sys.stdout.write(
                    f"| {model.description} | {highest:g}/s | p{percentile} | {sizes.mean():.0%} | {sizes.max():.0%} | "
                    f"{stated:.0%} |\n"
                )


if __name__ == "__main__":
    main()
