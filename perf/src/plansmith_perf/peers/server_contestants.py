"""How each peer that is a server is asked, and what load it gets."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import urllib3

from plansmith_client import Client
from plansmith_perf.load.encoding import write_requests
from plansmith_perf.load.server_side import Counters, read_counters
from plansmith_perf.peers.bodies import BodyFormat, decode_body, encode_body
from plansmith_perf.peers.processes import PeerFailed
from plansmith_perf.peers.worker import PeerPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import psutil
    from numpy.typing import NDArray

    from plansmith_perf.peers.answers import Agreement
    from plansmith_perf.peers.driving import RoundOptions
    from plansmith_perf.peers.subject import Subject

__all__ = ["LOADED_REQUESTS", "BodyContestant", "ProtocolContestant", "in_threads"]

LOADED_REQUESTS = 16
"""So many different requests are sent under load; all are compared before it."""

_TIMEOUT_SECONDS = 60.0
_NOT_READY = (404, 503)


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

    def plans(self, options: RoundOptions, folder: Path) -> Sequence[PeerPlan]:
        """See Contestant."""
        return _workers(
            options, folder, url=self.url, path=self._path, requests=self._requests, tolerance=self._tolerance
        )

    def counters(self) -> Counters | None:
        """See Contestant."""
        return read_counters(self.url, self.subject.model.name, "") if self.counted else None


@dataclass
class BodyContestant:
    """A server with an HTTP interface of its own.

    Attributes:
        url: "http://host:port".
        path: of what answers.
        body_format: of requests and answers.
        subject: what is compared.
        versions: of the peer's packages.
        find_processes: gives those of the server.
    """

    url: str
    path: str
    body_format: BodyFormat
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

    def is_ready(self) -> bool:
        """Whether it answers.

        Raises:
            PeerFailed: it answers with an error.
        """
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            status, _, body = self._post(self.subject.requests[0].inputs, timeout=5.0)
            if status in _NOT_READY:
                return False
            if status != 200:  # noqa: PLR2004 - HTTP's OK
                raise PeerFailed(f"its server answers with HTTP {status}: {body[:200].decode(errors='replace')}")
            return True
        return False

    def ask(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See Contestant."""
        try:
            status, headers, body = self._post(inputs, timeout=_TIMEOUT_SECONDS)
        except urllib3.exceptions.HTTPError as error:
            raise PeerFailed(f"its server does not answer: {error}") from error
        if status != 200:  # noqa: PLR2004
            raise PeerFailed(f"its server answers with HTTP {status}: {body[:200].decode(errors='replace')}")
        return decode_body(self.body_format, self.subject.outputs, headers, body)

    def ask_together(self, inputs: Sequence[Mapping[str, NDArray[Any]]]) -> Sequence[dict[str, NDArray[Any]]]:
        """See Contestant."""
        return in_threads(self.ask, inputs)

    def prepare(self, agreement: Agreement) -> None:
        """See Contestant."""
        requests = agreement.requests[:LOADED_REQUESTS]
        self._requests = self.subject.new_folder("requests")
        self._tolerance = agreement.tolerance
        # The answers are written down in the one form that every worker reads; the bodies then replace the others.
        with Client(self.subject.server.grpc_url) as client:
            model = client.model(self.subject.model.name)
            write_requests(self._requests, model, requests, over_http=False, binary=True)
        for number, request in enumerate(requests):
            body, headers = encode_body(self.body_format, self.subject.inputs, request.inputs)
            stem = self._requests / f"{number:06}"
            stem.with_suffix(".request").write_bytes(body)
            stem.with_suffix(".headers").write_text(json.dumps(headers), encoding="utf-8")

    def plans(self, options: RoundOptions, folder: Path) -> Sequence[PeerPlan]:
        """See Contestant."""
        return _workers(
            options,
            folder,
            url=self.url,
            path=self.path,
            requests=self._requests,
            tolerance=self._tolerance,
            body=self.body_format,
            outputs=tuple((tensor.name, tensor.dtype) for tensor in self.subject.outputs),
        )

    def counters(self) -> Counters | None:
        """See Contestant."""
        return None

    def _post(self, inputs: Mapping[str, NDArray[Any]], *, timeout: float) -> tuple[int, dict[str, str], bytes]:
        body, headers = encode_body(self.body_format, self.subject.inputs, inputs)
        with urllib3.PoolManager(retries=False) as pool:
            reply = pool.request("POST", self.url + self.path, body=body, headers=headers, timeout=timeout)
        return reply.status, {name.lower(): value for name, value in reply.headers.items()}, reply.data


def in_threads(
    ask: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]], inputs: Sequence[Mapping[str, NDArray[Any]]]
) -> list[dict[str, NDArray[Any]]]:
    """The answer to each of several requests, sent by a thread each.

    Raises:
        Exception: what `ask` raises.
    """
    with ThreadPoolExecutor(len(inputs)) as pool:
        return list(pool.map(ask, inputs))


def _workers(
    options: RoundOptions,
    folder: Path,
    *,
    url: str,
    path: str,
    requests: Path | None,
    tolerance: float,
    body: str = "v2",
    outputs: tuple[tuple[str, str], ...] = (),
) -> list[PeerPlan]:
    count = min(options.workers, options.concurrency)
    return [
        PeerPlan.model_validate(
            {
                "url": url,
                "path": path,
                "timeout": options.timeout,
                "tolerance": tolerance,
                "seconds": options.warmup_seconds + options.seconds,
                "concurrency": options.concurrency // count + (number < options.concurrency % count),
                "due": "",
                "requests": str(requests),
                "records": str(folder / f"records-{number}.npy"),
                "offset": number,
                "body": body,
                "outputs": outputs,
            }
        )
        for number in range(count)
    ]
