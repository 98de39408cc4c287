"""Starts and ends the servers that peers are."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
from tritonclient.grpc import model_config_pb2

from plansmith_build.config import text_from_config
from plansmith_build.filesystem import mirror
from plansmith_build.linting.context import backend_of
from plansmith_build.repository import CONFIG
from plansmith_client import Client, ClientError
from plansmith_perf.peers.environments import make_environment
from plansmith_perf.peers.processes import PeerProcess
from plansmith_perf.peers.server_contestants import BodyContestant, ProtocolContestant
from plansmith_server import ServerOptions, TritonServer
from plansmith_server.ports import find_free

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from plansmith_perf.peers.bodies import BodyFormat, Tensor
    from plansmith_perf.peers.subject import Subject

__all__ = ["BATCH_WAIT_SECONDS", "Program", "default_triton", "open_plansmith", "open_program"]

BATCH_WAIT_SECONDS = 0.001
"""How long a peer waits for a batch to fill, where its batching needs to be told."""

PROGRAMS = Path(__file__).parent / "programs"
_HOST = "127.0.0.1"
_TIMEOUT_SECONDS = 60.0


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
def open_plansmith(subject: Subject, protocol: Literal["http", "grpc"]) -> Iterator[ProtocolContestant]:
    """Plansmith's own server, which runs already."""
    server = subject.server
    with _protocol_contestant(
        subject,
        server.http_url if protocol == "http" else server.grpc_url,
        versions={
            "plansmith-server": version("plansmith-server"),
            "triton": server.version,
            **({"openvino": version("openvino")} if backend_of(subject.served) == "openvino" else {}),
            **({"onnxruntime": version("onnxruntime")} if backend_of(subject.served) == "onnxruntime" else {}),
        },
        find_processes=lambda: family_of(server.pid),
        detail=subject.served_as,
    ) as contestant:
        yield contestant


@contextmanager
def default_triton(subject: Subject) -> Iterator[ProtocolContestant]:
    """Another Triton, whose configuration has nothing but what it must."""
    repository = subject.new_folder("triton")
    folder = repository / subject.model.name
    folder.mkdir()
    mirror(subject.model.version_path(subject.version), folder / str(subject.version))
    (folder / CONFIG).write_text(text_from_config(_least_config(subject)), encoding="utf-8")
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, config_name="none")
    with (
        TritonServer(options) as server,
        _protocol_contestant(
            subject,
            server.http_url,
            versions={"triton": server.version, "onnxruntime": version("onnxruntime")},
            find_processes=lambda: family_of(server.pid),
        ) as contestant,
    ):
        yield contestant


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
                f"http://{_HOST}:{http}", program.path, program.body, subject, versions, lambda: process.processes
            )
            process.wait_until(other.is_ready)
            yield other
            return
        url = f"http://{_HOST}:{http}" if program.protocol == "http" else f"{_HOST}:{grpc}"
        process.wait_until(lambda: _is_ready(url, subject.model.name))
        yield stack.enter_context(
            _protocol_contestant(
                subject, url, versions=versions, find_processes=lambda: process.processes, counted=False
            )
        )


def family_of(pid: int) -> list[psutil.Process]:
    """A process and its descendants."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


@contextmanager
def _protocol_contestant(
    subject: Subject,
    url: str,
    *,
    versions: dict[str, str],
    find_processes: Callable[[], Sequence[psutil.Process]],
    counted: bool = True,
    detail: str = "",
) -> Iterator[ProtocolContestant]:
    with Client(url, timeout=_TIMEOUT_SECONDS, shared_memory=False) as client:
        yield ProtocolContestant(url, client, subject, versions, find_processes, counted, detail)


def _is_ready(url: str, model: str) -> bool:
    with suppress(ClientError), Client(url, timeout=5.0, retries=0) as client:
        return client.model(model).is_ready()
    return False


def _least_config(subject: Subject) -> Any:
    portable = subject.portable
    config = model_config_pb2.ModelConfig()
    config.name = subject.model.name
    config.backend = "onnxruntime"
    config.max_batch_size = portable.max_batch_size
    if portable.default_model_filename:
        config.default_model_filename = portable.default_model_filename
    for given, target in ((portable.input, config.input), (portable.output, config.output)):
        for tensor in given:
            target.add().CopyFrom(tensor)
    for tensor in config.output:
        tensor.ClearField("label_filename")
    return config


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
        "inputs": [_as_dict(tensor) for tensor in subject.inputs],
        "outputs": [_as_dict(tensor) for tensor in subject.outputs],
    }


def _as_dict(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)}
