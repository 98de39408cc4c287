"""Real servers for one model under any configuration, on a repository of their own; the user's is only read."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from plansmith_build.repository.config import text_from_config
from plansmith_build.repository.filesystem import mirror
from plansmith_build.repository.model_repository import CONFIG, LABELS
from plansmith_build.repository.staging import temporary_folder
from plansmith_client import Client
from plansmith_perf.errors import PerfError, WrongAnswer
from plansmith_perf.load.encoded_requests import WRONG_ANSWER, write_requests
from plansmith_perf.load.measuring import MeasuringOptions, Target, measure
from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from plansmith_build.repository.model_repository import RepositoryModel
    from plansmith_client import Model
    from plansmith_perf.results.documents import ClosedLoop, Measurement, OpenLoop
    from plansmith_perf.tuning.answers import LoadAnswers

__all__ = ["LoadedTrial", "Workbench"]

_START_SECONDS = 120.0
_WARMUP = "warmup"


class Workbench:
    """A temporary folder with the version's files; each trial gets a repository of hard links to them."""

    def __init__(self, model: RepositoryModel, protocol: Literal["grpc", "http"]) -> None:
        self._model = model
        self._protocol = protocol
        self._count = 0
        self.server = ""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder = stack.enter_context(temporary_folder())
            # One copy where the file system is another; what each trial gets are links to it.
            mirror(self._model.version_path(self._model.versions[-1]), self._folder / "version")
            if (self._model.path / _WARMUP).is_dir():
                mirror(self._model.path / _WARMUP, self._folder / _WARMUP)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def serve(self, config: Any) -> Iterator[LoadedTrial]:
        """A server with the model under a configuration, for as long as the block lasts.

        Raises:
            plansmith_server.ServerError: it does not start, or does not load the model.
        """
        self._count += 1
        repository = self._folder / f"trial-{self._count}"
        folder = repository / self._model.name
        folder.mkdir(parents=True)
        mirror(self._folder / "version", folder / str(self._model.versions[-1]))
        if (self._folder / _WARMUP).is_dir():
            mirror(self._folder / _WARMUP, folder / _WARMUP)
        if (self._model.path / LABELS).is_file():
            shutil.copyfile(self._model.path / LABELS, folder / LABELS)
        (folder / CONFIG).write_text(text_from_config(config), encoding="utf-8")
        options = ServerOptions(
            repository=repository,
            http_port=0,
            grpc_port=0,
            metrics_port=0,
            config_name="none",
            start_timeout=_START_SECONDS,
        )
        try:
            with TritonServer(options) as server:
                url = server.grpc_url if self._protocol == "grpc" else server.http_url
                with Client(url) as client:
                    self.server = f"triton {server.version}"
                    yield LoadedTrial(url, client.model(self._model.name), repository, self._protocol == "http")
        finally:
            shutil.rmtree(repository, ignore_errors=True)


@dataclass
class LoadedTrial:
    """A server that runs.

    Attributes:
        url: where.
        model: the model on it.
        folder: its repository.
        over_http: the protocol of the load.
    """

    url: str
    model: Model
    folder: Path
    over_http: bool
    _target: Target | None = None
    _tolerance: float = 0.0

    def prepare(self, answers: LoadAnswers, batch_size: int) -> None:
        """Encode the requests of the load."""
        # Beside the models, where this server has looked already.
        folder = self.folder.with_name(f"{self.folder.name}-requests")
        folder.mkdir()
        path = write_requests(folder, self.model, answers.requests, over_http=self.over_http, binary=True)
        self._target = Target(self.url, self.model.name, "", path, folder, batch_size)
        self._tolerance = answers.tolerance

    def measure(
        self, load: ClosedLoop | OpenLoop, options: MeasuringOptions, progress: Callable[[float], None]
    ) -> Measurement:
        """Put a load on it.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            WrongAnswer: an answer was wrong when there were many.
            PerfError: the server ended, or the load generator failed.
        """
        if self._target is None:
            raise PerfError("a trial is measured before its requests are prepared: this is a bug, please report it")
        found, interruption = measure(
            self._target, load, replace(options, tolerance=self._tolerance), progress=progress
        )
        if interruption == "Ctrl-C":
            raise KeyboardInterrupt
        if interruption:
            raise PerfError("the server ended under load")
        if found.wrong_answers:
            said = next((message for message in found.error_messages if message.startswith(WRONG_ANSWER)), WRONG_ANSWER)
            raise WrongAnswer(f"{found.wrong_answers:,} of {found.requests:,} under load: {said}")
        return found
