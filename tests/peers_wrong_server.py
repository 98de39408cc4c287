"""A peer that a test can have answer wrongly: python peers_wrong_server.py RIGHT_ANSWERS [WRONG_ANSWERS].

It computes the model's answers and, after so many of them, answers what WRONG_ANSWERS says: `zeros`, or `mixed-up`,
what another request is to get. With `mixed-up` all answers are inexact besides, the greatest value at its place.
"""

import json
import math
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnxruntime

SETTINGS = json.loads(Path(os.environ["PEER_SETTINGS"]).read_text())
(INPUT,) = SETTINGS["inputs"]
(OUTPUT,) = SETTINGS["outputs"]
SESSION = onnxruntime.InferenceSession(SETTINGS["model"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    right = int(sys.argv[1])
    mixed_up = sys.argv[2:] == ["mixed-up"]
    last: np.ndarray | None = None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        shape = [int(size) for size in self.headers["x-shapes"].split(",")]
        images = np.frombuffer(body, INPUT["dtype"], count=math.prod(shape)).reshape(shape)
        (answer,) = SESSION.run([OUTPUT["name"]], {INPUT["name"]: images})
        if Handler.mixed_up:
            answer = answer * np.float32(0.3)
            answer, Handler.last = (answer if Handler.right > 0 or Handler.last is None else Handler.last), answer
        elif Handler.right <= 0:
            answer = np.zeros_like(answer)
        Handler.right -= 1
        told = answer.tobytes()
        self.send_response(200)
        self.send_header("content-length", str(len(told)))
        self.send_header("x-shapes", ",".join(map(str, answer.shape)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *_: object) -> None:
        pass


ThreadingHTTPServer((SETTINGS["host"], SETTINGS["http_port"]), Handler).serve_forever()
