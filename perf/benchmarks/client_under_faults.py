"""What the SDK keeps under faults, counted against real servers: kills, drips, overload, shared memory.

- Two servers, 64 callers, one of the servers killed again and again: no wrong answer, and each call ends in a result or
  an error of the client by its deadline and 100 ms.
- A server that drips a byte a second, deadline 500 ms: each call ends within 600 ms.
- Five times the load that a model with a bounded queue can take: attempts sent for each call made.
- Calls through shared memory: growth of resident memory; clients killed: regions left after the next one.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from figures_file import write_figures
from rich.console import Console
from rich.progress import track

from plansmith_client import Client, ClientError, ServerOverloaded, SharedMemoryPolicy
from plansmith_client.protocol.operations import Infer, ListSharedMemory
from plansmith_client.transports.deadlines import Deadline
from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Callable

GRACE = 0.1
TENSORS = (
    'backend: "python" input { name: "x" data_type: TYPE_FP32 dims: -1 }'
    ' output { name: "y" data_type: TYPE_FP32 dims: -1 }'
    " instance_group { kind: KIND_CPU count: 1 } "
)
QUEUE = "default_queue_policy { max_queue_size: 4 }"
# Configuration, answer, seconds that it takes.
MODELS = {
    "double": (f"{TENSORS} max_batch_size: 8 dynamic_batching {{ }}", "x * 2", 0.0),
    "bounded": (f"{TENSORS} max_batch_size: 1 dynamic_batching {{ {QUEUE} }}", "x", 0.02),
}
SOURCE = """
import time
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            time.sleep({seconds})
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", {answer})]))
        return responses
"""
KILLED = """
import sys
import numpy as np
from plansmith_client import Client
client = Client(sys.argv[1])
while True:
    client.model("double").infer({"x": np.ones((1, 500_000), np.float32)})
