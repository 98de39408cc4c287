"""A server under mixed load for a long time: what it keeps of memory, descriptors and shared memory.

`python perf/benchmarks/soak.py [--warmup 300] [--seconds 1500] [--output FOLDER]` serves five models and asks them over
gRPC and HTTP: valid requests, invalid ones, large ones, and calls that are given up before their answer. It looks at
the idle server after the warm-up and every 150 seconds from then on, and exits with 1 if the median of the last three
looks has over 2 % more memory than that of the first three, or if there are more descriptors or regions of shared
memory at the end. Calls are given up over HTTP alone: over gRPC that can end Triton 2.51 itself.

Regions of shared memory keep the size of the largest batch so far, which comes at a random time: in half of the warm-up
one model after the other is asked alone, so that it comes soon. What Triton's own process keeps for later goes up and
down by several percent from look to look, hence medians.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx.parser
import psutil
from figures_file import read_arguments, write_figures
from rich.console import Console

from plansmith_client import AsyncClient, ClientError
from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Sequence

LARGE = 3 * 224 * 224
# Name: backend, type in ONNX, type in Triton, size of a row.
MODELS = {
    "small_onnxruntime": ("onnxruntime", "float", "TYPE_FP32", 64),
    "small_openvino": ("openvino", "float", "TYPE_FP32", 64),
    "large_onnxruntime": ("onnxruntime", "float", "TYPE_FP32", LARGE),
    "large_openvino": ("openvino", "float", "TYPE_FP32", LARGE),
    "text": ("onnxruntime", "string", "TYPE_STRING", 4),
}
NETWORK = (
    '<ir_version: 8, opset_import: ["" : 17]> m ({kind}[N, {size}] x) => ({kind}[N, {size}] y) {{ y = Identity (x) }}'
)
CONFIG = """
backend: "{backend}"
max_batch_size: 16
input {{ name: "x" data_type: {kind} dims: {size} }}
output {{ name: "y" data_type: {kind} dims: {size} }}
dynamic_batching {{ }}
instance_group {{ kind: KIND_CPU count: 1 }}
"""
INVALID = b'{"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}'
CALLERS = 8
SECONDS_BETWEEN_LOOKS = 150.0
LARGEST_GROWTH = 0.02
SETTLING_SECONDS = 3.0
# What is closed late on a busy machine is no leak.
CLOSING_SECONDS = 60.0


@dataclass(frozen=True)
class Held:
    """What the server and its backends' processes have while nothing is asked.

    Attributes:
        memory: bytes that they share with nobody, and their regions of shared memory.
        descriptors: open files, sockets and the like, without connections that a caller keeps open.
        regions: files of shared memory that they have mapped.
    """

    memory: int
    descriptors: int
    regions: int


def write_repository(repository: Path) -> None:
    """Write the five models."""
    for name, (backend, onnx_kind, kind, size) in MODELS.items():
        version = repository / name / "1"
        version.mkdir(parents=True)
        onnx.save(onnx.parser.parse_model(NETWORK.format(kind=onnx_kind, size=size)), version / "model.onnx")
        config = CONFIG.format(backend=backend, kind=kind, size=size)
        version.with_name("config.pbtxt").write_text(config, encoding="utf-8")


def held_by(server: TritonServer) -> Held:
    """What the idle server has now."""
    time.sleep(SETTLING_SECONDS)
    processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    regions = {
        line.split(maxsplit=5)[5].strip()
        for process in processes
        for line in Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8").splitlines()
        if "/dev/shm/" in line  # noqa: S108 - read, not written
    }
    kept_open = [one.status for one in processes[0].net_connections()].count(psutil.CONN_ESTABLISHED)
    shared = sum(Path(region).stat().st_blocks * 512 for region in regions if Path(region).exists())
    return Held(
        memory=shared + sum(process.memory_full_info().uss for process in processes),
        descriptors=sum(process.num_fds() for process in processes) - kept_open,
        regions=len(regions),
    )


def put_load(server: TritonServer, seconds: float, *names: str) -> Counter[str]:
    """Ask these models, or all, for so long; how many requests of each kind ended as they should."""
    return asyncio.run(_put_load(server, seconds, names or tuple(MODELS)))


async def _put_load(server: TritonServer, seconds: float, names: Sequence[str]) -> Counter[str]:
    ended: Counter[str] = Counter()
    async with (
        AsyncClient(server.grpc_url) as grpc,
        AsyncClient(server.http_url) as http,
        asyncio.TaskGroup() as group,
    ):
        for number in range(CALLERS):
            chance = random.Random(number)  # noqa: S311 - nothing is secret
            group.create_task(_caller((grpc, http), names, seconds, chance, ended))
    return ended


async def _caller(
    clients: tuple[AsyncClient, AsyncClient],
    names: Sequence[str],
    seconds: float,
    chance: random.Random,
    ended: Counter[str],
) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        name = chance.choice(names)
        size = MODELS[name][3]
        value, dtype = ("a word", np.object_) if name == "text" else (1.5, np.float32)
        rows = np.full((chance.randint(1, 4), size), value, dtype)
        match chance.choices(("valid", "invalid", "given up"), (8, 1, 1))[0]:
            case "valid":
                answer = (await chance.choice(clients).model(name).infer({"x": rows}, timeout=60)).array
                if len(answer) != len(rows):
                    raise ValueError(f"{name} answered {len(rows)} rows with {len(answer)}")
                ended["large" if size == LARGE else "valid"] += 1
            case "invalid":
                # Other tasks count during the wait.
                refused = await asyncio.to_thread(_is_refused, f"{clients[1].url}/v2/models/{name}/infer")
                ended["invalid"] += refused
            case _:
                try:
                    await clients[1].model(name).infer({"x": rows}, timeout=chance.uniform(0.0005, 0.005))
                except ClientError:
                    ended["given up"] += 1


def _is_refused(url: str) -> bool:
    request = urllib.request.Request(url, INVALID, {"Content-Type": "application/json"})  # noqa: S310 - our own server
    try:
        urllib.request.urlopen(request, timeout=60).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        with error:
            return error.code == 400  # noqa: PLR2004 - Bad Request
    return False


def soak(warmup: float, seconds: float) -> tuple[TritonServer, Counter[str], list[Held]]:
    """Serve the models under load; the server, the requests since the warm-up, and what it held at each look."""
    with tempfile.TemporaryDirectory() as folder:
        write_repository(Path(folder))
        options = ServerOptions(repository=Path(folder), http_port=0, grpc_port=0, metrics_port=0, strict=True)
        with TritonServer(options) as server:
            for name in MODELS:
                put_load(server, warmup / 10, name)
            put_load(server, warmup / 2)
            looks = [held_by(server)]
            requests: Counter[str] = Counter()
            parts = max(1, round(seconds / SECONDS_BETWEEN_LOOKS))
            for _ in range(parts):
                requests += put_load(server, seconds / parts)
                looks.append(held_by(server))
            end = time.monotonic() + CLOSING_SECONDS
            while leaks(looks[0], looks[-1]) and time.monotonic() < end:
                looks[-1] = held_by(server)
            return server, requests, looks


def leaks(before: Held, after: Held) -> bool:
    """Whether there are more descriptors or regions than there were."""
    return after.descriptors > before.descriptors or after.regions > before.regions


def main(warmup: float, seconds: float, output: Path) -> int:
    """Soak, and write the figures."""
    server, requests, looks = soak(warmup, seconds)
    few = min(3, len(looks) // 2)
    first, last = (statistics.median(look.memory for look in some) for some in (looks[:few], looks[-few:]))
    growth = last / first - 1
    mebibytes = ", ".join(f"{look.memory / 2**20:.0f}" for look in looks)
    Console().print(
        f"{dict(requests)} in {seconds:g} s: memory {growth:+.1%} ({mebibytes} MiB), descriptors "
        f"{looks[0].descriptors} then {looks[-1].descriptors}, regions {looks[0].regions} then {looks[-1].regions}"
    )
    figures = {"looks": [asdict(look) for look in looks], "growth": growth}
    write_figures(
        output / "soak.json", server, warmup_seconds=warmup, seconds=seconds, requests=dict(requests), figures=figures
    )
    return int(leaks(looks[0], looks[-1]) or growth > LARGEST_GROWTH)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warmup", type=float, default=300.0, help="seconds before the first look [%(default)s]")
    parser.add_argument("--seconds", type=float, default=1500.0, help="between first and last look [%(default)s]")
    arguments = read_arguments(parser)
    sys.exit(main(arguments.warmup, arguments.seconds, arguments.output))
