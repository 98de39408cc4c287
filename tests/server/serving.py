"""Small models, and `plansmith serve` in a process of its own, for the tests of the server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import psutil
import tritonclient.grpc as grpc_client

DOUBLE = """
<ir_version: 10, opset_import: ["" : 21]>
double (float[batch, 2] x) => (float[batch, 2] y)
{
  y = Add (x, x)
}
"""
SLEEPER = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        time.sleep(600)
"""
CRASHER = """
import os

class TritonPythonModel:
    def initialize(self, args):
        os.abort()
"""
COMPLETING_CRASHER = CRASHER.replace(
    "    def initialize(self, args)", "    @staticmethod\n    def auto_complete_config(config)"
)
SLEEPER_CONFIG = """
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: 1 }
output { name: "y" data_type: TYPE_FP32 dims: 1 }
instance_group { kind: KIND_CPU count: 1 }
"""
FREE_PORTS = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
FREE_PORT_WORDS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
REGION = re.compile(r"/dev/shm/plansmith-serve-\w{8}-[0-9a-f-]+")


def add_double(repository: Path, name: str, config: str = "") -> None:
    (repository / name / "1").mkdir(parents=True)
    onnx.save(onnx.parser.parse_model(DOUBLE), repository / name / "1" / "model.onnx")
    if config:
        (repository / name / "config.pbtxt").write_text(config)


def add_python(repository: Path, name: str, code: str, config: str = 'backend: "python"') -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "1" / "model.py").write_text(code)
    (repository / name / "config.pbtxt").write_text(config)


class Traces:
    """What one server has: its processes, its shared memory and its folder."""

    def __init__(self, pid: int) -> None:
        server = psutil.Process(pid)
        self.processes = [server, *server.children(recursive=True), server.parent()]
        maps = "".join(
            Path(f"/proc/{process.pid}/maps").read_text() for process in self.processes if process is not None
        )
        self.regions = {Path(region) for region in REGION.findall(maps)}
        folder = next(word for word in server.cmdline() if word.startswith("--backend-directory="))
        self.folder = Path(folder.partition("=")[2]).parent
        assert len(self.processes) >= 3
        assert self.regions
        assert self.folder.is_dir()

    def wait_until_gone(self) -> None:
        _, alive = psutil.wait_procs([process for process in self.processes if process is not None], timeout=30)
        assert not alive
        deadline = time.monotonic() + 10
        while self.folder.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not self.folder.exists()
        assert not [region for region in self.regions if region.exists()]


class Serving:
    """`plansmith serve --json` in a process of its own."""

    def __init__(self, repository: Path, *words: str, command: tuple[str, ...] = ()) -> None:
        start = command or (str(Path(sys.executable).with_name("plansmith")), "serve")
        self.process = subprocess.Popen(
            [*start, "--repository", str(repository), *FREE_PORT_WORDS, "--json", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NO_COLOR": "1", "COLUMNS": "300"},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.facts: dict[str, Any] = json.loads(line)
        self.traces = Traces(self.facts["pid"])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        return self.end()

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=60)
        assert "Traceback" not in errors
        return self.process.returncode, errors


def double(url: str, model: str = "double") -> np.ndarray:
    with grpc_client.InferenceServerClient(url) as client:
        tensor = grpc_client.InferInput("x", [1, 2], "FP32")
        tensor.set_data_from_numpy(np.array([[1, 2]], np.float32))
        answer: np.ndarray = client.infer(model, [tensor]).as_numpy("y")
        return answer


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
