"""Starts and ends the servers of others, each in an environment of its own."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peers.bodies import inputs_of, outputs_of
from peers.body_contestant import BodyContestant
from peers.environments import make_environment
from peers.processes import PeerProcess
from plansmith_build.repository.linting.context import backend_of, model_files
from plansmith_client import Client, ClientError
from plansmith_perf.comparing.servers import protocol_contestant
from plansmith_server.launcher.ports import find_free

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from peers.bodies import BodyFormat, Tensor
    from plansmith_perf.comparing.contestants import ProtocolContestant
    from plansmith_perf.comparing.subject import Subject

__all__ = ["BATCH_WAIT_SECONDS", "PROGRAMS", "SERVED", "Program", "open_program"]

BATCH_WAIT_SECONDS = 0.001
"""How long a peer waits for a batch to fill, where its batching needs to be told."""

SERVED = "PEER_SERVED"
"""The variable that has a program compute with what plansmith serves."""

PROGRAMS = Path(__file__).parent / "programs"
_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Program:
    """How a peer's program is started and asked.

    Attributes:
        requirements: file of its environment; None for this process's own.
        packages: those whose versions are told.
        arguments: of its Python; {http_port} and {programs} are filled in.
        body: "v2" for the Open Inference Protocol.
        path: of what answers, where it speaks something else.
        protocol: of the load, where it speaks the Open Inference Protocol.
        variables: for its environment.
    """

    requirements: Path | None
    packages: Sequence[str]
    arguments: Sequence[str]
    body: Literal["v2"] | BodyFormat
    path: str = ""
    protocol: Literal["http", "grpc"] = "http"
    variables: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def open_program(subject: Subject, program: Program) -> Iterator[ProtocolContestant | BodyContestant]:
    """A peer's program in its environment, until the block ends.

    Raises:
        PeerUnavailable: the environment cannot be made.
        PeerFailed: the program does not start.
    """
    if program.requirements is not None:
        environment = make_environment(program.requirements)
        python, pinned = environment.python, environment.versions
        versions = {name: pinned[name] for name in program.packages}
    else:
        python, versions = Path(sys.executable), {name: version(name) for name in program.packages}
    detail = subject.described(subject.served_path) if SERVED in program.variables else ""
    folder = subject.new_folder("peer")
    http, grpc, metrics = find_free(_HOST, 3)
    settings = folder / "settings-of-the-peer.json"
    settings.write_text(json.dumps(_settings(subject, http, grpc, metrics)), encoding="utf-8")
    # Not format(): the path of a folder may have braces.
    words = [word.replace("{http_port}", str(http)).replace("{programs}", str(PROGRAMS)) for word in program.arguments]
    command = [str(python), *words]
    variables = {
        "PEER_SETTINGS": str(settings),
        "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)]),
        # Whatever a peer keeps for later goes with the folder.
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(folder),
        **program.variables,
    }
    with ExitStack() as stack:
        process = stack.enter_context(PeerProcess(command, folder, variables))
        if program.body != "v2":
            other = BodyContestant(
                subject=subject,
                versions=versions,
                find_processes=lambda: process.processes,
                url=f"http://{_HOST}:{http}",
                path=program.path,
                body_format=program.body,
                detail=detail,
            )
            process.wait_until(other.is_ready)
            yield other
            return
        url = f"http://{_HOST}:{http}" if program.protocol == "http" else f"{_HOST}:{grpc}"
        process.wait_until(lambda: _is_ready(url, subject.model.name))
        yield stack.enter_context(
            protocol_contestant(
                subject,
                url,
                versions=versions,
                find_processes=lambda: process.processes,
                counted=False,
                detail=detail,
            )
        )


def _is_ready(url: str, model: str) -> bool:
    with suppress(ClientError), Client(url, timeout=5.0, retries=0) as client:
        return client.model(model).is_ready()
    return False


def _settings(subject: Subject, http: int, grpc: int, metrics: int) -> dict[str, Any]:
    return {
        "model": str(subject.file),
        "name": subject.model.name,
        "host": _HOST,
        "http_port": http,
        "grpc_port": grpc,
        "metrics_port": metrics,
        "max_batch_size": subject.metadata.max_batch_size or 0,
        "batch_wait": BATCH_WAIT_SECONDS,
        "inputs": [_as_dict(tensor) for tensor in inputs_of(subject)],
        "outputs": [_as_dict(tensor) for tensor in outputs_of(subject)],
        "served": _served(subject),
    }


def _served(subject: Subject) -> dict[str, str]:
    """What plansmith serves: its file, its engine and the precision that OpenVINO is told to compute in."""
    files = model_files(subject.served, subject.file.parent)
    return {
        "backend": backend_of(subject.served),
        "file": str(files[0][1] if files else subject.file),
        "precision": subject.served.parameters["INFERENCE_PRECISION_HINT"].string_value,
    }


def _as_dict(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}