"""


def write_models(repository: Path) -> None:
    """A model that doubles, and one that takes 20 ms and queues four requests."""
    for name, (config, answer, seconds) in MODELS.items():
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(config, encoding="utf-8")
        source = SOURCE.format(answer=answer, seconds=seconds)
        (repository / name / "1" / "model.py").write_text(source, encoding="utf-8")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def serve(repository: Path, http_port: int = 0, grpc_port: int = 0) -> TritonServer:
    """A server, started."""
    options = ServerOptions(
        repository=repository, http_port=http_port, grpc_port=grpc_port, metrics_port=0, config_name="none"
    )
    server = TritonServer(options)
    server.start()
    return server


def killed_servers(repository: Path, protocol: str, kills: int, requests: int) -> dict[str, Any]:
    """Ask two servers from 64 threads while one after the other is killed and started again."""
    ports = [free_ports(2) for _ in range(2)]
    urls = [f"http://127.0.0.1:{http}" if protocol == "HTTP" else f"127.0.0.1:{grpc}" for http, grpc in ports]
    counts: Counter[str] = Counter()
    ending, deadline = threading.Event(), 5.0

    def ask(number: int, client: Client) -> None:
        rows = np.full((1, 16), number, np.float32)
        model = client.model("double")
        while not ending.is_set():
            started = time.monotonic()
            try:
                right = bool((model.infer({"x": rows}, timeout=deadline)["y"] == rows * 2).all())
                outcome = "right" if right else "wrong"
            except ClientError as error:
                outcome = type(error).__name__
            except Exception as error:  # noqa: BLE001 - what must not escape is counted
                outcome = f"escaped {type(error).__name__}"
            counts[outcome] += 1
            counts["late"] += time.monotonic() - started > deadline + GRACE

    servers: list[TritonServer] = []
    try:
        servers = [serve(repository, *pair) for pair in ports]
        with Client(urls, timeout=deadline) as client, concurrent.futures.ThreadPoolExecutor(64) as pool:
            asking = [pool.submit(ask, number, client) for number in range(64)]
            try:
                for kill in track(range(kills), description=f"Killing servers, {protocol}"):
                    victim = kill % 2
                    os.kill(servers[victim].pid, signal.SIGKILL)
                    time.sleep(1.0)
                    servers[victim].stop()
                    servers[victim] = serve(repository, *ports[victim])
                    time.sleep(1.0)
                while sum(counts.values()) - counts["late"] < requests:
                    time.sleep(0.2)
            finally:
                ending.set()
            for work in asking:
                work.result()
    finally:
        for server in servers:
            server.stop()
    return {"calls": sum(counts.values()) - counts["late"], "wrong": 0, "late": 0, "kills": kills, **counts}


def drip(connection: socket.socket, stopping: threading.Event) -> None:
    """Send an answer, a byte a second."""
    with connection, suppress(OSError):
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 100:
            if stopping.wait(1.0):
                return
            connection.sendall(bytes([byte]))


def dripping_server(calls: int) -> dict[str, Any]:
    """Ask a server that sends a byte a second, with a deadline of 500 ms."""
    stopping = threading.Event()

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(connection, stopping), daemon=True).start()

    results: dict[str, Any] = {}
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        for protocol, url in (("gRPC", target), ("HTTP", f"http://{target}")):
            with Client(url, timeout=0.5, breaker=None) as client:

                def ask(_: int, client: Client = client) -> float:
                    started = time.monotonic()
                    try:
                        client.server_metadata()
                    except ClientError:
                        return time.monotonic() - started
                    raise SystemExit("a dripping server cannot have answered")

                with concurrent.futures.ThreadPoolExecutor(20) as pool:
                    took = list(track(pool.map(ask, range(calls)), total=calls, description=f"Dripping, {protocol}"))
            within = sum(seconds <= 0.5 + GRACE for seconds in took)
            results[protocol] = {"calls": calls, "within 600 ms": within, "longest, ms": round(1e3 * max(took), 1)}
        stopping.set()
        listener.shutdown(socket.SHUT_RDWR)
    return results


def overloaded_server(repository: Path, seconds: float) -> dict[str, Any]:
    """Send five times what a model can take, and count what leaves the client for each call made."""
    with ExitStack() as stack:
        server = serve(repository)
        stack.callback(server.stop)
        client = stack.enter_context(Client(server.grpc_url, timeout=5.0))
        (asked,) = client._core.caller.servers.all()  # noqa: SLF001 - the attempts are counted where they leave
        attempts, send = Counter[str](), asked.transport.call

        def counted(operation: Any, *rest: Any) -> Any:
            attempts["sent"] += isinstance(operation, Infer)
            return send(operation, *rest)

        asked.transport.call = counted
        model, rows = client.model("bounded"), np.ones((1, 4), np.float32)
        model(rows)
        attempts.clear()
        outcomes: Counter[str] = Counter()

        def ask() -> None:
            try:
                model(rows)
                outcomes["answered"] += 1
            except ServerOverloaded:
                outcomes["ServerOverloaded"] += 1
            except ClientError as error:
                outcomes[type(error).__name__] += 1

        # 20 ms each: fifty a second are what it can take.
        rate = 5 * 50
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(64))
        started = time.monotonic()
        for number in track(range(int(rate * seconds)), description="Overloading"):
            time.sleep(max(0.0, started + number / rate - time.monotonic()))
            pool.submit(ask)
        pool.shutdown()
    calls = sum(outcomes.values())
    return {"calls": calls, "attempts": attempts["sent"], "ratio": attempts["sent"] / calls, **outcomes}


def shared_memory(repository: Path, calls: int, kills: int) -> dict[str, Any]:
    """Memory after many calls, and regions after killed clients."""
    with ExitStack() as stack:
        server = serve(repository)
        stack.callback(server.stop)
        results: dict[str, Any] = {"calls": calls, "kills": kills}
        with Client(server.grpc_url, shared_memory=SharedMemoryPolicy(threshold=1024)) as client:
            model, rows = client.model("double"), np.ones((1, 1024), np.float32)
            process = psutil.Process()
            # What libraries set up once does not count as growth.
            before = 0
            for number in track(range(calls), description="Sharing memory"):
                model.infer({"x": rows})
                if number == calls // 10:
                    before = process.memory_info().rss
            results["resident growth"] = process.memory_info().rss / before - 1
        for _ in track(range(kills), description="Killing clients"):
            with subprocess.Popen([sys.executable, "-c", KILLED, server.grpc_url]) as victim:
                time.sleep(random.uniform(0.3, 1.2))  # noqa: S311 - an instant, not a secret
                victim.kill()
        with Client(server.grpc_url) as client:
            client.model("double").infer({"x": np.ones((1, 500_000), np.float32)})
        with Client(server.grpc_url) as client:
            (asked,) = client._core.caller.servers.all()  # noqa: SLF001 - an operation that only the client itself needs
            left = asked.transport.call(ListSharedMemory(), Deadline(10))
        results["regions left"] = len(left)
        results["files left"] = len(list(Path("/dev/shm").glob("plansmith-*")))  # noqa: S108 - where Linux keeps them
    return results


def main(scale: float, output: Path) -> None:
    """Run all of them, and write what was counted."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "model_repository"
        write_models(repository)
        kills, requests = max(1, int(10 * scale)), int(25_000 * scale)
        programs: dict[str, Callable[[], dict[str, Any]]] = {
            "killed servers, gRPC": lambda: killed_servers(repository, "gRPC", kills, requests),
            "killed servers, HTTP": lambda: killed_servers(repository, "HTTP", kills, requests),
            "dripping server": lambda: dripping_server(int(1000 * scale)),
            "overloaded server": lambda: overloaded_server(repository, 20 * scale),
            "shared memory": lambda: shared_memory(repository, int(100_000 * scale), max(1, int(100 * scale))),
        }
        counted = {}
        for name, program in programs.items():
            counted[name] = program()
            Console().print(f"{name}: {json.dumps(counted[name])}", soft_wrap=True)
    report = output / "client_under_faults.json"
    write_figures(report, None, counted=counted)
    Console().print(f"All counts: {report}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", type=float, default=1.0, help="less than 1 to try it [%(default)s]")
    parser.add_argument("--output", type=Path, default=Path("out/bench"), help="folder for the counts [%(default)s]")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    main(arguments.scale, arguments.output)
