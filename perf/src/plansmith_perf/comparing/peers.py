"""All peers of `plansmith bench compare`, what each is and how it is set up, and the choice of some."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import onnxruntime

from plansmith_build.repository.linting.context import backend_of
from plansmith_build.repository.model_repository import CONFIG, CONFIGS
from plansmith_perf.comparing.contestants import ClientContestant, EngineContestant
from plansmith_perf.comparing.engines import load_engine, packages_of, spec_of
from plansmith_perf.comparing.peer import Opener, Peer, PeerUnavailable
from plansmith_perf.comparing.servers import default_triton, open_configuration, open_plansmith
from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.load.usage import family_of
from plansmith_server.launcher.gpu import gpu_is_usable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from plansmith_build.repository.model_repository import RepositoryModel
    from plansmith_perf.comparing.client_calls import ClientKind
    from plansmith_perf.comparing.contestants import Contestant
    from plansmith_perf.comparing.engines import EngineKind
    from plansmith_perf.comparing.subject import Subject

__all__ = ["PEERS", "baseline_of", "choose_peers", "computes_as_served", "configuration_peers", "peers_for_a_gpu"]

_OWN = "plansmith"
_DEFAULT_TRITON = "Triton, default configuration"
# The server's word for config.pbtxt alone, see `plansmith serve --config-name`.
_NO_NAME = "none"
_EXAMPLES = "https://github.com/triton-inference-server/client/tree/main/src/python/examples"
_ONE_FOR_THREADS = "one client for all threads"
_IN_PROCESS = "requests put together to the size of call that is the fastest, every core, no server"


def _client(kind: ClientKind) -> Opener:
    @contextmanager
    def opened(subject: Subject, _: int) -> Iterator[Contestant]:
        server, package = subject.server, "plansmith-client" if kind.startswith("sdk") else "tritonclient"
        yield ClientContestant(
            subject=subject,
            versions={package: version(package)},
            find_processes=lambda: family_of(server.pid),
            kind=kind,
            url=server.http_url if kind.endswith("-http") else server.grpc_url,
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
        yield EngineContestant(
            subject=subject,
            versions=versions,
            detail=subject.described(subject.served_path) if kind == "served" else "",
            engine=spec,
            compute=load_engine(spec),
            most=most,
        )

    return opened


def _served_by_a_runtime(subject: Subject) -> str:
    backend = backend_of(subject.served)
    return "" if backend in ("onnxruntime", "openvino") else f"the backend {backend!r} runs in a server only"


def computes_as_served(subject: Subject) -> bool:
    """Whether what plansmith serves was allowed to be less exact, for a peer with the same file and engine."""
    return subject.is_reduced(subject.served_path)


def _own(key: str, name: str, setup: str, *, over_grpc: bool) -> Peer:
    def opener(subject: Subject, _: int) -> AbstractContextManager[Contestant]:
        return open_plansmith(subject, over_grpc=over_grpc)

    return Peer(key, name, "plansmith", setup, "", opener, reduced_precision=computes_as_served)


def _client_peer(kind: ClientKind, name: str, setup: str = _ONE_FOR_THREADS) -> Peer:
    source = "" if kind.startswith("sdk") else _EXAMPLES
    return Peer(kind, name, "client", setup, source, _client(kind), reduced_precision=computes_as_served)


_SERVER_PEERS = (
    _own(_OWN, _OWN, "as `plansmith serve` serves it, HTTP with binary tensors", over_grpc=False),
    _own("plansmith-grpc", "plansmith, gRPC", "the same server, gRPC", over_grpc=True),
    Peer(
        "triton-default",
        _DEFAULT_TRITON,
        "server",
        "plansmith's onnxruntime backend; config.pbtxt: backend, batch size, tensors alone; HTTP, binary tensors",
        "https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html",
        lambda subject, _: default_triton(subject),
    ),
)
_CLIENT_PEERS = (
    _client_peer("sdk-grpc", "plansmith client, gRPC, threads"),
    _client_peer("tritonclient-grpc", "tritonclient, gRPC, threads"),
    _client_peer("sdk-aio", "plansmith client, gRPC, asyncio", "one client for all tasks"),
    _client_peer("tritonclient-aio", "tritonclient, gRPC, asyncio", "one client for all tasks"),
    _client_peer("sdk-http", "plansmith client, HTTP, threads"),
    _client_peer("tritonclient-http", "tritonclient, HTTP, threads", "a client for each thread, as it must be"),
)
_ENGINE_PEERS = (
    Peer(
        "engine",
        "plansmith's engine in process",
        "in process",
        f"the served file, runtime, precision and threads; {_IN_PROCESS}",
        "",
        _engine("served"),
        reduced_precision=computes_as_served,
        obstacle=_served_by_a_runtime,
    ),
    Peer(
        "onnxruntime",
        "ONNX Runtime in process",
        "in process",
        f"FP32, default options; {_IN_PROCESS}",
        "https://onnxruntime.ai/docs/get-started/with-python.html",
        _engine("onnxruntime"),
    ),
    Peer(
        "openvino",
        "OpenVINO in process",
        "in process",
        f"FP32 (INFERENCE_PRECISION_HINT f32); {_IN_PROCESS}",
        "https://docs.openvino.ai/2026/openvino-workflow/running-inference.html",
        _engine("openvino"),
    ),
)
PEERS: Sequence[Peer] = (*_SERVER_PEERS, *_CLIENT_PEERS, *_ENGINE_PEERS)


def peers_for_a_gpu() -> tuple[list[Peer], str]:
    """Rows for a GPU, and one sentence on those that there are not."""
    if not gpu_is_usable():
        return [], "No rows for CUDA and TensorRT: there is no NVIDIA GPU here that ONNX Runtime can use."
    kinds: dict[str, tuple[EngineKind, str]] = {
        "CUDAExecutionProvider": ("cuda", "CUDA"),
        "TensorrtExecutionProvider": ("tensorrt", "TensorRT"),
    }
    available = onnxruntime.get_available_providers()
    setup = f"FP32, execution provider of ONNX Runtime; {_IN_PROCESS}"
    source = "https://onnxruntime.ai/docs/execution-providers/"
    peers = [
        Peer(kind, f"ONNX Runtime in process, {name}", "in process", setup, source, _engine(kind))
        for provider, (kind, name) in kinds.items()
        if provider in available
    ]
    missing = [name for provider, (_, name) in kinds.items() if provider not in available]
    return peers, f"No row for {' and '.join(missing)}: the installed ONNX Runtime has no such provider." * bool(
        missing
    )


def configuration_peers(model: RepositoryModel, words: str) -> list[Peer]:
    """The configurations that a command line names, by commas, each on a server of its own.

    Args:
        model: that is compared.
        words: names as for `plansmith serve --config-name`; "none" for config.pbtxt.

    Raises:
        LoadTestMisconfigured: the model has no configuration of that name.
    """
    paths = {
        _NO_NAME if path == CONFIG else path.removeprefix(f"{CONFIGS}/").removesuffix(".pbtxt"): path
        for path in model.configurations
    }
    names = list(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))
    if unknown := [name for name in names if name not in paths]:
        raise LoadTestMisconfigured(
            f"--configs has {unknown[0]!r}; model {model.name!r} has: {', '.join(sorted(paths))}"
        )
    return [_configuration_peer(name, paths[name]) for name in names]


def _configuration_peer(name: str, path: str) -> Peer:
    return Peer(
        name,
        path,
        "plansmith",
        "the same repository on a server of its own, HTTP with binary tensors",
        "",
        lambda subject, _: open_configuration(subject, name, path),
        reduced_precision=lambda subject: subject.is_reduced(path),
    )


def choose_peers(words: str) -> list[Peer]:
    """The peers that a command line names: keys, kinds ("server", "client", "in-process") or "all", by commas.

    plansmith is always among them.

    Raises:
        LoadTestMisconfigured: a peer is unknown.
    """
    asked = {word.strip() for word in words.split(",") if word.strip()}
    names = {peer: {peer.key, "all"} | ({peer.kind.replace(" ", "-")} - {_OWN}) for peer in PEERS}
    known = sorted(set[str]().union(*names.values()))
    if unknown := sorted(asked - set(known)):
        raise LoadTestMisconfigured(f"--peers: {unknown[0]!r} is not a peer; choose from {', '.join(known)}")
    return [peer for peer in PEERS if asked & names[peer] or peer.key == _OWN]


def baseline_of(peers: Sequence[Peer], configurations: Sequence[Peer]) -> str:
    """The name of the peer to which ratios are given: the first of the named configurations, else Triton's defaults.

    Where neither is compared it is plansmith, which always is.
    """
    names = [peer.name for peer in (*configurations, *peers)]
    if configurations:
        return names[0]
    return _DEFAULT_TRITON if _DEFAULT_TRITON in names else _OWN
