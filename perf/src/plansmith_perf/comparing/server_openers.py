"""Starts and ends the servers that peers are."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import psutil
from tritonclient.grpc import model_config_pb2

from plansmith_build.repository.config import text_from_config
from plansmith_build.repository.filesystem import mirror
from plansmith_build.repository.linting.context import backend_of
from plansmith_build.repository.model_repository import CONFIG
from plansmith_client import Client
from plansmith_perf.comparing.server_contestants import ProtocolContestant
from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from plansmith_perf.comparing.subject import Subject

__all__ = ["default_triton", "family_of", "open_configuration", "open_plansmith", "protocol_contestant"]

_TIMEOUT_SECONDS = 60.0


@contextmanager
def open_plansmith(subject: Subject, protocol: Literal["http", "grpc"]) -> Iterator[ProtocolContestant]:
    """Plansmith's own server, which runs already."""
    server = subject.server
    url = server.http_url if protocol == "http" else server.grpc_url
    with _plansmith_contestant(subject, server, url, subject.served_path) as contestant:
        yield contestant


@contextmanager
def open_configuration(subject: Subject, config_name: str, path: str) -> Iterator[ProtocolContestant]:
    """Another server of the same repository, with a configuration that is named.

    Args:
        subject: what is compared.
        config_name: see `ServerOptions`.
        path: of the configuration in the model's folder.
    """
    options = ServerOptions(
        repository=subject.model.path.parent,
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        config_name=config_name,
        control="explicit",
        models=(subject.model.name,),
    )
    with (
        TritonServer(options) as server,
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
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, config_name="none")
    with (
        TritonServer(options) as server,
        protocol_contestant(
            subject,
            server.http_url,
            versions={"triton": server.version, "onnxruntime": version("onnxruntime")},
            find_processes=lambda: family_of(server.pid),
        ) as contestant,
    ):
        yield contestant


def family_of(pid: int) -> list[psutil.Process]:
    """A process and its descendants."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


@contextmanager
def protocol_contestant(
    subject: Subject,
    url: str,
    *,
    versions: dict[str, str],
    find_processes: Callable[[], Sequence[psutil.Process]],
    counted: bool = True,
    detail: str = "",
) -> Iterator[ProtocolContestant]:
    """A server of the Open Inference Protocol that runs; see `ProtocolContestant`."""
    with Client(url, timeout=_TIMEOUT_SECONDS, shared_memory=False) as client:
        yield ProtocolContestant(url, client, subject, versions, find_processes, counted, detail)


@contextmanager
def _plansmith_contestant(subject: Subject, server: TritonServer, url: str, path: str) -> Iterator[ProtocolContestant]:
    backend = backend_of(subject.configs[path])
    versions = {
        "plansmith-server": version("plansmith-server"),
        "triton": server.version,
        **({backend: version(backend)} if backend in ("onnxruntime", "openvino") else {}),
    }
    with protocol_contestant(
        subject,
        url,
        versions=versions,
        find_processes=lambda: family_of(server.pid),
        detail=subject.described(path),
    ) as contestant:
        yield contestant


def _least_config(subject: Subject) -> Any:
    portable = subject.configs[CONFIG]
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
