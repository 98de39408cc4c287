"""The peers that run: how each is asked while it is idle, and what load it gets."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plansmith_build.repository.staging import temporary_folder
from plansmith_perf.comparing.client_calls import ClientKind, is_async, open_async_call, open_calls
from plansmith_perf.comparing.client_driver import ClientPlan
from plansmith_perf.comparing.conversation import write_arrays
from plansmith_perf.comparing.engine_driver import EnginePlan
from plansmith_perf.comparing.stacking import answers_of, best_stack, stack_requests
from plansmith_perf.load.analysis import shares_per_second
from plansmith_perf.load.encoded_requests import write_requests
from plansmith_perf.load.measuring import put_load, shared_out
from plansmith_perf.load.server_side import Counters, read_counters
from plansmith_perf.load.worker import WorkerPlan
from plansmith_perf.results.documents import ClosedLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import psutil
    from numpy.typing import NDArray

    from plansmith_client import Client
    from plansmith_perf.comparing.answers import Agreement
    from plansmith_perf.comparing.engines import Compute, EngineSpec
    from plansmith_perf.comparing.subject import Subject
    from plansmith_perf.load.measuring import MeasuringOptions
    from plansmith_perf.load.requests import CheckedRequest
    from plansmith_perf.results.documents import Measurement

__all__ = ["ClientContestant", "Contestant", "EngineContestant", "ProtocolContestant"]

# So many different requests are sent under load; all are compared before it.
_LOADED_REQUESTS = 16

Arrays = dict[str, "NDArray[Any]"]


@dataclass(kw_only=True)
class Contestant(ABC):
    """A peer that runs.

    Attributes:
        subject: what is compared.
        versions: of its packages.
        find_processes: gives those of its server; none for what has no server of its own.
        detail: what was found out about its setup, or "".
        in_process: whether the processes of the load are the peer itself.
    """

    subject: Subject
    versions: Mapping[str, str]
    find_processes: Callable[[], Sequence[psutil.Process]] = list
    detail: str = ""
    in_process: bool = False
    _requests: Path = field(default=Path(), init=False)
    _tolerance: float = field(default=0.0, init=False)

    @abstractmethod
    def ask(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """One answer, while it is idle."""

    def ask_together(self, inputs: Sequence[Mapping[str, NDArray[Any]]]) -> Sequence[Arrays]:
        """The answer to each of several requests that it gets at once, while it is idle otherwise."""
        with ThreadPoolExecutor(len(inputs)) as pool:
            return list(pool.map(self.ask, inputs))

    def prepare(self, agreement: Agreement) -> None:
        """Write the requests of the load down."""
        self._requests = self.subject.new_folder("requests")
        self._tolerance = agreement.tolerance
        self.write(self._requests, agreement.requests[:_LOADED_REQUESTS])

    def write(self, folder: Path, requests: Sequence[CheckedRequest]) -> None:
        """Write requests in the form that the processes of the load read."""
        write_arrays(folder, requests)

    @abstractmethod
    def plans(self, shares: Sequence[Mapping[str, Any]]) -> Sequence[WorkerPlan]:
        """What each process of a load does.

        Args:
            shares: what the plans of several processes have in common; the first is enough where there is only one.
        """

    def counters(self) -> Counters | None:
        """The statistics of its server; None where it has none."""
        return None

    def measure(
        self, concurrency: int, options: MeasuringOptions, progress: Callable[[float], None] = lambda _: None
    ) -> Measurement:
        """Put a load on it, from processes that all peers get alike; after `prepare`.

        Raises:
            KeyboardInterrupt: Ctrl-C; the load's processes have ended.
            PerfError: a process of the load failed.
        """
        with temporary_folder() as folder:
            common = {"tolerance": self._tolerance, "requests": str(self._requests)}
            shares = [share | common for share in shared_out(concurrency, options, folder)]
            measured, _ = put_load(
                self.plans(shares),
                folder,
                ClosedLoop(concurrency=concurrency),
                options,
                batch_size=self.subject.batch_size,
                server=self.find_processes,
                counters=self.counters,
                in_process=self.in_process,
                throughput=shares_per_second,
                progress=progress,
            )
        return measured


@dataclass(kw_only=True)
class ProtocolContestant(Contestant):
    """A server of the Open Inference Protocol, asked by the SDK and by the load generator of `plansmith bench`.

    Attributes:
        url: "http://host:port", or "host:port" for gRPC.
        client: of the SDK, for the same URL.
        counted: whether it is a Triton whose statistics may be read; PyTriton's may not.
    """

    url: str
    client: Client
    counted: bool = True
    _path: str = field(default="", init=False)

    def ask(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """See Contestant."""
        return dict(self.client.model(self.subject.model.name).infer(inputs))

    def write(self, folder: Path, requests: Sequence[CheckedRequest]) -> None:
        """See Contestant."""
        model = self.client.model(self.subject.model.name)
        self._path = write_requests(folder, model, requests, over_http=self.url.startswith("http"), binary=True)

    def plans(self, shares: Sequence[Mapping[str, Any]]) -> Sequence[WorkerPlan]:
        """See Contestant; all connections are made before the load: a server that runs short of them shows it then."""
        own = {"url": self.url, "path": self._path}
        return [WorkerPlan.model_validate({**share, **own, "at_first": share["concurrency"]}) for share in shares]

    def counters(self) -> Counters | None:
        """See Contestant."""
        return read_counters(self.url, self.subject.model.name, "") if self.counted else None


@dataclass(kw_only=True)
class ClientContestant(Contestant):
    """A client library.

    Attributes:
        kind: which, and how it is called.
        url: of plansmith's server, as the library takes it.
    """

    kind: ClientKind
    url: str

    def ask(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """See Contestant."""
        name, outputs = self.subject.model.name, self.subject.outputs

        async def with_asyncio() -> Arrays:
            async with AsyncExitStack() as stack:
                return await (await open_async_call(self.kind, self.url, name, outputs, stack=stack))(inputs)

        if is_async(self.kind):
            return asyncio.run(with_asyncio())
        with ExitStack() as stack:
            (call,) = open_calls(self.kind, self.url, name, outputs, threads=1, stack=stack)
            return call(inputs)

    def plans(self, shares: Sequence[Mapping[str, Any]]) -> Sequence[WorkerPlan]:
        """See Contestant."""
        own = {"kind": self.kind, "url": self.url, "model": self.subject.model.name, "outputs": self.subject.outputs}
        return [ClientPlan.model_validate({**shares[0], **own, "concurrency": _together(shares)})]


@dataclass(kw_only=True)
class EngineContestant(Contestant):
    """A model in process.

    Attributes:
        engine: what computes.
        compute: it, loaded in this process for the comparison of answers; given up by `prepare`.
        most: requests in flight.
    """

    engine: EngineSpec
    compute: Compute | None
    most: int
    in_process: bool = True
    _stack: int = field(default=1, init=False)

    def ask(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """See Contestant."""
        assert self.compute is not None  # noqa: S101 - asked before `prepare`
        return answers_of(self.compute(inputs), self.subject.outputs, 1)[0]

    def ask_together(self, inputs: Sequence[Mapping[str, NDArray[Any]]]) -> Sequence[Arrays]:
        """See Contestant: as one call, if the model takes that many."""
        assert self.compute is not None  # noqa: S101 - asked before `prepare`
        if self.subject.batches:
            # As in `best_stack`: what the model does not take will not be asked under load either.
            with contextlib.suppress(Exception):
                return answers_of(self.compute(stack_requests(inputs)), self.subject.outputs, len(inputs))
        return [self.ask(one) for one in inputs]

    def write(self, folder: Path, requests: Sequence[CheckedRequest]) -> None:
        """See Contestant."""
        if self.subject.batches and self.compute is not None:
            self._stack = best_stack(self.compute, [request.inputs for request in requests], most=self.most)
        # Each round loads the model in a process of its own.
        self.compute = None
        calls = f"calls of {self._stack} {'request' if self._stack == 1 else 'requests'}"
        self.detail = "; ".join(filter(None, (self.detail, calls)))
        write_arrays(folder, requests)

    def plans(self, shares: Sequence[Mapping[str, Any]]) -> Sequence[WorkerPlan]:
        """See Contestant."""
        own = {"engine": self.engine, "stack": self._stack, "concurrency": _together(shares)}
        return [EnginePlan.model_validate({**shares[0], **own})]


def _together(shares: Sequence[Mapping[str, Any]]) -> int:
    return sum(share["concurrency"] for share in shares)
