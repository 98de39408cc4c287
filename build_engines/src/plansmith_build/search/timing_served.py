"""How fast candidates are as they will be served: by a real Triton on this machine, asked over gRPC by many at once."""

from __future__ import annotations

import os
import statistics
import threading
import time
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from plansmith_build.repository.config import text_from_config
from plansmith_build.repository.filesystem import make_folder
from plansmith_client import Client
from plansmith_client.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_client import Model

__all__ = ["CLIENTS", "Entry", "ServingFailed", "obstacle_to_serving", "time_served"]

CLIENTS = 8
ROUNDS = 2
SECONDS_PER_ROUND = 1.0
FIRST_ANSWER_SECONDS = 120.0


class ServingFailed(Exception):
    """The server did not start or went away; the text says why, and what was measured in process stands."""


@dataclass(frozen=True)
class Entry:
    """One candidate in the measurement.

    Attributes:
        config: an `inference.ModelConfig`.
        files: what its version's folder needs.
    """

    config: Any
    files: tuple[Path, ...]


def obstacle_to_serving() -> str:
    """Why nothing can be measured as it is served here, or an empty string."""
    if find_spec("plansmith_server") is None:
        return "plansmith-server is not installed"
    return ""


def time_served(entries: Sequence[Entry], request: Arrays, folder: Path, *, rows: int) -> list[float]:
    """Rows a second of each candidate, measured in turn on one server; 0 for one that the server does not load.

    `CLIENTS` threads send the same request again and again over gRPC, each as soon as its last one is answered, so
    that the server can put requests together as its configuration says.

    Args:
        entries: the candidates.
        request: what each client sends.
        folder: where a repository can be made; on the same file system as the candidates' files.
        rows: how many rows the request has.

    Raises:
        ServingFailed: the server does not start, or goes away.
    """
    from plansmith_server import ServerOptions, TritonServer  # noqa: PLC0415 - an optional distribution
    from plansmith_server.errors import ServerError  # noqa: PLC0415

    repository = folder / "served"
    for number, entry in enumerate(entries):
        version = repository / f"candidate_{number}" / "1"
        for path in (version.parent.parent, version.parent, version):
            if not path.exists():
                make_folder(path)
        for file in entry.files:
            os.link(file, version / file.name)
        config = type(entry.config)()
        config.CopyFrom(entry.config)
        config.name = f"candidate_{number}"
        for tensor in config.output:
            tensor.ClearField("label_filename")
        (version.parent / "config.pbtxt").write_text(text_from_config(config), encoding="utf-8")
    options = ServerOptions(
        repository=repository, http_port=0, grpc_port=0, metrics_port=0, config_name="none", start_timeout=600
    )
    rates: list[list[float]] = [[] for _ in entries]
    try:
        with TritonServer(options) as server, Client(server.grpc_url, timeout=FIRST_ANSWER_SECONDS) as client:
            models = [client.model(f"candidate_{number}") for number in range(len(entries))]
            usable = [number for number, model in enumerate(models) if _answers(model, request)]
            for _ in range(ROUNDS):
                for number in usable:
                    rates[number].append(_rate(models[number], request, rows))
    except (ClientError, ServerError) as error:
        raise ServingFailed(str(error)) from error
    return [statistics.median(measured) if measured else 0.0 for measured in rates]


def _answers(model: Model, request: Arrays) -> bool:
    try:
        for _ in range(2):
            model.infer(request)
    except ClientError:
        return False
    return True


def _rate(model: Model, request: Arrays, rows: int) -> float:
    """Rows a second while all clients are at work; 0 where one of them got an error."""
    counts = [0] * CLIENTS
    failed = threading.Event()
    started = time.perf_counter()
    deadline = started + SECONDS_PER_ROUND

    def ask(number: int) -> None:
        try:
            while time.perf_counter() < deadline:
                model.infer(request)
                counts[number] += 1
        except ClientError:
            failed.set()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - started
    return 0.0 if failed.is_set() else sum(counts) * rows / elapsed
