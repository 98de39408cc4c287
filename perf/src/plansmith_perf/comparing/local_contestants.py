"""How each peer without a server of its own is asked, a client library or a model in process, and what load it gets."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plansmith_perf.comparing.client_calls import ClientKind, is_async, open_async_call, open_calls
from plansmith_perf.comparing.client_driver import ClientPlan
from plansmith_perf.comparing.conversation import write_arrays
from plansmith_perf.comparing.server_contestants import LOADED_REQUESTS, in_threads
from plansmith_perf.comparing.stacking import answers_of, best_stack, stack_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import psutil
    from numpy.typing import NDArray

    from plansmith_perf.comparing.answers import Agreement
    from plansmith_perf.comparing.driving import RoundOptions
    from plansmith_perf.comparing.engine_driver import CallsPlan
    from plansmith_perf.comparing.engines import Compute
    from plansmith_perf.comparing.subject import Subject
    from plansmith_perf.load.server_side import Counters
    from plansmith_perf.load.worker import WorkerPlan

__all__ = ["ClientContestant", "EngineContestant"]


@dataclass
class ClientContestant:
    """A client library.

    Attributes:
        kind: which, and how it is called.
        url: of plansmith's server, as the library takes it.
        subject: what is compared.
        versions: of the library.
        find_processes: gives those of the server.
    """

    kind: ClientKind
    url: str
    subject: Subject
    versions: Mapping[str, str]
    find_processes: Callable[[], Sequence[psutil.Process]]
    _requests: Path | None = field(default=None, init=False)
    _tolerance: float = field(default=0.0, init=False)

    @property
    def detail(self) -> str:
        """See Contestant."""
        return ""

    @property
    def processes(self) -> Sequence[psutil.Process]:
        """See Contestant."""
        return self.find_processes()

    def ask(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See Contestant."""
        name, outputs = self.subject.model.name, self.subject.outputs

        async def with_asyncio() -> dict[str, NDArray[Any]]:
            async with AsyncExitStack() as stack:
                return await (await open_async_call(self.kind, self.url, name, outputs, stack=stack))(inputs)

        if is_async(self.kind):
            return asyncio.run(with_asyncio())
        with ExitStack() as stack:
            (call,) = open_calls(self.kind, self.url, name, outputs, threads=1, stack=stack)
            return call(inputs)

    def ask_together(self, inputs: Sequence[Mapping[str, NDArray[Any]]]) -> Sequence[dict[str, NDArray[Any]]]:
        """See Contestant."""
        return in_threads(self.ask, inputs)

    def prepare(self, agreement: Agreement) -> None:
        """See Contestant."""
        self._requests = self.subject.new_folder("requests")
        self._tolerance = agreement.tolerance
        write_arrays(self._requests, agreement.requests[:LOADED_REQUESTS])

    def plans(self, options: RoundOptions, folder: Path) -> Sequence[WorkerPlan]:
        """See Contestant."""
        plan = _common(options, folder, self._requests, self._tolerance)
        plan |= {"kind": self.kind, "url": self.url, "model": self.subject.model.name}
        plan["outputs"] = self.subject.outputs
        return [ClientPlan.model_validate(plan)]

    def counters(self) -> Counters | None:
        """See Contestant."""
        return None


@dataclass
class EngineContestant:
    """A model in process.

    Attributes:
        compute: it, loaded in this process for the comparison of answers; given up by `prepare`.
        outputs: their names, in the model's order.
        plan: of the process that a round computes in.
        engine: the plan's own fields, which say what computes.
        subject: what is compared.
        versions: of the runtime.
        most: requests in flight.
        described: what computes, in a few words; may be empty.
        stack: requests a call; known after `prepare`.
    """

    compute: Compute | None
    outputs: Sequence[str]
    plan: type[CallsPlan]
    engine: Mapping[str, Any]
    subject: Subject
    versions: Mapping[str, str]
    most: int
    described: str = ""
    stack: int = field(default=1, init=False)
    _requests: Path | None = field(default=None, init=False)
    _tolerance: float = field(default=0.0, init=False)

    @property
    def detail(self) -> str:
        """See Contestant."""
        calls = f"calls of {self.stack} {'request' if self.stack == 1 else 'requests'}"
        return f"{self.described}; {calls}" if self.described else calls

    @property
    def processes(self) -> Sequence[psutil.Process]:
        """See Contestant: it has no server."""
        return []

    def ask(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See Contestant."""
        assert self.compute is not None  # noqa: S101 - asked before `prepare`
        return answers_of(self.compute(inputs), self.outputs, 1)[0]

    def ask_together(self, inputs: Sequence[Mapping[str, NDArray[Any]]]) -> Sequence[dict[str, NDArray[Any]]]:
        """See Contestant: as one call, if the model takes that many."""
        assert self.compute is not None  # noqa: S101 - asked before `prepare`
        if self.subject.batches:
            # As in `best_stack`: what the model does not take will not be asked under load either.
            with contextlib.suppress(Exception):
                return answers_of(self.compute(stack_requests(inputs)), self.outputs, len(inputs))
        return [self.ask(one) for one in inputs]

    def prepare(self, agreement: Agreement) -> None:
        """See Contestant."""
        requests = agreement.requests[:LOADED_REQUESTS]
        if self.subject.batches and self.compute is not None:
            self.stack = best_stack(self.compute, [request.inputs for request in requests], most=self.most)
        # Each round loads the model in a process of its own.
        self.compute = None
        self._requests = self.subject.new_folder("requests")
        self._tolerance = agreement.tolerance
        write_arrays(self._requests, requests)

    def plans(self, options: RoundOptions, folder: Path) -> Sequence[WorkerPlan]:
        """See Contestant."""
        plan = _common(options, folder, self._requests, self._tolerance)
        plan |= {**self.engine, "outputs": self.outputs, "stack": self.stack}
        return [self.plan.model_validate(plan)]

    def counters(self) -> Counters | None:
        """See Contestant: it has no server."""
        return None


def _common(options: RoundOptions, folder: Path, requests: Path | None, tolerance: float) -> dict[str, Any]:
    return {
        "url": "",
        "path": "",
        "timeout": options.timeout,
        "tolerance": tolerance,
        "seconds": options.warmup_seconds + options.seconds,
        "concurrency": options.concurrency,
        "due": "",
        "requests": str(requests),
        "records": str(folder / "records.npy"),
        "offset": 0,
    }
