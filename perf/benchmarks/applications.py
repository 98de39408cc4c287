"""Throughput of the examples: as plansmith serves each, and behind FastAPI by the framework and by the same engine.

`python perf/benchmarks/applications.py [NAME ...] [--output FOLDER] [--work FOLDER] [--short]` runs the programs of
examples/ where their folders are not there yet (`make examples` leaves them in out/), starts all servers of an example,
compares their answers, and asks each in turn: one item a request, 16 requests in flight, HTTP on both sides. PyTorch
must be installed. Ten minutes, beside the examples themselves: a page takes a second. Behind FastAPI, features, pages
and sentiment run by the same engines have plansmith's own steps, one after the other in one process; each stream of
speech has its state there. Writes `applications.json`, from which `published_tables.py` makes the table of
docs/examples.md. `--short` is for trying it out: shortened examples, one round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from example_answers import SEQUENCE, START
from example_applications import APPLICATIONS
from example_frameworks import EXAMPLES
from figures_file import read_arguments, write_figures
from http_rates import HOST, IN_FLIGHT, Asker, rate
from rich.console import Console

from peers.environments import REQUIREMENTS, make_environment
from peers.processes import PeerProcess
from peers.program import PROGRAMS, SERVED
from plansmith_build.repository.config import config_from_text
from plansmith_build.repository.linting.context import backend_of, model_files
from plansmith_client.inputs.conversion import array_from_value
from plansmith_client.protocol.codecs import binary_from_array
from plansmith_client.tensors import datatype_from_numpy
from plansmith_client.transports.http.wire import HEADER_LENGTH
from plansmith_server import ServerOptions, TritonServer
from plansmith_server.launcher.ports import find_free

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from example_applications import Application
    from http_rates import Request

OURS, FRAMEWORK, SAME = "plansmith", "framework", "same engine"
# Nearly tied classes may change places with the precision.
LEAST_AGREEMENT = 0.9
NEAR = 0.05
# As many as there are connections at once; a stream begins anew where its number is taken again.
STREAMS = cycle(range(1, IN_FLIGHT + 1))


def request_of(arrays: dict[str, np.ndarray], parameters: Mapping[str, int | bool] | None = None) -> Request:
    """Inputs as the Open Inference Protocol has them in binary."""
    described, parts = [], []
    for name, array in arrays.items():
        kind = datatype_from_numpy(array.dtype)
        parts.append(binary_from_array(array_from_value(array, kind)))
        size = {"binary_data_size": len(parts[-1])}
        described.append({"name": name, "datatype": kind, "shape": array.shape, "parameters": size})
    header = json.dumps({"inputs": described, "parameters": dict(parameters or {})}).encode()
    return b"".join((header, *parts)), {HEADER_LENGTH: str(len(header))}


def _requests(
    application: Application, make: Callable[[bytes, Mapping[str, int | bool]], Request]
) -> Callable[[bytes], Request]:
    """What makes the requests of a connection, which is one stream and begins it with the first one that is made."""
    if not application.is_stream:
        return lambda body: make(body, {})
    number, first = next(STREAMS), iter([True])
    return lambda body: make(body, {"sequence_id": number, "sequence_start": next(first, False)})


def _theirs(body: bytes, parameters: Mapping[str, int | bool]) -> Request:
    names = {"sequence_id": SEQUENCE, "sequence_start": START}
    return body, {names[name]: str(value) for name, value in parameters.items()}


def served_steps(repository: Path, model: str) -> list[dict[str, Any]]:
    """What `plansmith serve` answers with, step by step, as `fastapi_example.py` loads it."""
    ensemble = _config(repository / model, "config.pbtxt")
    steps = [
        (step.model_name, dict(step.input_map), dict(step.output_map)) for step in ensemble.ensemble_scheduling.step
    ]
    served = []
    for name, inputs, outputs in steps or [(model, {}, {})]:
        folder = repository / name
        config = _config(folder, "configs/cpu.pbtxt" if (folder / "configs/cpu.pbtxt").exists() else "config.pbtxt")
        version = max((path for path in folder.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
        (_, file), *_ = model_files(config, version)
        hint = config.parameters["INFERENCE_PRECISION_HINT"].string_value
        engine = {"backend": backend_of(config), "file": str(file), "precision": hint}
        states = {state.input_name: state.output_name for state in config.sequence_batching.state}
        served.append(
            {
                "folder": str(version),
                "engine": engine if engine["backend"] != "pipeline_step" else None,
                "inputs": inputs or {tensor.name: tensor.name for tensor in config.input},
                "outputs": outputs or {tensor.name: tensor.name for tensor in config.output},
                "states": states,
            }
        )
    return served


def _config(folder: Path, name: str) -> Any:
    return config_from_text((folder / name).read_text(encoding="utf-8"))


def contestants(
    name: str, application: Application, folder: Path, stack: ExitStack
) -> tuple[dict[str, Callable[[], Any]], str]:
    """Start an example's servers; for each a function that opens a connection, and what plansmith computes with."""
    repository = folder / "model_repository"
    server = stack.enter_context(
        TritonServer(ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0))
    )
    steps = served_steps(repository, application.model)
    place = int(server.http_url.rpartition(":")[2])
    path = f"/v2/models/{application.model}/infer"

    def ours(body: bytes, parameters: Mapping[str, int | bool]) -> Request:
        return request_of(application.request(body), parameters)

    opened: dict[str, Callable[[], Any]] = {OURS: lambda: Asker(place, path, _requests(application, ours))}
    packages = [_packages(requirements) for requirements in ("fastapi", *application.environments)]
    if application.fetch is not None:
        application.fetch(folder)
    body = application.bodies(folder)[0]
    for contestant in (FRAMEWORK, SAME):
        (port,) = find_free(HOST, 1)
        settings = {
            "application": name,
            "folder": str(folder.resolve()),
            "benchmarks": str(Path(__file__).parent),
            "packages": packages,
            "host": HOST,
            "http_port": port,
            "steps": steps,
        }
        work = Path(stack.enter_context(TemporaryDirectory()))
        (work / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        variables = {
            "PEER_SETTINGS": str(work / "settings.json"),
            SERVED: "1" * (contestant == SAME),
            "HF_HUB_OFFLINE": "1",
        }
        command = [sys.executable, str(PROGRAMS / "fastapi_example.py")]
        process = stack.enter_context(PeerProcess(command, work, variables))
        opened[contestant] = lambda port=port: Asker(port, "/predict", _requests(application, _theirs))
        process.wait_until(lambda ask=opened[contestant]: _answers(ask, body))
    engine = next(step["engine"] for step in steps if step["engine"])
    precision = Path(engine["file"]).stem.partition(".")[2] or application.precision
    return opened, f"{precision.replace('fp32', 'FP32').replace('int8', 'INT8')} on {engine['backend']}"


def _packages(requirements: str) -> str:
    environment = make_environment(REQUIREMENTS / f"{requirements}.txt")
    return str(next((environment.python.parents[1] / "lib").glob("python*/site-packages")))


def _answers(ask: Callable[[], Any], body: bytes) -> bool:
    try:
        return bool(ask()(body))
    except OSError:
        return False


def agreement(opened: dict[str, Callable[[], Any]], bodies: list[bytes]) -> dict[str, float]:
    """The share of bodies to which each of the others answers as plansmith does; of boxes, the labels."""
    asks = {name: make() for name, make in opened.items()}
    same = dict.fromkeys(list(opened)[1:], 0)
    for body in bodies:
        ours = {tensor["name"]: tensor["data"] for tensor in json.loads(asks[OURS](body))["outputs"]}
        for name in same:
            same[name] += all(map(_near, *zip(*_pairs(ours, json.loads(asks[name](body))), strict=True)))
    return {name: count / len(bodies) for name, count in same.items()}


def _pairs(ours: dict[str, Any], theirs: dict[str, Any]) -> list[tuple[Any, Any]]:
    return [(ours[name], given) for name, given in theirs.items() if name != "box"]


def _near(ours: list[Any], theirs: list[Any]) -> bool:
    if len(ours) != len(theirs):
        return False
    if theirs and isinstance(theirs[0], str):
        return sorted(ours) == sorted(theirs)
    return bool(np.abs(np.subtract(ours, theirs)).max() < NEAR)


def main() -> None:
    """Make, compare, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(APPLICATIONS)}; all by default")
    parser.add_argument("--work", type=Path, default=Path("out"), help="folder of the examples' own [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured, in turn [%(default)s]")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each measurement [%(default)s]")
    parser.add_argument("--short", action="store_true", help="shortened examples, one short round")
    arguments = read_arguments(parser)
    unknown = [name for name in arguments.names if name not in APPLICATIONS]
    if unknown:
        parser.error(f"{unknown[0]!r} is not an example that is measured: name some of {', '.join(APPLICATIONS)}")
    rounds, seconds = (1, 0.5) if arguments.short else (arguments.rounds, arguments.seconds)
    results = arguments.output / "applications.json"
    # What is not measured now keeps its figures.
    known = json.loads(results.read_text(encoding="utf-8"))["figures"] if arguments.names and results.exists() else {}
    figures: dict[str, Any] = dict(known)
    console = Console()
    for name in arguments.names or APPLICATIONS:
        application = APPLICATIONS[name]
        folder = (arguments.work / name).resolve()
        if not (folder / "model_repository" / application.model).is_dir():
            quick = ["--quick"] if arguments.short else []
            subprocess.run([sys.executable, EXAMPLES / application.program, "--output", folder, *quick], check=True)
        with ExitStack() as stack:
            opened, chosen = contestants(name, application, folder, stack)
            bodies = application.bodies(folder)
            agree = agreement(opened, bodies)
            if min(agree.values()) < LEAST_AGREEMENT:
                raise SystemExit(f"{name}: the servers answer differently: {agree}")
            measured: dict[str, list[float]] = {contestant: [] for contestant in opened}
            for number in range(rounds):
                for contestant in list(opened)[:: -1 if number % 2 else 1]:
                    measured[contestant].append(rate(opened[contestant], bodies, seconds))
        figures[name] = {"chosen": chosen, "framework": application.framework, "agree": agree, "rates": measured}
        medians = ", ".join(f"{who} {statistics.median(rates):,.0f}/s" for who, rates in measured.items())
        console.print(f"{name}, {chosen}: {medians}; answers alike: {min(agree.values()):.0%}", soft_wrap=True)
    write_figures(results, None, figures=figures)


if __name__ == "__main__":
    main()
