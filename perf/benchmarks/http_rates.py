"""Requests a second over HTTP: so many threads, each with a connection of its own, for any two servers."""

from __future__ import annotations

import http.client
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["HOST", "JSON", "Asker", "Request", "rate"]

HOST = "127.0.0.1"
IN_FLIGHT = 16
JSON = {"Content-Type": "application/json"}
Request = tuple[bytes, "Mapping[str, str]"]
Item = TypeVar("Item", str, bytes)


class Asker(Generic[Item]):
    """A connection to a server of this machine; called with an item, it gives the body of the answer.

    Args:
        port: of the server.
        path: that is posted to.
        encode: the body and the headers of an item's request, which is made once.
    """

    def __init__(self, port: int, path: str, encode: Callable[[Item], Request]) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=300)
        self._path = path
        self._encode = encode
        self._requests: dict[Item, Request] = {}
        self.close = self._connection.close

    def __call__(self, item: Item) -> bytes:
        """Post it."""
        body, headers = self._requests.get(item) or self._requests.setdefault(item, self._encode(item))
        self._connection.request("POST", self._path, body, headers)
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            said = answer[:200].decode(errors="replace")
            raise SystemExit(f"{self._path} answers with HTTP {response.status}: {said}")
        return answer


def rate(opened: Callable[[], Asker[Item]], items: Sequence[Item], seconds: float) -> float:
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
    seconds = time.perf_counter() - started
    for ask in asks:
        ask.close()
    return sum(counts) / seconds
