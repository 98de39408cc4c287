"""A real Triton over what is not published yet: to time candidates, and to try a version before it is published.

Every loaded model is a process with a runtime and all weights: of what is tried, only what is asked is loaded.
"""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.errors import InvalidOption
from plansmith_build.repository.config import text_from_config
from plansmith_build.repository.filesystem import link_or_copy, make_folder
from plansmith_build.repository.model_repository import CONFIG, LABELS
from plansmith_build.repository.warmup import WARMUP
from plansmith_client import Client, ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Any

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_server import TritonServer

__all__ = ["Entry", "Serving", "as_served", "require_triton", "served_repository", "serving"]

FIRST_ANSWER_SECONDS = 120.0
START_SECONDS = 600.0
# Beside both for each GiB of files: slow disks bring some 10 MB a second.
SECONDS_PER_GIB = 100.0


@dataclass(frozen=True)
class Entry:
    """One configuration of a model.

    Attributes:
        config: an `inference.ModelConfig`; it is served under the entry's own name.
        files: what its version's folder holds.
        labels: the content of labels.txt, None where there is none.
        warmup: what is in its folder `warmup`, by name.
    """

    config: Any
    files: tuple[Path, ...]
    labels: bytes | None = None
    warmup: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Serving:
    """A running server.

    Attributes:
        client: connected to it.
        server: the server itself.
    """

    client: Client
    server: TritonServer

    @property
    def refused(self) -> Mapping[str, str]:
        """Why the server does not have a model, by its name."""
        return {state.name: state.reason or state.state for state in self.server.models() if not state.is_ready}

    @contextmanager
    def loaded(self, name: str) -> Iterator[str]:
        """A model of `serving` while the context lasts; gives why the server refuses it, else an empty string.

        Raises:
            ServerError: the server has ended.
            ClientError: likewise, before the model could be unloaded.
        """
        problem = ""
        try:
            if not self.client.model(name).is_ready():
                self.client.load_model(name)
        except ClientError as error:
            problem = self.refused.get(name) or str(error)
        yield problem
        if not problem:
            self.client.unload_model(name)


def require_triton() -> None:
    """Refuse to go on where no Triton can be started; what it needs is fetched where plansmith-server does so.

    Raises:
        InvalidOption: plansmith-server, or something that Triton needs, is missing.
    """
    otherwise = "or publish what no Triton has tried, with --no-serve (serve=False in Python)"
    if find_spec("plansmith_server") is None:
        raise InvalidOption(
            "a version is tried on a Triton before it is published, and plansmith-server, which starts one, is not "
            f"installed: the package plansmith brings it, {otherwise}"
        )
    from plansmith_server import TritonUnavailable  # noqa: PLC0415 - an optional distribution
    from plansmith_server.launcher.triton_wheel import find_triton  # noqa: PLC0415

    try:
        find_triton()
    except TritonUnavailable as error:
        raise InvalidOption(f"a version is tried on a Triton before it is published: {error}; {otherwise}") from error


@contextmanager
def serving(entries: Mapping[str, Entry], repository: Path, *, first: str = "") -> Iterator[Serving]:
    """A server that loads an entry when `Serving.loaded` asks for it; it has stopped when the context ends.

    Args:
        entries: by the name that each is served under.
        repository: a folder to make, on the same file system as the entries' files.
        first: the entry to start with: where it ends the server, the error says why.

    Raises:
        ServerError: the server does not start, or refuses the first entry.
    """
    make_folder(repository)
    for name, entry in entries.items():
        _write(entry, name, repository / name)
    # The configurations of a build are complete; completing each would take a process more.
    with served_repository(
        repository,
        control="explicit",
        models=(first,) if first else (),
        triton_arguments=("--disable-auto-complete-config",),
    ) as server:
        yield server


@contextmanager
def served_repository(repository: Path, **options: Any) -> Iterator[Serving]:
    """Serve every model of a repository by its config.pbtxt; the server has stopped when the context ends.

    Raises:
        ServerError: the server does not start, or refuses every model.
    """
    from plansmith_server import ServerOptions, TritonServer  # noqa: PLC0415 - an optional distribution

    size = sum(path.stat().st_size for path in repository.rglob("*") if path.is_file())
    more = SECONDS_PER_GIB * size / 2**30
    serve = ServerOptions(
        repository=repository,
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        config_name="none",
        start_timeout=START_SECONDS + more,
        **options,
    )
    with TritonServer(serve) as server, Client(server.grpc_url, timeout=FIRST_ANSWER_SECONDS + more) as client:
        yield Serving(client, server)


def as_served(arrays: Arrays, tensors: Any) -> Arrays:
    """Arrays as clients send and get them: a single number for each row has a dimension of its own."""
    reshaped = {tensor.name for tensor in tensors if tensor.HasField("reshape")}
    return {
        name: array[:, np.newaxis] if name in reshaped and array.ndim == 1 else array for name, array in arrays.items()
    }


def _write(entry: Entry, name: str, folder: Path) -> None:
    version = folder / "1"
    make_folder(folder)
    make_folder(version)
    for file in entry.files:
        link_or_copy(file, version / file.name)
    if entry.labels is not None:
        (folder / LABELS).write_bytes(entry.labels)
    for file_name, content in entry.warmup.items():
        (folder / WARMUP).mkdir(exist_ok=True)
        (folder / WARMUP / file_name).write_bytes(content)
    config = deepcopy(entry.config)
    config.name = name
    if entry.labels is None:
        for tensor in config.output:
            tensor.ClearField("label_filename")
    (folder / CONFIG).write_text(text_from_config(config), encoding="utf-8")
