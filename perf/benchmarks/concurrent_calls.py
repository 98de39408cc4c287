"""Small calls from many threads of one client, and from many tasks of an event loop: plansmith against tritonclient.

tritonclient's HTTP client is not safe to share between threads: there each thread has one of its own. Arrays go in and
come out on both sides.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import tritonclient.grpc
import tritonclient.grpc.aio
import tritonclient.http
import tritonclient.http.aio

from plansmith_client import AsyncClient, Client
from plansmith_perf.comparing.client_calls import tritonclient_tensors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from plansmith_server import TritonServer

__all__ = ["from_tasks", "from_threads"]

ROW = np.ones((1, 64), np.float32)


def from_threads(server: TritonServer, count: int, calls: int) -> dict[str, Callable[[], float]]:
    """By contestant what measures its calls a second from so many threads."""
    bare = server.http_url.removeprefix("http://")

    def ours(url: str) -> float:
        with Client(url) as client:
            model = client.model("mlp")
            return _rate_of_threads(lambda: model(ROW), count, calls)

    def theirs_grpc() -> float:
        with tritonclient.grpc.InferenceServerClient(server.grpc_url) as shared:
            return _rate_of_threads(lambda: _theirs(tritonclient.grpc, shared).as_numpy("y"), count, calls)

    def theirs_http() -> float:
        own = threading.local()
        with contextlib.ExitStack() as stack:

            def call() -> Any:
                if not hasattr(own, "client"):
                    own.client = stack.enter_context(tritonclient.http.InferenceServerClient(bare))
                return _theirs(tritonclient.http, own.client).as_numpy("y")

            return _rate_of_threads(call, count, calls)

    return {
        "plansmith gRPC": lambda: ours(server.grpc_url),
        "plansmith HTTP": lambda: ours(server.http_url),
        "tritonclient gRPC": theirs_grpc,
        "tritonclient HTTP": theirs_http,
    }


def from_tasks(server: TritonServer, count: int, calls: int) -> dict[str, Callable[[], float]]:
    """By contestant what measures its calls a second from so many tasks of one event loop."""
    bare = server.http_url.removeprefix("http://")
    return {
        "plansmith gRPC": lambda: asyncio.run(_ours_in_tasks(server.grpc_url, count, calls)),
        "plansmith HTTP": lambda: asyncio.run(_ours_in_tasks(server.http_url, count, calls)),
        "tritonclient gRPC": lambda: asyncio.run(_theirs_in_tasks(tritonclient.grpc, server.grpc_url, count, calls)),
        "tritonclient HTTP": lambda: asyncio.run(_theirs_in_tasks(tritonclient.http, bare, count, calls)),
    }


async def _ours_in_tasks(url: str, count: int, calls: int) -> float:
    async with AsyncClient(url) as client:
        model = client.model("mlp")
        return await _rate_of_tasks(lambda: model(ROW), count, calls)


async def _theirs_in_tasks(kind: Any, url: str, count: int, calls: int) -> float:
    async with kind.aio.InferenceServerClient(url) as client:

        async def call() -> Any:
            return (await _theirs(kind, client)).as_numpy("y")

        return await _rate_of_tasks(call, count, calls)


def _theirs(kind: Any, client: Any) -> Any:
    """One call of tritonclient, or what to await for it, as its examples write it."""
    return client.infer("mlp", tritonclient_tensors(kind.InferInput, {"x": ROW}))


def _rate_of_threads(call: Callable[[], Any], count: int, calls: int) -> float:
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        # Connections are there before the clock starts.
        barrier = threading.Barrier(count + 1)

        def work() -> None:
            try:
                call()
                barrier.wait()
            except threading.BrokenBarrierError:
                return  # the first call of another failed, which says why
            except BaseException:
                barrier.abort()
                raise
            for _ in range(calls):
                call()

        futures = [pool.submit(work) for _ in range(count)]
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait()
        started = time.perf_counter()
        for future in futures:
            future.result()
        return count * calls / (time.perf_counter() - started)


async def _rate_of_tasks(call: Callable[[], Awaitable[Any]], count: int, calls: int) -> float:
    async def work(times: int) -> None:
        for _ in range(times):
            await call()

    await asyncio.gather(*[work(1) for _ in range(count)])
    started = time.perf_counter()
    await asyncio.gather(*[work(calls) for _ in range(count)])
    return count * calls / (time.perf_counter() - started)
