"""The few HTTP calls that this package makes to a running server, on loopback."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plansmith_server.errors import StartFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Endpoint", "ModelState"]

TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ModelState:
    """One version of a model, as the server sees it.

    Attributes:
        name: of the model.
        version: its number, or "" where no version could be chosen.
        state: "READY", "LOADING", "UNLOADING" or "UNAVAILABLE".
        reason: why it is not ready, in one sentence, or "".
        config: the file its configuration was read from, relative to the model's folder.
    """

    name: str
    version: str
    state: str
    reason: str
    config: str

    @property
    def is_ready(self) -> bool:
        """Whether it answers requests."""
        return self.state == "READY"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server's HTTP endpoint.

    Attributes:
        address: an IPv4 address.
        port: of HTTP.
        headers: for every request; those that open its restricted APIs.
    """

    address: str
    port: int
    headers: Mapping[str, str]

    def is_live(self) -> bool:
        """Whether the server answers; False too while it does not listen yet."""
        try:
            return self._call("GET", "/v2/health/live")[0] == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def version(self) -> str:
        """The version of Triton that answers.

        Raises:
            StartFailed: the server does not answer.
        """
        return str(self._ask("GET", "/v2")["version"])

    def index(self) -> list[dict[str, str]]:
        """The models of the repository: `name`, and `version`, `state` and `reason` where they apply.

        Raises:
            StartFailed: the server does not answer.
        """
        entries: list[dict[str, Any]] = self._ask("POST", "/v2/repository/index")
        return [{key: str(value) for key, value in entry.items()} for entry in entries]

    def _ask(self, method: str, path: str) -> Any:
        try:
            status, body = self._call(method, path)
        except (OSError, http.client.HTTPException) as error:
            raise StartFailed(f"the server does not answer on {self.address}:{self.port} ({error})") from error
        if status != http.HTTPStatus.OK:
            raise StartFailed(
                f"the server answers {path} with HTTP status {status}: {body[:200].decode(errors='replace')}"
            )
        return json.loads(body)

    def _call(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, self.port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, path, headers=dict(self.headers))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
