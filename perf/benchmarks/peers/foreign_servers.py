"""The servers of others: how each is set up, and which page recommends that."""

from __future__ import annotations

import os
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from peers.environments import REQUIREMENTS
from peers.program import BATCH_WAIT_SECONDS, PROGRAMS, SERVED, Program, open_program
from plansmith_perf.comparing.peer import Opener, Peer
from plansmith_perf.comparing.peers import computes_as_served

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from plansmith_perf.comparing.subject import Subject

__all__ = ["BASELINE", "FOREIGN_SERVERS", "SAME_ENGINE"]

BASELINE = "FastAPI + ONNX Runtime"
"""What most people write first; ratios are to this one."""

_CORES = len(os.sched_getaffinity(0))
_WAIT = f"{BATCH_WAIT_SECONDS * 1000:g} ms"
_UVICORN = (
    "-m",
    "uvicorn",
    "fastapi_app:app",
    "--app-dir",
    "{programs}",
    "--host",
    "127.0.0.1",
    "--port",
    "{http_port}",
)
_QUIET = ("--no-access-log", "--log-level", "warning")
_FASTAPI = ("fastapi", "uvicorn", "onnxruntime")
_SERVED = {SERVED: "1"}


def _server(program: Program) -> Opener:
    return lambda subject, _: open_program(subject, program)


def _library_path() -> str:
    """Where this Python's libpython is: the environments of peers are made from it."""
    homes = [sysconfig.get_config_var("LIBDIR"), str(Path(sys.base_prefix) / "lib")]
    return os.pathsep.join(dict.fromkeys(filter(None, [*homes, os.environ.get("LD_LIBRARY_PATH", "")])))


def _needs_one_tensor(subject: Subject) -> str:
    if len(subject.metadata.inputs) == len(subject.metadata.outputs) == 1:
        return ""
    return "its adaptive batching takes one array and gives one, and the model has more"


def _pytriton(key: str, name: str, setup: str, engines: Sequence[str], served: Mapping[str, str]) -> Peer:
    # Its stub would take a system's libpython, whose standard library may be another.
    variables = {"LD_LIBRARY_PATH": _library_path(), **served}
    program = Program(
        REQUIREMENTS / "pytriton.txt",
        ("nvidia-pytriton", *engines),
        (str(PROGRAMS / "pytriton_server.py"),),
        body="v2",
        variables=variables,
    )
    source = "https://triton-inference-server.github.io/pytriton/latest/binding_configuration"
    peer = Peer(key, name, "server", setup, source, _server(program))
    return replace(peer, reduced_precision=computes_as_served) if served else peer


FOREIGN_SERVERS: Sequence[Peer] = (
    Peer(
        "fastapi",
        BASELINE,
        "server",
        "uvicorn, one process; bytes in and out; async, in the thread pool if a call takes 1 ms or more",
        "https://fastapi.tiangolo.com/async/",
        _server(Program(REQUIREMENTS / "fastapi.txt", _FASTAPI, (*_UVICORN, *_QUIET), body="raw", path="/predict")),
    ),
    Peer(
        "fastapi-workers",
        f"FastAPI + ONNX Runtime, {_CORES} processes",
        "server",
        "the same with a uvicorn worker for each core",
        "https://fastapi.tiangolo.com/deployment/server-workers/",
        _server(
            Program(
                REQUIREMENTS / "fastapi.txt",
                _FASTAPI,
                (*_UVICORN, *_QUIET, "--workers", str(_CORES)),
                body="raw",
                path="/predict",
            )
        ),
    ),
    Peer(
        "litserve",
        "LitServe",
        "server",
        f"a LitAPI with batching up to the model's batch size, {_WAIT} wait; JSON",
        "https://lightning.ai/docs/litserve/features/batching",
        _server(
            Program(
                REQUIREMENTS / "litserve.txt",
                ("litserve", "fastapi", "onnxruntime"),
                (str(PROGRAMS / "litserve_server.py"),),
                body="json",
                path="/predict",
            )
        ),
    ),
    Peer(
        "mlserver",
        "MLServer",
        "server",
        f"a custom runtime, adaptive batching up to the model's batch size, {_WAIT} wait; gRPC with raw tensors",
        "https://docs.seldon.ai/mlserver/user-guide/adaptive-batching",
        _server(
            Program(
                REQUIREMENTS / "mlserver.txt",
                ("mlserver", "onnxruntime"),
                (str(PROGRAMS / "mlserver_server.py"),),
                body="v2",
                protocol="grpc",
                variables={"PYTHONPATH": str(PROGRAMS)},
            )
        ),
    ),
    Peer(
        "bentoml",
        "BentoML",
        "server",
        "`bentoml serve` of a batchable API, up to the model's batch size; JSON",
        "https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html",
        _server(
            Program(
                REQUIREMENTS / "bentoml.txt",
                ("bentoml", "onnxruntime"),
                (
                    *("-m", "bentoml", "serve", "bentoml_service:OnnxService", "--working-dir", "{programs}"),
                    *("--host", "127.0.0.1", "--port", "{http_port}"),
                ),
                body="json-list",
                path="/predict",
                variables={"BENTOML_DO_NOT_TRACK": "True"},
            )
        ),
        obstacle=_needs_one_tensor,
    ),
    _pytriton(
        "pytriton", "PyTriton", "`@batch` and its default dynamic batching; HTTP, binary tensors", ("onnxruntime",), {}
    ),
)

SAME_ENGINE: Sequence[Peer] = (
    Peer(
        "fastapi-served",
        "FastAPI + the engine that plansmith serves",
        "server",
        "as FastAPI + ONNX Runtime, with the file, engine and precision of plansmith's configuration",
        "https://fastapi.tiangolo.com/async/",
        _server(
            Program(
                REQUIREMENTS / "fastapi-openvino.txt",
                (*_FASTAPI, "openvino"),
                (*_UVICORN, *_QUIET),
                body="raw",
                path="/predict",
                variables=_SERVED,
            )
        ),
        reduced_precision=computes_as_served,
    ),
    _pytriton(
        "pytriton-served",
        "PyTriton + the engine that plansmith serves",
        "as PyTriton, with the file, engine and precision of plansmith's configuration",
        ("onnxruntime", "openvino"),
        _SERVED,
    ),
)
"""The same without the gain of a lower precision."""
