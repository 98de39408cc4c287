"""How a server of the Open Inference Protocol is asked, and what load it gets."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plansmith_perf.load.encoding import write_requests
from plansmith_perf.load.server_side import Counters, read_counters
from plansmith_perf.load.worker import WorkerPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import psutil
    from numpy.typing import NDArray

    from plansmith_client import Client
    from plansmith_perf.comparing.answers import Agreement
    from plansmith_perf.comparing.driving import RoundOptions
    from plansmith_perf.comparing.subject import Subject

__all__ = ["LOADED_REQUESTS", "ProtocolContestant", "in_threads", "plan_values"]

LOADED_REQUESTS = 16
"""So many different requests are sent under load; all are compared before it."""


@dataclass
class ProtocolContestant:
    """A server of the Open Inference Protocol, asked by the SDK and by the load generator of `plansmith bench`.

    Attributes:
        url: "http://host:port", or "host:port" for gRPC.
        client: of the SDK, for the same URL.
        subject: what is compared.
        versions: of the peer's packages.
        find_processes: gives those of the server.
        counted: whether it is a Triton whose statistics may be read; PyTriton's may not.
        detail: see Contestant.
    """

    url: str
    client: Client
    subject: Subject
    versions: Mapping[str, str]
    find_processes: Callable[[], Sequence[psutil.Process]]
    counted: bool
    detail: str = ""
    _path: str = field(default="", init=False)
    _requests: Path | None = field(default=None, init=False)
    _tolerance: float = field(default=0.0, init=False)

    @property
    def processes(self) -> Sequence[psutil.Process]:
        """See Contestant."""
        return self.find_processes()

    def ask(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See Contestant."""
        return dict(self.client.model(self.subject.model.name).infer(inputs))

    def ask_together(self, inputs: Sequence[Mapping[str, NDArray[Any]]]) -> Sequence[dict[str, NDArray[Any]]]:
        """See Contestant."""
        return in_threads(self.ask, inputs)

    def prepare(self, agreement: Agreement) -> None:
        """See Contestant."""
        self._requests = self.subject.new_folder("requests")
        self._tolerance = agreement.tolerance
        self._path = write_requests(
            self._requests,
            self.client.model(self.subject.model.name),
            agreement.requests[:LOADED_REQUESTS],
            over_http=self.url.startswith("http"),
            binary=True,
        )

    def plans(self, options: RoundOptions, folder: Path) -> Sequence[WorkerPlan]:
        """See Contestant."""
        values = plan_values(options, folder, self._requests, self._tolerance)
        return [WorkerPlan.model_validate({**each, "url": self.url, "path": self._path}) for each in values]

    def counters(self) -> Counters | None:
        """See Contestant."""
        return read_counters(self.url, self.subject.model.name, "") if self.counted else None


def in_threads(
    ask: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]], inputs: Sequence[Mapping[str, NDArray[Any]]]
) -> list[dict[str, NDArray[Any]]]:
    """The answer to each of several requests, sent by a thread each.

    Raises:
        Exception: what `ask` raises.
    """
    with ThreadPoolExecutor(len(inputs)) as pool:
        return list(pool.map(ask, inputs))


def plan_values(options: RoundOptions, folder: Path, requests: Path | None, tolerance: float) -> list[dict[str, Any]]:
    """What the plans of a load's processes have in common, for each of them.

    All connections are made before the load: a server that runs short of them shows it then.
    """
    count = min(options.workers, options.concurrency)
    shares = [options.concurrency // count + (number < options.concurrency % count) for number in range(count)]
    return [
        {
            "timeout": options.timeout,
            "tolerance": tolerance,
            "seconds": options.warmup_seconds + options.seconds,
            "concurrency": concurrency,
            "due": "",
            "requests": str(requests),
            "records": str(folder / f"records-{number}.npy"),
            "offset": number,
            "at_first": concurrency,
        }
        for number, concurrency in enumerate(shares)
    ]
