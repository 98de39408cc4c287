"""How a server with an HTTP interface of its own is asked, and what load it gets."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import urllib3

from peers.bodies import BodyFormat, decode_body, encode_body, inputs_of, outputs_of
from peers.processes import PeerFailed
from peers.worker import BodyPlan
from plansmith_client import Client
from plansmith_perf.comparing.contestants import Contestant
from plansmith_perf.load.encoded_requests import write_requests

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from plansmith_perf.load.requests import CheckedRequest

__all__ = ["BodyContestant"]

_TIMEOUT_SECONDS = 60.0
_NOT_READY = (404, 503)


@dataclass(kw_only=True)
class BodyContestant(Contestant):
    """A server with an HTTP interface of its own.

    Attributes:
        url: "http://host:port".
        path: of what answers.
        body_format: of requests and answers.
    """

    url: str
    path: str
    body_format: BodyFormat

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

    def write(self, folder: Path, requests: Sequence[CheckedRequest]) -> None:
        """See Contestant."""
        # The answers are written down in the one form that every worker reads; the bodies then replace the others.
        with Client(self.subject.server.grpc_url) as client:
            model = client.model(self.subject.model.name)
            write_requests(folder, model, requests, over_http=False, binary=True)
        for number, request in enumerate(requests):
            body, headers = encode_body(self.body_format, inputs_of(self.subject), request.inputs)
            stem = folder / f"{number:06}"
            stem.with_suffix(".request").write_bytes(body)
            stem.with_suffix(".headers").write_text(json.dumps(headers), encoding="utf-8")

    def plans(self, shares: Sequence[Mapping[str, Any]]) -> Sequence[BodyPlan]:
        """See Contestant."""
        own = {
            "url": self.url,
            "path": self.path,
            "body": self.body_format,
            "outputs": [(tensor.name, tensor.dtype) for tensor in outputs_of(self.subject)],
        }
        return [BodyPlan.model_validate({**share, **own, "at_first": share["concurrency"]}) for share in shares]

    def _post(self, inputs: Mapping[str, NDArray[Any]], *, timeout: float) -> tuple[int, dict[str, str], bytes]:
        body, headers = encode_body(self.body_format, inputs_of(self.subject), inputs)
        with urllib3.PoolManager(retries=False) as pool:
            reply = pool.request("POST", self.url + self.path, body=body, headers=headers, timeout=timeout)
        return reply.status, {name.lower(): value for name, value in reply.headers.items()}, reply.data
