"""What the SDK costs and gains compared with tritonclient and PyTriton's ModelClient, against one real server.

Each comparison in short turns, the contestants in one order and then in the other, round by round in one run; only
ratios carry over to another machine:

- one small call: `Model.__call__` with validation, a deadline and the retry policy, against a bare `infer`;
- the same from 32 threads of one client, and from 32 tasks of an event loop;
- one row of 602 KB, one caller;
- bulk scoring: `Model.map` over many rows, against a loop of single calls;
- one request of 19 MB, and one whose answer has 19 MB too: automatic shared memory (the data copied in each time),
  against the same request without it;
- importing the package and connecting, in a new process.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import tritonclient.grpc
import tritonclient.http
from backend_overhead import CONFIG, write_repository
from concurrent_calls import from_tasks, from_threads
from figures_file import read_arguments, write_figures
from rich.console import Console
from rich.progress import track
from rich.table import Table

from plansmith_client import Client
from plansmith_perf.comparing.client_calls import tritonclient_call
from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

with warnings.catch_warnings():
    # PyTriton still imports what setuptools has deprecated.
    warnings.simplefilter("ignore")
    from pytriton.client import ModelClient

LARGE_CONFIG = """
backend: "python"
max_batch_size: 0
input { name: "x" data_type: TYPE_FP32 dims: [ -1, 3, 224, 224 ] }
output { name: "first" data_type: TYPE_FP32 dims: [ 1 ] }
instance_group { kind: KIND_CPU count: 1 }
"""
LARGE_MODEL = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("first", x[0, 0, 0, :1].copy())]))
        return responses
"""
ECHO_CONFIG = """
backend: "python"
max_batch_size: 32
input { name: "x" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 3, 224, 224 ] }
instance_group { kind: KIND_CPU count: 1 }
"""
ECHO_MODEL = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("y", pb_utils.get_input_tensor_by_name(request, "x").as_numpy())]
            )
            for request in requests
        ]
"""
Contestant = TypeVar("Contestant")
AT_ONCE = 32
# How often in a round: from one turn to the next a rate of so many threads on two cores changes by a third.
TURNS = 16
IMPORTS = {
    "plansmith gRPC": "from plansmith_client import Client\nClient({grpc!r}).is_live()",
    "tritonclient gRPC": "import tritonclient.grpc as t\nt.InferenceServerClient({grpc!r}).is_server_live()",
    "plansmith HTTP": "from plansmith_client import Client\nClient({http!r}).is_live()",
    "tritonclient HTTP": "import tritonclient.http as t\nt.InferenceServerClient({bare!r}).is_server_live()",
}


def write_models(repository: Path) -> None:
    """The MLP, a model that takes 19 MB and gives one number, and one that gives all of it back."""
    write_repository(repository)
    shutil.rmtree(repository / "handwritten")
    mlp = repository / "plansmith"
    mlp.rename(repository / "mlp")
    # What `plansmith build` writes unless told otherwise.
    config = CONFIG.format(backend="onnxruntime").replace("max_batch_size: 64", "max_batch_size: 32")
    (repository / "mlp" / "config.pbtxt").write_text(config, encoding="utf-8")
    for name, text, program in (("large", LARGE_CONFIG, LARGE_MODEL), ("echo", ECHO_CONFIG, ECHO_MODEL)):
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(text, encoding="utf-8")
        (repository / name / "1" / "model.py").write_text(program, encoding="utf-8")


def bare(kind: Any, client: Any, model: str, name: str, output: str) -> Callable[[np.ndarray], np.ndarray]:
    """One call of tritonclient over gRPC or HTTP, as its examples write it."""
    call = tritonclient_call(kind.InferInput, client, model, [output])
    return lambda array: call({name: array})[output]


def seconds_each(call: Callable[[np.ndarray], Any], array: np.ndarray, times: int) -> float:
    """Seconds of one call, the median of many."""
    took = []
    for _ in range(times):
        started = time.perf_counter()
        call(array)
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def compare(server: TritonServer, compiled: Path, rounds: int, rows: int) -> dict[str, dict[str, list[float]]]:
    """All comparisons; for each its contestants' figures, one a round."""
    http = server.http_url.removeprefix("http://")
    small, many = np.ones((1, 64), np.float32), np.random.default_rng(0).standard_normal((rows, 64), np.float32)
    large = np.ones((32, 3, 224, 224), np.float32)
    with (
        Client(server.grpc_url) as grpc,
        Client(server.http_url) as over_http,
        tritonclient.grpc.InferenceServerClient(server.grpc_url) as their_grpc,
        tritonclient.http.InferenceServerClient(http) as their_http,
        ModelClient(f"grpc://{server.grpc_url}", "mlp") as pytriton_grpc,
        ModelClient(server.http_url, "mlp") as pytriton_http,
        ModelClient(f"grpc://{server.grpc_url}", "large") as pytriton_large,
    ):
        small_calls = {
            "plansmith gRPC": grpc.model("mlp"),
            "tritonclient gRPC": bare(tritonclient.grpc, their_grpc, "mlp", "x", "y"),
            "PyTriton gRPC": pytriton_grpc.infer_batch,
            "plansmith HTTP": over_http.model("mlp"),
            "tritonclient HTTP": bare(tritonclient.http, their_http, "mlp", "x", "y"),
            "PyTriton HTTP": pytriton_http.infer_batch,
        }
        large_calls = {
            "plansmith gRPC": grpc.model("large"),
            "plansmith HTTP": over_http.model("large"),
            "tritonclient gRPC": bare(tritonclient.grpc, their_grpc, "large", "x", "first"),
            "tritonclient HTTP": bare(tritonclient.http, their_http, "large", "x", "first"),
            "PyTriton gRPC": pytriton_large.infer_sample,
        }
        echo_calls = {
            "plansmith gRPC": grpc.model("echo"),
            "plansmith HTTP": over_http.model("echo"),
            "tritonclient gRPC": bare(tritonclient.grpc, their_grpc, "echo", "x", "y"),
            "tritonclient HTTP": bare(tritonclient.http, their_http, "echo", "x", "y"),
        }
        row_calls = {name: call for name, call in large_calls.items() if "PyTriton" not in name}
        # What is called with what, how often in a turn, and how many turns a round has.
        timed: list[tuple[str, dict[str, Any], Any, int, int]] = [
            ("one small call, ms", small_calls, small, 100, 10),
            ("one request of 19 MB, ms", large_calls, large, 5, 2),
            ("19 MB there and back, ms", echo_calls, large, 5, 2),
            ("one row of 602 KB, ms", row_calls, large[:1], 30, 4),
        ]
        for _, calls, array, times, _ in timed:
            for call in calls.values():
                seconds_each(call, array, times)
        measured: dict[str, dict[str, list[float]]] = {}
        for _ in track(range(rounds), description="Measuring"):
            for kind, calls, array, times, turns in timed:
                for name, call in in_turn(calls, turns):
                    add(measured, kind, name, 1e3 * seconds_each(call, array, times))
            for kind, rates in (("threads", from_threads), ("tasks", from_tasks)):
                for name, rate in in_turn(rates(server, AT_ONCE, 100), TURNS):
                    add(measured, f"small calls of {AT_ONCE} {kind}, calls/s", name, rate())
            for name, seconds in bulk(many, small_calls, {"gRPC": grpc, "HTTP": over_http}):
                add(measured, "bulk scoring, rows/s", name, seconds)
            for name, took in first_answers(server, compiled):
                add(measured, "import and first answer, ms", name, took)
    return measured


