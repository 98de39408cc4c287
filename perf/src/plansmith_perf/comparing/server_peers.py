"""The peers that are servers of plansmith's own installation: as it serves the model, and without its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_build.repository.model_repository import CONFIG, CONFIGS
from plansmith_perf.comparing.peer import Peer
from plansmith_perf.comparing.server_openers import default_triton, open_configuration, open_plansmith
from plansmith_perf.errors import LoadTestMisconfigured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plansmith_build.repository.model_repository import RepositoryModel
    from plansmith_perf.comparing.subject import Subject

__all__ = ["DEFAULT_TRITON", "OWN", "SERVER_PEERS", "computes_as_served", "configuration_peers"]

OWN = "plansmith"
DEFAULT_TRITON = "Triton, default configuration"
# The server's word for config.pbtxt alone, see `plansmith serve --config-name`.
_NO_NAME = "none"


def computes_as_served(subject: Subject) -> bool:
    """Whether the build allowed what is served to be less exact than the reference."""
    return subject.is_reduced(subject.served_path)


SERVER_PEERS: Sequence[Peer] = (
    Peer(
        "plansmith",
        "plansmith",
        "plansmith",
        "as `plansmith serve` serves it, HTTP with binary tensors",
        "",
        lambda subject, _: open_plansmith(subject, "http"),
        reduced_precision=computes_as_served,
    ),
    Peer(
        "plansmith-grpc",
        "plansmith, gRPC",
        "plansmith",
        "the same server, gRPC",
        "",
        lambda subject, _: open_plansmith(subject, "grpc"),
        reduced_precision=computes_as_served,
    ),
    Peer(
        "triton-default",
        DEFAULT_TRITON,
        "server",
        "plansmith's onnxruntime backend; config.pbtxt: backend, batch size, tensors alone; HTTP, binary tensors",
        "https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html",
        lambda subject, _: default_triton(subject),
    ),
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
