"""The models of several examples on one server: how long the one that somebody waits for takes beside the others.

Pages, layouts and sentences are asked for by callers who ask again as soon as they are answered, digits by somebody who
waits: alone, beside the others, and beside the others under Triton's rate limiter. There all their models share one
permit, so that one of them executes at a time, on one thread, and a core is left for digits.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.repository.config import config_from_text, text_from_config
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer

# What all examples draw with lies beside their folders.
sys.path.append(str(Path(__file__).parents[1]))
from drawing import save_bars

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
WAITED_FOR = "digits"
CALLERS = {"pages": 2, "layout": 2, "sentences": 4}
SENTENCE = b"How do I bake bread?"
PAUSE = 0.02
PERMIT = "background"
# What executes next is what has executed least often, times its priority. All models wait in one line, those without a
# permit behind the first that needs one: so the one that is waited for must always be the first.
PRIORITIES = {"digits": 1, "sentences": 1_000, "layout": 10_000, "pages": 10_000}
LIMITS = ("--rate-limit=execution_count", f"--rate-limit-resource={PERMIT}:1")


def gather(repository: Path, others: list[Path]) -> None:
    """Copy what the other examples have published, and this project's digits, into one repository."""
    shutil.rmtree(repository, ignore_errors=True)
    shutil.copytree(ROOT / "model_repository" / WAITED_FOR, repository / WAITED_FOR)
    for model in (model for other in others for model in other.iterdir() if (model / "config.pbtxt").exists()):
        shutil.copytree(model, repository / model.name)


def limit(repository: Path) -> None:
    """Write configs/limited.pbtxt for each model: how urgent it is, and what it may use of the machine."""
    for path in repository.glob("*/config.pbtxt"):
        name = path.parent.name
        config = config_from_text(path.read_text())
        if config.platform == "ensemble":
            continue
        if not config.instance_group:
            config.instance_group.add(count=1)
        for group in config.instance_group:
            group.rate_limiter.priority = PRIORITIES[name.split(".")[0]]
            if name != WAITED_FOR:
                group.rate_limiter.resources.add(name=PERMIT, count=1, **{"global": True})
        if config.backend == "onnxruntime":
            config.parameters["intra_op_thread_count"].string_value = "1"
        path.parent.joinpath("configs").mkdir(exist_ok=True)
        (path.parent / "configs" / "limited.pbtxt").write_text(text_from_config(config))


@contextlib.contextmanager
def load(url: str, inputs: dict[str, bytes], answered: list[str]) -> Iterator[None]:
    """Ask the others without a pause, and raise what their calls raised."""
    ended = threading.Event()

    def ask(name: str) -> None:
        while not ended.is_set():
            client.model(name)([[inputs[name]]])
            answered.append(name)

    with Client(url, timeout=300) as client, ThreadPoolExecutor(sum(CALLERS.values())) as pool:
        for name in CALLERS:
            client.model(name)([[inputs[name]]])
        calls = [pool.submit(ask, name) for name, count in CALLERS.items() for _ in range(count)]
        try:
            yield
        finally:
            ended.set()
        for call in calls:
            call.result()


def waited(url: str, calls: int) -> list[float]:
    """Milliseconds of each of some calls for digits, one after the other with pauses between them."""
    image = np.random.default_rng(0).random((1, 8, 8), np.float32) * 16
    milliseconds = []
    with Client(url) as client:
        model = client.model(WAITED_FOR)
        model(image)
        for _ in range(calls):
            time.sleep(PAUSE)
            started = time.perf_counter()
            model(image)
            milliseconds.append((time.perf_counter() - started) * 1000)
    return milliseconds


def main(folder: Path, others: list[Path], inputs: dict[str, bytes], *, rounds: int, calls: int) -> None:
    """Measure the three in turn, and print them."""
    repository = folder / "model_repository"
    gather(repository, others)
    limit(repository)
    milliseconds: dict[str, list[float]] = {"alone": [], "beside the others": [], "beside the others, limited": []}
    answered: dict[str, list[str]] = {name: [] for name in milliseconds}
    seconds = dict.fromkeys(milliseconds, 0.0)
    for name in list(milliseconds) * rounds:
        limited = name.endswith("limited")
        options = ServerOptions(
            repository=repository,
            http_port=0,
            grpc_port=0,
            metrics_port=0,
            config_name="limited" if limited else "none",
            triton_arguments=LIMITS if limited else (),
        )
        with TritonServer(options) as server, contextlib.ExitStack() as stack:
            if name != "alone":
                stack.enter_context(load(server.grpc_url, inputs, answered[name]))
            started = time.perf_counter()
            milliseconds[name] += waited(server.grpc_url, calls)
            seconds[name] += time.perf_counter() - started
    bars = {}
    for name, each in milliseconds.items():
        quantiles = dict(zip(("p50", "p99"), np.percentile(each, [50, 99]), strict=True))
        rates = [f"{answered[name].count(other) / seconds[name]:.1f} {other}/s" for other in CALLERS]
        beside = "" if name == "alone" else f"; {', '.join(rates)}"
        print(f"{name}: {', '.join(f'{quantile} {value:.1f} ms' for quantile, value in quantiles.items())}{beside}")
        bars[name + beside] = [(quantile, value, f"{value:.1f} ms") for quantile, value in quantiles.items()]
    save_bars(bars, folder / "mixed.svg", "How long digits take")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pages", type=Path, default=Path("out/pages"), help="where pages.py worked [%(default)s]")
    parser.add_argument("--search", type=Path, default=Path("out/search"), help="where search.py worked [%(default)s]")
    parser.add_argument("--output", type=Path, default=Path("out/mixed"), help="folder to work in [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="one short round instead of three")
    arguments = parser.parse_args()
    main(
        arguments.output,
        [arguments.pages / "model_repository", arguments.search / "model_repository"],
        {
            "pages": (arguments.pages / "page.png").read_bytes(),
            "layout": (arguments.pages / "report.png").read_bytes(),
            "sentences": SENTENCE,
        },
        rounds=1 if arguments.quick else 3,
        calls=100 if arguments.quick else 400,
    )
