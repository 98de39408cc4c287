"""`python fuzz_http.py RUNS [SEED]`: random changes to a server's HTTP answers, which both clients then read.

Ends with 1 and the answer's bytes in hexadecimal at the first exception that is not the client's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socketserver
import sys
import threading
import time
from typing import Any

import numpy as np
from fuzz_loader import mutated

from plansmith_client import AsyncClient, Client, ClientError

METADATA = {
    "name": "m",
    "versions": ["1"],
    "platform": "onnxruntime_onnx",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [
        {"name": "y", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "s", "datatype": "BYTES", "shape": [-1, 1]},
    ],
}
OUTPUTS = [
    {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]},
    {"name": "s", "datatype": "BYTES", "shape": [1, 1], "data": ["word"]},
]
ANSWER = {"model_name": "m", "model_version": "1", "outputs": OUTPUTS}
# Both outputs as bytes after the JSON.
SIZES = [8, 8]
BINARY = {
    **ANSWER,
    "outputs": [
        {**{key: output[key] for key in ("name", "datatype", "shape")}, "parameters": {"binary_data_size": size}}
        for output, size in zip(OUTPUTS, SIZES, strict=True)
    ],
}
TENSORS = np.float32([1, 2]).tobytes() + b"\x04\0\0\0word"
TIMES = {name: {"count": 1, "ns": 1000} for name in ("success", "fail", "queue", "compute_infer")}
STATISTICS = {
    "model_stats": [
        {
            "name": "m",
            "version": "1",
            "last_inference": 1,
            "inference_count": 2,
            "execution_count": 1,
            "inference_stats": TIMES,
            "batch_stats": [{"batch_size": 2, **TIMES}],
        }
    ]
}
EVENT = {"model_name": "m", "model_version": "1", "y": [1.0, 2.0], "s": "word"}
# What is answered where, by the last part of the path.
DOCUMENTS: dict[str, Any] = {
    "m": METADATA,
    "config": {"name": "m", "max_batch_size": 8, "model_transaction_policy": {"decoupled": False}},
    "infer": ANSWER,
    "stats": STATISTICS,
    "index": [{"name": "m", "version": "1", "state": "READY"}],
    "v2": {"name": "triton", "version": "2.51.0", "extensions": ["binary_tensor_data", "classification"]},
}
# What no server of the protocol says to such a request.
STRANGERS = [
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n2\r\n1}\r\n0\r\n\r\n',
    b'HTTP/1.1 400 Bad Request\r\nContent-Length: 15\r\n\r\n{"error": "no"}',
    b'HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 37\r\n\r\n{"error": "Exceeds maximum queue size"',
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
]
ODD_VALUES = [None, True, -1, 0, 2**31, 2**63, 2**64, 10**30, 1.5, 1e308, float("inf"), float("nan"), "", "1", "\0",
              "BYTES", "INT64", "BF16", "\ud800", [], [[]], [-1, 2**62], {}, {"binary_data_size": 4}]  # fmt: skip


def _altered(document: Any, chance: random.Random) -> Any:
    """A JSON document with one value in it exchanged, left out or doubled."""
    if not isinstance(document, dict | list) or not document or chance.random() < 0.15:
        return chance.choice(ODD_VALUES)
    changed = document.copy()
    key = chance.choice(list(document)) if isinstance(document, dict) else chance.randrange(len(document))
    match chance.randrange(12):
        case 0:
            del changed[key]
        case 1 if isinstance(changed, list):
            changed.append(changed[key])
        case _:
            changed[key] = _altered(document[key], chance)
    return changed


def _answer(body: bytes, *headers: bytes) -> bytes:
    lines = (b"HTTP/1.1 200 OK", b"Content-Type: application/json", b"Content-Length: %d" % len(body), *headers)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _written(place: str, chance: random.Random, *, alter: bool) -> bytes:
    """A right answer, or one with a right form and a strange value in it."""

    def text(document: Any) -> bytes:
        return json.dumps(_altered(document, chance) if alter else document).encode()

    if place == "generate_stream":
        events = [text(EVENT) for _ in range(chance.randint(1, 3))]
        return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + b"".join(
            b"data: " + event + b"\n\n" for event in events
        )
    if place == "infer" and chance.random() < 0.5:
        head = text(BINARY)
        return _answer(head + TENSORS, b"Inference-Header-Content-Length: %d" % len(head))
    return _answer(text(DOCUMENTS[place]))


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    answers: dict[str, bytes]


class _Handler(socketserver.StreamRequestHandler):
    timeout = 5

    def handle(self) -> None:
        with contextlib.suppress(OSError, IndexError):
            place = self.rfile.readline().split()[1].decode().rpartition("/")[2]
            length = 0
            while (line := self.rfile.readline()).strip():
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            self.rfile.read(length)
            self.wfile.write(self.server.answers[place])


X = np.zeros((1, 2), np.float32)
ACTS: dict[str, Any] = {
    "infer": lambda client: client.model("m").infer({"x": X}),
    "generate_stream": lambda client: client.model("m").stream({"x": X}),
    "stats": lambda client: client.model("m").statistics(),
    "config": lambda client: client.model("m").config(),
    "m": lambda client: client.model("m").infer({"x": X}),
    "index": lambda client: client.models(),
    "v2": lambda client: client.server_metadata(),
}


def _ask(url: str, act: str) -> None:
    with Client(url, timeout=0.3, retries=0) as client:
        answer = ACTS[act](client)
        if act == "generate_stream":
            list(answer)


async def _ask_async(url: str, act: str) -> None:
    async with AsyncClient(url, timeout=0.3, retries=0) as client:
        answer = ACTS[act](client)
        if act == "generate_stream":
            [each async for each in answer]
        else:
            await answer


def _main(runs: int, seed: int) -> None:
    chance = random.Random(seed)
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    places = [*DOCUMENTS, "generate_stream"]
    for run in range(runs):
        act = chance.choice(list(ACTS))
        # A question of its own is answered last; before it the metadata and the configuration are asked for.
        wrong = act if chance.random() < 0.7 else chance.choice(["m", "config", "infer"])
        server.answers = {place: _written(place, chance, alter=False) for place in places}
        changed = chance.choice(STRANGERS) if chance.random() < 0.1 else _written(wrong, chance, alter=run % 2 == 0)
        server.answers[wrong] = changed if run % 2 == 0 and chance.random() < 0.9 else mutated(changed, chance)
        try:
            if chance.random() < 0.5:
                _ask(url, act)
            else:
                asyncio.run(_ask_async(url, act))
        except ClientError:
            pass
        except BaseException:
            print(f"seed {seed}, run {run}, {act}: {wrong} was {server.answers[wrong].hex()}", file=sys.stderr)
            raise
    server.shutdown()


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns())
