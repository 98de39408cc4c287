"""How a server with an HTTP interface of its own is asked, and what load it gets."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import urllib3

from peers.bodies import BodyFormat, decode_body, encode_body, inputs_of, outputs_of
from peers.processes import PeerFailed
from peers.worker import BodyPlan
from plansmith_client import Client
from plansmith_perf.comparing.server_contestants import LOADED_REQUESTS, in_threads, plan_values
from plansmith_perf.load.encoding import write_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import psutil
    from numpy.typing import NDArray

    from plansmith_perf.comparing.answers import Agreement
    from plansmith_perf.comparing.driving import RoundOptions
    from plansmith_perf.comparing.subject import Subject
    from plansmith_perf.load.server_side import Counters

__all__ = ["BodyContestant"]

_TIMEOUT_SECONDS = 60.0
_NOT_READY = (404, 503)


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
        return decode_body(self.body_format, outputs_of(self.subject), headers, body)

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
            body, headers = encode_body(self.body_format, inputs_of(self.subject), request.inputs)
            stem = self._requests / f"{number:06}"
            stem.with_suffix(".request").write_bytes(body)
            stem.with_suffix(".headers").write_text(json.dumps(headers), encoding="utf-8")

    def plans(self, options: RoundOptions, folder: Path) -> Sequence[BodyPlan]:
        """See Contestant."""
        own = {
            "url": self.url,
            "path": self.path,
            "body": self.body_format,
            "outputs": [(tensor.name, tensor.dtype) for tensor in outputs_of(self.subject)],
        }
        values = plan_values(options, folder, self._requests, self._tolerance)
        return [BodyPlan.model_validate({**each, **own}) for each in values]

    def counters(self) -> Counters | None:
        """See Contestant."""
        return None

    def _post(self, inputs: Mapping[str, NDArray[Any]], *, timeout: float) -> tuple[int, dict[str, str], bytes]:
        body, headers = encode_body(self.body_format, inputs_of(self.subject), inputs)
        with urllib3.PoolManager(retries=False) as pool:
            reply = pool.request("POST", self.url + self.path, body=body, headers=headers, timeout=timeout)
        return reply.status, {name.lower(): value for name, value in reply.headers.items()}, reply.data
