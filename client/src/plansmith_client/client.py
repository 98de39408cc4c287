"""The client of one server."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from plansmith_client.addresses import Address
from plansmith_client.deadlines import Deadline
from plansmith_client.errors import (
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    ServerOverloaded,
    ServerUnavailable,
)
from plansmith_client.model import Model
from plansmith_client.operations import IsServerLive, IsServerReady, ListModels, ReadServerMetadata
from plansmith_client.transports import open_transport
from plansmith_client.validation import check_text

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from plansmith_client.metadata import ModelStatus, ServerMetadata
    from plansmith_client.operations import Operation

__all__ = ["Client"]

_POLL_SECONDS = 0.1


class Client:
    """A client of one server of the Open Inference Protocol, over gRPC or HTTP with the same behaviour.

    Safe to use from many threads at once. Nothing is connected before the first call; `close()`, or leaving the `with`
    block, ends it. Proxies named in the environment are not used.

    Args:
        url: `host:port` or `grpc://host:port` for gRPC, `grpcs://host:port` for gRPC over TLS, `http://host:port` or
            `https://host:port` for HTTP.
        timeout: seconds that a call may take in all, connecting and reading the metadata included; each call can have
            its own. `math.inf` for no deadline.

    Raises:
        InvalidInput: the URL or the timeout is not of these forms.

    Example:
        ```python
        with Client("localhost:8001") as client:
            digits = client.model("digits")
            result = digits(images)  # numpy in: float32 [n, 64]
            labels = result["probabilities"].argmax(axis=1)  # numpy out: float32 [n, 10]
        ```
    """

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        address = Address.parse(url)
        Deadline(timeout)
        self._timeout = timeout
        self._transport = open_transport(address)
        self._url = url
        self._models: dict[tuple[str, str], Model] = {}

    @property
    def url(self) -> str:
        """The server's URL, as given."""
        return self._url

    @property
    def timeout(self) -> float:
        """Seconds that a call may take in all, unless it is given a timeout of its own."""
        return self._timeout

    def is_live(self) -> bool:
        """Whether the server answers; False where it cannot be reached within the timeout.

        Raises:
            AccessDenied: the server refuses to tell.
            ProtocolError: something else than an inference server answers.

        Example:
            ```python
            if not client.is_live(): ...
            ```
        """
        return self._ask(IsServerLive())

    def is_ready(self) -> bool:
        """Whether the server and all its models are ready; False where it cannot be reached within the timeout.

        Triton started with `--strict-readiness=0` counts itself ready with models that are not.

        Raises:
            AccessDenied: the server refuses to tell.
            ProtocolError: something else than an inference server answers.

        Example:
            ```python
            if client.is_ready(): ...
            ```
        """
        return self._ask(IsServerReady())

    def wait_until_ready(self, *, timeout: float | None = None) -> None:
        """Return when the server is ready, asking it again and again.

        Args:
            timeout: seconds; the client's by default.

        Raises:
            ServerUnavailable: it could not be reached until the timeout.
            DeadlineExceeded: it answered, but was not ready until the timeout.
            AccessDenied: the server refuses to tell.
            ProtocolError: something else than an inference server answers.

        Example:
            ```python
            client.wait_until_ready(timeout=60)
            ```
        """
        deadline = self._deadline(timeout)
        not_ready = DeadlineExceeded(f"The server at {self._url} was not ready within {deadline.timeout:g} s")
        failure: ClientError = not_ready
        try:
            while True:
                try:
                    if self._transport.call(IsServerReady(), deadline):
                        return
                    failure = not_ready
                except (ServerUnavailable, ServerOverloaded) as error:
                    failure = error
                remaining = deadline.remaining()
                time.sleep(_POLL_SECONDS if remaining is None else min(_POLL_SECONDS, remaining))
        except DeadlineExceeded as passed:
            raise failure from passed

    def server_metadata(self) -> ServerMetadata:
        """The server's name, version, and the extensions of the protocol that it speaks.

        Raises:
            ServerUnavailable: nothing answers.
            DeadlineExceeded: the answer took longer than the timeout.
            AccessDenied: the server refuses to tell.
            ProtocolError: something else than an inference server answers.

        Example:
            ```python
            print(client.server_metadata().version)
            ```
        """
        return self._transport.call(ReadServerMetadata(), self._deadline())

    def models(self) -> tuple[ModelStatus, ...]:
        """Every version of every model in the server's repository, loaded or not.

        Raises:
            ServerUnavailable: nothing answers.
            DeadlineExceeded: the answer took longer than the timeout.
            AccessDenied: the server keeps its index to itself.
            ProtocolError: the server has no index (it is an extension of the protocol), or is no inference server.

        Example:
            ```python
            for model in client.models():
                print(model.name, model.version, model.state)
            ```
        """
        return self._transport.call(ListModels(), self._deadline())

    def model(self, name: str, version: str = "") -> Model:
        """A model of the server. Nothing is sent: whether it exists shows with its first use.

        The same model is given for the same name and version, so that its metadata is read once.

        Args:
            name: the model's name.
            version: a number, as in `"3"`; empty leaves the choice to the server, which takes the newest.

        Raises:
            InvalidInput: the name is empty, or the version is not a number.

        Example:
            ```python
            client.model("digits")(images)
            ```
        """
        if not check_text("model name", name):
            raise InvalidInput("The model name is empty: client.models() lists those of the server")
        if not isinstance(version, str) or (version and not (version.isascii() and version.isdigit())):
            raise InvalidInput(f"Model {name!r}: given version {version!r}, expected a number in a string, as in '3'")
        known = self._models.get((name, version))
        if known is not None:
            return known
        return self._models.setdefault((name, version), Model(self._transport, self._timeout, self._url, name, version))

    def close(self) -> None:
        """End the connections. Later calls raise ClientClosed, and so may those under way. May be called again.

        Example:
            ```python
            client.close()
            ```
        """
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._url!r})"

    def _deadline(self, timeout: float | None = None) -> Deadline:
        return Deadline(self._timeout if timeout is None else timeout)

    def _ask(self, question: Operation[bool]) -> bool:
        with contextlib.suppress(ServerUnavailable, ServerOverloaded, DeadlineExceeded):
            return self._transport.call(question, self._deadline())
        return False
