"""The few questions that this package asks a running server, over HTTP on loopback."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

from plansmith_server.errors import StartFailed

__all__ = ["ModelState", "ask_index", "ask_live", "ask_version"]

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


def ask_live(address: str, port: int) -> bool:
    """Whether the server at `address` answers; False too while it does not listen yet."""
    try:
        return _call(address, port, "GET", "/v2/health/live")[0] == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False


def ask_version(address: str, port: int) -> str:
    """The version of Triton that answers."""
    return str(json.loads(_call(address, port, "GET", "/v2")[1])["version"])


def ask_index(address: str, port: int) -> list[dict[str, str]]:
    """The models of the repository: `name`, and `version`, `state` and `reason` where they apply.

    Raises:
        StartFailed: the server keeps them to itself.
    """
    status, body = _call(address, port, "POST", "/v2/repository/index")
    if status != http.HTTPStatus.OK:
        raise StartFailed(
            f"the server does not tell which models it has (HTTP status {status}): whether they are loaded cannot be "
            "known; leave model-repository out of --http-restricted-api"
        )
    index: list[dict[str, Any]] = json.loads(body)
    return [{key: str(value) for key, value in entry.items()} for entry in index]


def _call(address: str, port: int, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
