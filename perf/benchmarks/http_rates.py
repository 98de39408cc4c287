"""Requests a second over HTTP: so many threads, each with a connection of its own, for any two servers."""

from __future__ import annotations

import http.client
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["HOST", "JSON", "Request", "asker", "rate"]

HOST = "127.0.0.1"
IN_FLIGHT = 16
JSON = {"Content-Type": "application/json"}
Request = tuple[bytes, "Mapping[str, str]"]
Item = TypeVar("Item", str, bytes)


def asker(port: int, path: str, encode: Callable[[Item], Request]) -> Callable[[Item], bytes]:
    """Open a connection to a server of this machine; what asks over it gives the body of the answer.

    Args:
        port: of the server.
        path: that is posted to.
        encode: the body and the headers of an item's request, which is made once.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    requests: dict[Item, Request] = {}

    def ask(item: Item) -> bytes:
        body, headers = requests.get(item) or requests.setdefault(item, encode(item))
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            raise SystemExit(f"{path} answers with HTTP {response.status}: {answer[:200].decode(errors='replace')}")
        return answer

    return ask


def rate(opened: Callable[[], Callable[[Item], bytes]], items: Sequence[Item], seconds: float) -> float:
    """Requests a second of so many threads, each with a connection of its own."""
    counts = [0] * IN_FLIGHT
    asks = [opened() for _ in counts]
    for number, ask in enumerate(asks):
        ask(items[number % len(items)])
    over = threading.Event()

    def work(number: int) -> None:
        while not over.is_set():
            asks[number](items[(number + counts[number]) % len(items)])
            counts[number] += 1

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        started = time.perf_counter()
        calls = [pool.submit(work, number) for number in range(IN_FLIGHT)]
        time.sleep(seconds)
        over.set()
        for call in calls:
            call.result()
    return sum(counts) / (time.perf_counter() - started)
