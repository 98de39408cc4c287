"""A peer that a test can have answer wrongly: python peers_wrong_server.py RIGHT_ANSWERS [WRONG_ANSWERS].

It computes the model's answers and, after so many of them, answers what WRONG_ANSWERS says:

- `zeros`;
- `mixed-up`: what another request is to get; and all answers are inexact, with the greatest value at its place;
- `among-errors`: right answers and refusals of 22 kinds in turn, and zeros so rarely that a list of the most common
  errors does not have them.
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
RARE = 31
SESSION = onnxruntime.InferenceSession(SETTINGS["model"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else each answer waits for the acknowledgement of its head.
    disable_nagle_algorithm = True
    right = int(sys.argv[1])
    mode = sys.argv[2] if len(sys.argv) > 2 else "zeros"
    last: np.ndarray | None = None

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        shape = [int(size) for size in self.headers["x-shapes"].split(",")]
        images = np.frombuffer(body, INPUT["dtype"], count=math.prod(shape)).reshape(shape)
        (answer,) = SESSION.run([OUTPUT["name"]], {INPUT["name"]: images})
        beyond = -Handler.right
        Handler.right -= 1
        if Handler.mode == "mixed-up":
            answer = answer * np.float32(0.3)
            answer, Handler.last = (answer if beyond < 0 or Handler.last is None else Handler.last), answer
        elif beyond >= 0 and (Handler.mode == "zeros" or beyond % 60 == RARE):
            answer = np.zeros_like(answer)
        told = answer.tobytes()
        refused = Handler.mode == "among-errors" and beyond >= 0 and beyond % 2 and beyond % 60 != RARE
        if refused:
            told = f"refused for reason {beyond % 44}".encode()
        self.send_response(503 if refused else 200)
        self.send_header("content-length", str(len(told)))
        self.send_header("x-shapes", ",".join(map(str, answer.shape)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *_: object) -> None:
        pass


ThreadingHTTPServer((SETTINGS["host"], SETTINGS["http_port"]), Handler).serve_forever()
