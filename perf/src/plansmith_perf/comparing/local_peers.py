"""The peers without a server of their own, client libraries and models in process: what each is and how set up."""

from __future__ import annotations

from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import onnxruntime

from plansmith_build.repository.linting.context import backend_of
from plansmith_perf.comparing.engine_driver import EnginePlan
from plansmith_perf.comparing.engines import load_engine, packages_of, spec_of
from plansmith_perf.comparing.local_contestants import ClientContestant, EngineContestant
from plansmith_perf.comparing.peer import Opener, Peer, PeerUnavailable
from plansmith_perf.comparing.server_openers import family_of
from plansmith_perf.comparing.server_peers import computes_as_served
from plansmith_server.launcher.gpu import gpu_is_usable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from plansmith_perf.comparing.client_calls import ClientKind
    from plansmith_perf.comparing.driving import Contestant
    from plansmith_perf.comparing.engines import EngineKind
    from plansmith_perf.comparing.subject import Subject

__all__ = ["CLIENT_PEERS", "ENGINE_PEERS", "IN_PROCESS", "peers_for_a_gpu"]

_EXAMPLES = "https://github.com/triton-inference-server/client/tree/main/src/python/examples"
_CLIENTS: Sequence[tuple[ClientKind, str, str, str]] = (
    ("sdk-grpc", "plansmith client, gRPC, threads", "one client for all threads", ""),
    ("tritonclient-grpc", "tritonclient, gRPC, threads", "one client for all threads", _EXAMPLES),
    ("sdk-aio", "plansmith client, gRPC, asyncio", "one client for all tasks", ""),
    ("tritonclient-aio", "tritonclient, gRPC, asyncio", "one client for all tasks", _EXAMPLES),
    ("sdk-http", "plansmith client, HTTP, threads", "one client for all threads", ""),
    ("tritonclient-http", "tritonclient, HTTP, threads", "a client for each thread, as it must be", _EXAMPLES),
)
IN_PROCESS = "requests put together to the size of call that is the fastest, every core, no server"


def _client(kind: ClientKind) -> Opener:
    @contextmanager
    def opened(subject: Subject, _: int) -> Iterator[Contestant]:
        over_http = kind.endswith("-http")
        package = "plansmith-client" if kind.startswith("sdk") else "tritonclient"
        yield ClientContestant(
            kind,
            subject.server.http_url if over_http else subject.server.grpc_url,
            subject,
            {package: version(package)},
            lambda: family_of(subject.server.pid),
        )

    return opened


def _engine(kind: EngineKind) -> Opener:
    @contextmanager
    def opened(subject: Subject, most: int) -> Iterator[Contestant]:
        spec = spec_of(kind, file=subject.file, outputs=subject.outputs, served=subject.served)
        try:
            versions = packages_of(kind)
        except PackageNotFoundError as error:
            raise PeerUnavailable(f"{error.name} is not installed: pip install {error.name}") from error
        described = subject.described(subject.served_path) if kind == "served" else ""
        own = {"engine": spec}
        yield EngineContestant(
            load_engine(spec), spec.outputs, EnginePlan, own, subject, versions, most, described=described
        )

    return opened


def _served_by_a_runtime(subject: Subject) -> str:
    backend = backend_of(subject.served)
    return "" if backend in ("onnxruntime", "openvino") else f"the backend {backend!r} runs in a server only"


CLIENT_PEERS: Sequence[Peer] = tuple(
    Peer(kind, name, "client", setup, source, _client(kind), reduced_precision=computes_as_served)
    for kind, name, setup, source in _CLIENTS
)

ENGINE_PEERS: Sequence[Peer] = (
    Peer(
        "engine",
        "plansmith's engine in process",
        "in process",
        f"the served file, runtime, precision and threads; {IN_PROCESS}",
        "",
        _engine("served"),
        reduced_precision=computes_as_served,
        obstacle=_served_by_a_runtime,
    ),
    Peer(
        "onnxruntime",
        "ONNX Runtime in process",
        "in process",
        f"FP32, default options; {IN_PROCESS}",
        "https://onnxruntime.ai/docs/get-started/with-python.html",
        _engine("onnxruntime"),
    ),
    Peer(
        "openvino",
        "OpenVINO in process",
        "in process",
        f"FP32 (INFERENCE_PRECISION_HINT f32); {IN_PROCESS}",
        "https://docs.openvino.ai/2026/openvino-workflow/running-inference.html",
        _engine("openvino"),
    ),
)


def peers_for_a_gpu() -> tuple[list[Peer], str]:
    """Rows for a GPU, and one sentence on those that there are not."""
    if not gpu_is_usable():
        return [], "No rows for CUDA and TensorRT: there is no NVIDIA GPU here that ONNX Runtime can use."
    kinds: dict[str, tuple[EngineKind, str]] = {
        "CUDAExecutionProvider": ("cuda", "ONNX Runtime in process, CUDA"),
        "TensorrtExecutionProvider": ("tensorrt", "ONNX Runtime in process, TensorRT"),
    }
    there = [kinds[provider] for provider in onnxruntime.get_available_providers() if provider in kinds]
    setup = f"FP32, execution provider of ONNX Runtime; {IN_PROCESS}"
    source = "https://onnxruntime.ai/docs/execution-providers/"
    peers = [Peer(kind, name, "in process", setup, source, _engine(kind)) for kind, name in there]
    missing = [
        name.rpartition(" ")[2] for key, (_, name) in kinds.items() if key not in onnxruntime.get_available_providers()
    ]
    note = f"No row for {' and '.join(missing)}: the installed ONNX Runtime has no such provider." if missing else ""
    return peers, note
