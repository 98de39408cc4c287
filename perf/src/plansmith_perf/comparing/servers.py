"""Starts and ends the servers that peers are."""

from __future__ import annotations

from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from tritonclient.grpc import model_config_pb2

from plansmith_build.repository.config import text_from_config
from plansmith_build.repository.filesystem import mirror
from plansmith_build.repository.linting.context import backend_of
from plansmith_build.repository.model_repository import CONFIG
from plansmith_client import Client
from plansmith_perf.comparing.contestants import ProtocolContestant
from plansmith_perf.comparing.engines import packages_of
from plansmith_perf.load.usage import family_of
from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from plansmith_perf.comparing.subject import Subject

__all__ = ["default_triton", "open_configuration", "open_plansmith", "protocol_contestant"]

_TIMEOUT_SECONDS = 60.0


def open_plansmith(subject: Subject, *, over_grpc: bool) -> AbstractContextManager[ProtocolContestant]:
    """Plansmith's own server, which runs already."""
    url = subject.server.grpc_url if over_grpc else subject.server.http_url
    return _plansmith_contestant(subject, subject.server, url, subject.served_path)


@contextmanager
def open_configuration(subject: Subject, config_name: str, path: str) -> Iterator[ProtocolContestant]:
    """Another server of the same repository, with a configuration that is named."""
    name = subject.model.name
    with (
        _server(subject.model.path.parent, config_name, control="explicit", models=(name,)) as server,
        _plansmith_contestant(subject, server, server.http_url, path) as contestant,
    ):
        yield contestant


@contextmanager
def default_triton(subject: Subject) -> Iterator[ProtocolContestant]:
    """Another Triton, with the smallest configuration that it accepts."""
    repository = subject.new_folder("triton")
    folder = repository / subject.model.name
    folder.mkdir()
    mirror(subject.model.version_path(subject.version), folder / str(subject.version))
    (folder / CONFIG).write_text(text_from_config(_least_config(subject)), encoding="utf-8")
    with _server(repository, "none") as server:
        versions = {"triton": server.version, **packages_of("onnxruntime")}
        with protocol_contestant(
            subject, server.http_url, versions=versions, find_processes=lambda: family_of(server.pid)
        ) as contestant:
            yield contestant


@contextmanager
def protocol_contestant(subject: Subject, url: str, **more: Any) -> Iterator[ProtocolContestant]:
    """A server of the Open Inference Protocol that runs; see `ProtocolContestant`."""
    with Client(url, timeout=_TIMEOUT_SECONDS, shared_memory=False) as client:
        yield ProtocolContestant(subject=subject, url=url, client=client, **more)


def _plansmith_contestant(
    subject: Subject, server: TritonServer, url: str, path: str
) -> AbstractContextManager[ProtocolContestant]:
    backend = backend_of(subject.configs[path])
    versions = {
        "plansmith-server": version("plansmith-server"),
        "triton": server.version,
        **(packages_of(backend) if backend in ("onnxruntime", "openvino") else {}),
    }
    detail, processes = subject.described(path), lambda: family_of(server.pid)
    return protocol_contestant(subject, url, versions=versions, find_processes=processes, detail=detail)


def _server(repository: Path, config_name: str, **more: Any) -> TritonServer:
    return TritonServer(
        ServerOptions(repository=repository, config_name=config_name, http_port=0, grpc_port=0, metrics_port=0, **more)
    )


def _least_config(subject: Subject) -> Any:
    portable = subject.configs[CONFIG]
    config = model_config_pb2.ModelConfig(
        name=subject.model.name,
        backend="onnxruntime",
        max_batch_size=portable.max_batch_size,
        default_model_filename=portable.default_model_filename,
        input=portable.input,
        output=portable.output,
    )
    for tensor in config.output:
        tensor.ClearField("label_filename")
    return config