def in_turn(contestants: dict[str, Contestant], turns: int) -> Iterator[tuple[str, Contestant]]:
    """Each contestant with its name so many times, in this order and then in the other, and so on."""
    for turn in range(turns):
        yield from list(contestants.items())[:: -1 if turn % 2 else 1]


def first_answers(server: TritonServer, compiled: Path) -> Iterator[tuple[str, float]]:
    """Milliseconds of new processes that find their modules compiled in a folder, as pip leaves them."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(compiled)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    urls = {"grpc": server.grpc_url, "http": server.http_url, "bare": server.http_url.removeprefix("http://")}

    def run(program: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", program.format(**urls)], check=True, env=environment)
        return 1e3 * (time.perf_counter() - started)

    for program in IMPORTS.values():
        run(program)
    for name, program in in_turn(IMPORTS, 4):
        yield name, run(program)


def bulk(
    many: np.ndarray, calls: dict[str, Callable[[np.ndarray], Any]], clients: dict[str, Client]
) -> Iterator[tuple[str, float]]:
    """Rows a second of `map` over all rows, and of the others' loops over as many as take about as long."""
    answers = {}
    for protocol, client in clients.items():
        started = time.perf_counter()
        answers[protocol] = client.model("mlp").map(many).collect()["y"]
        yield f"plansmith {protocol}", len(many) / (time.perf_counter() - started)
    few = many[: len(many) // 50]
    for name, call in calls.items():
        if name.startswith("plansmith"):
            continue
        started = time.perf_counter()
        got = [call(few[row : row + 1]) for row in range(len(few))]
        yield f"{name} loop", len(few) / (time.perf_counter() - started)
        rows = [answer["y"] if isinstance(answer, dict) else answer for answer in got]
        if not np.allclose(np.concatenate(rows), answers[name.rpartition(" ")[2]][: len(few)], rtol=1e-4, atol=1e-4):
            raise SystemExit(f"{name} and map disagree")


def add(measured: dict[str, dict[str, list[float]]], comparison: str, name: str, value: float) -> None:
    """Note one figure."""
    measured.setdefault(comparison, {}).setdefault(name, []).append(value)


def show(measured: dict[str, dict[str, list[float]]]) -> None:
    """Each contestant against plansmith over the same protocol: medians, and the median of the rounds' ratios."""
    for comparison, figures in measured.items():
        table = Table("client", "median", "plansmith, same protocol", "ratio, median of pairs", title=comparison)
        for name, values in figures.items():
            ours = figures[f"plansmith {'HTTP' if 'HTTP' in name else 'gRPC'}"]
            rate = comparison.endswith("/s")
            ratios = [mine / other if rate else other / mine for mine, other in zip(ours, values, strict=True)]
            table.add_row(
                name, *(f"{statistics.median(v):,.3g}" for v in (values, ours)), f"{statistics.median(ratios):.2f}"
            )
        Console().print(table)
    Console().print("A ratio above 1 means that plansmith is that many times faster.")


def main(rounds: int, rows: int, output: Path) -> None:
    """Measure, print the tables and write the figures."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "model_repository"
        write_models(repository)
        options = ServerOptions(
            repository=repository,
            http_port=0,
            grpc_port=0,
            metrics_port=0,
            config_name="none",
            open_admin=True,  # shared memory over HTTP, too
        )
        with TritonServer(options) as server:
            measured = compare(server, Path(folder) / "compiled", rounds, rows)
    show(measured)
    report = output / "client_speed.json"
    write_figures(report, server, rows=rows, figures=measured)
    Console().print(f"All rounds: {report}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured, in turn [%(default)s]")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the bulk scoring [%(default)s]")
    arguments = read_arguments(parser)
    main(arguments.rounds, arguments.rows, arguments.output)
