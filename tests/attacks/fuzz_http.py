"""`python fuzz_http.py SECONDS [SEED]`: random changes to a server's HTTP answers, which a client then reads.

Ends with 1 and the answer's bytes in hexadecimal at the first exception that is not the client's own.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import sys
import threading
import time

import numpy as np
from fuzz_loader import mutated

from plansmith_client import Client, ClientError

METADATA = {
    "name": "m",
    "versions": ["1"],
    "platform": "onnxruntime_onnx",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
}
OUTPUT = {"name": "y", "datatype": "FP32", "shape": [1, 2]}
ANSWER = {"model_name": "m", "model_version": "1", "outputs": [{**OUTPUT, "data": [1.0, 2.0]}]}
BINARY = json.dumps({**ANSWER, "outputs": [{**OUTPUT, "parameters": {"binary_data_size": 8}}]}).encode()


def _answer(body: bytes, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s" % (
        len(body),
        more,
        body,
    )


SEEDS = [
    _answer(json.dumps(METADATA).encode()),
    _answer(json.dumps({"max_batch_size": 8, "name": "m"}).encode()),
    _answer(json.dumps(ANSWER).encode()),
    _answer(BINARY + bytes(8), b"Inference-Header-Content-Length: %d\r\n" % len(BINARY)),
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n2\r\n1}\r\n0\r\n\r\n',
    b'HTTP/1.1 400 Bad Request\r\nContent-Length: 15\r\n\r\n{"error": "no"}',
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
]


def _serve(listener: socket.socket, answers: list[bytes]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with contextlib.suppress(OSError), connection:
            connection.settimeout(1)
            while b"\r\n\r\n" not in connection.recv(65536):
                pass
            connection.sendall(answers[0])


def _main(seconds: float, seed: int) -> None:
    chance = random.Random(seed)
    answers = [b""]
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve, args=(listener, answers), daemon=True).start()
    end, runs = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        answers[0] = mutated(chance.choice(SEEDS), chance)
        try:
            with Client(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.3, retries=0) as client:
                client.model("m").infer({"x": np.zeros((1, 2), np.float32)})
        except ClientError:
            pass
        except BaseException:
            print(f"seed {seed}, run {runs}: {answers[0].hex()}", file=sys.stderr)
            raise
        runs += 1
    listener.close()
    print(f"{runs} answers")


if __name__ == "__main__":
    _main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns())
