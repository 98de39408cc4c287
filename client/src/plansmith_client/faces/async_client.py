"""The client for an event loop."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from plansmith_client.calling.breaker import BreakerPolicy
from plansmith_client.calling.client_core import open_core
from plansmith_client.calling.client_options import ClientOptions
from plansmith_client.calling.drivers import AsyncDriver
from plansmith_client.calling.retries import RetryPolicy
from plansmith_client.faces.async_model import AsyncModel
from plansmith_client.protocol.operations import IsServerLive
from plansmith_client.transports import open_async_transport
from plansmith_client.transports.connections import LARGEST_ANSWER, hidden

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path
    from ssl import SSLContext
    from types import TracebackType

    from typing_extensions import Self

    from plansmith_client.calling.observers import Observer
    from plansmith_client.calling.servers import Balance
    from plansmith_client.protocol.metadata import ModelStatus, ServerMetadata
    from plansmith_client.protocol.statistics import ModelStatistics
    from plansmith_client.shared_memory.policy import SharedMemoryPolicy
    from plansmith_client.transports import Transports
    from plansmith_client.transports.connections import Compression

__all__ = ["AsyncClient"]


class AsyncClient:
    """A client of one or several servers of the Open Inference Protocol, over gRPC or HTTP with the same behaviour.

    For the tasks of an event loop, of one loop at a time: in another one the client opens connections of its own.
    Nothing is connected before the first call; `await close()`, or leaving the `async with` block, ends it. Proxies
    named in the environment are not used. Every method that asks a server takes `timeout`: seconds that the call may
    take in total; the client's by default.

    Args:
        url: `host:port` or `grpc://host:port` for gRPC, `grpcs://host:port` for gRPC over TLS, `http://host:port` or
            `https://host:port` for HTTP, `unix:///path` and `http+unix:///path` for gRPC and HTTP over a Unix socket;
            or a sequence of them, for servers of the same models.
        timeout: seconds that a call may take in total, with connecting, reading the metadata, retries and other
            servers; each call can have its own. `math.inf` for no deadline.
        token: a bearer token, or a function, `async` or not, that gives one for each call; by default that of the
            environment variable PLANSMITH_TOKEN, or of the file that PLANSMITH_TOKEN_FILE names.
        headers: headers of every call, such as the keys of Triton's restricted protocols; added to those of
            PLANSMITH_HEADERS, a JSON object. An `authorization` among them counts more than PLANSMITH_TOKEN.
        ca_file: the certificate authorities to trust, PEM; by default those of PLANSMITH_CA_FILE, or the system's.
        certificate_file: the client's own certificate for mutual TLS, PEM; by default PLANSMITH_CERTIFICATE_FILE.
        key_file: its private key; by default PLANSMITH_KEY_FILE.
        server_name: the name in the server's certificate, where it is not the URL's host.
        ssl_context: TLS as you have set it up, for `https://`, instead of the files above.
        proxy: an HTTP proxy, `http://[user:password@]host:port`, for all connections: with CONNECT, and absolute URLs
            for `http://`.
        token_over_plaintext: whether the token, or a header `authorization`, may travel unencrypted to another machine.
        compression: `"gzip"` or `"deflate"` for requests, and for answers where the server can.
        channels: gRPC connections to each server, at most 1024.
        largest_answer: bytes of the largest answer to accept, decompressed; a larger one is a ProtocolError.
        balance: how to choose among several servers: `"round_robin"` or `"least_outstanding"`.
        resolve: treat each address of a host name as a server of its own.
        retries: how often a request is sent again after an outage, or a `RetryPolicy`; 0 for never.
        breaker: the circuit breaker of each server, which stops requests to one that does not answer; None for none.
        hedge_after: seconds after which an unanswered inference is sent to a second server too; None for never.
        metadata_max_age: seconds after which a model's metadata is read again.
        cast: whether arrays of floats are rounded to the model's type, and integers taken where each fits exactly; by
            default an array that could lose something is refused.
        shared_memory: whether, or from which size on, tensors go through shared memory with a server on this host.
        observers: called around each operation, such as `plansmith_client.metrics.ClientMetrics`.
        transport: what answers instead of a server, for tests: a `plansmith_client.testing.FakeServer`.

    Raises:
        InvalidInput: an argument is not valid.

    Example:
        ```python
        async with AsyncClient("localhost:8001") as client:
            digits = client.model("digits")
            result = await digits(images)  # numpy in: float32 [n, 8, 8]
            labels = result["probabilities"].argmax(axis=1)  # numpy out: float32 [n, 10]
        ```
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        timeout: float = 30.0,
        token: str | Callable[[], str | Awaitable[str]] | None = None,
        headers: Mapping[str, str] | None = None,
        ca_file: str | Path | None = None,
        certificate_file: str | Path | None = None,
        key_file: str | Path | None = None,
        server_name: str | None = None,
        ssl_context: SSLContext | None = None,
        proxy: str | None = None,
        token_over_plaintext: bool = False,
        compression: Compression | None = None,
        channels: int = 1,
        largest_answer: int = LARGEST_ANSWER,
        balance: Balance = "round_robin",
        resolve: bool = False,
        retries: RetryPolicy | int = RetryPolicy(),  # noqa: B008 - immutable
        breaker: BreakerPolicy | None = BreakerPolicy(),  # noqa: B008 - immutable
        hedge_after: float | None = None,
        metadata_max_age: float = 300.0,
        cast: bool = False,
        shared_memory: SharedMemoryPolicy | bool = True,
        observers: Sequence[Observer] = (),
        transport: Transports | None = None,
    ) -> None:
        token, headers, proxy = hidden(token), hidden(headers), hidden(proxy)
        options = ClientOptions(
            timeout=timeout,
            token=token,
            headers=headers,
            ca_file=ca_file,
            certificate_file=certificate_file,
            key_file=key_file,
            server_name=server_name,
            ssl_context=ssl_context,
            proxy=proxy,
            token_over_plaintext=token_over_plaintext,
            compression=compression,
            channels=channels,
            largest_answer=largest_answer,
            balance=balance,
            resolve=resolve,
            retries=retries,
            breaker=breaker,
            hedge_after=hedge_after,
            metadata_max_age=metadata_max_age,
            cast=cast,
            shared_memory=shared_memory,
            observers=observers,
            transport=transport,
        )
        opener = open_async_transport if transport is None else transport.open_async_transport
        self._core = open_core(url, opener, options)
        self._driver = AsyncDriver()
        self._models: dict[tuple[str, str, str], AsyncModel] = {}

    @property
    def url(self) -> str:
        """The server's URL, as given; of several servers, with commas between."""
        return self._core.url

    @property
    def timeout(self) -> float:
        """Seconds that a call may take in total, unless it has a timeout of its own."""
        return self._core.timeout

    def with_options(self, *, timeout: float) -> Self:
        """The same client with another default for `timeout`, on the same connections; closing one closes both.

        Args:
            timeout: seconds that a call may take in total, unless it has a timeout of its own.

        Raises:
            InvalidInput: the timeout is not valid.

        Example:
            ```python
            patient = client.with_options(timeout=300)
            ```
        """
        other = copy.copy(self)
        other._core = self._core.with_timeout(timeout)  # noqa: SLF001 - another client
        other._models = {}  # noqa: SLF001
        return other

    async def is_live(self, *, timeout: float | None = None) -> bool:
        """Whether a server answers; False if none can be reached within the timeout.

        Raises:
            AccessDenied: the server refuses to answer.
            ProtocolError: what answers is not an inference server.

        Example:
            ```python
            if not await client.is_live(): ...
            ```
        """
        return await self._driver.run(self._core.caller.is_any(IsServerLive(), self._core.deadline(timeout)))

    async def is_ready(self, *, all_servers: bool = False, timeout: float | None = None) -> bool:
        """Whether a server and all its models are ready; False if none can be reached within the timeout.

        Triton started with `--strict-readiness=0` counts itself ready with models that are not.

        Args:
            all_servers: whether every server has to be ready, or one of them is enough.
            timeout: seconds that the call may take in total; the client's by default.

        Raises:
            AccessDenied: the server refuses to answer.
            ProtocolError: what answers is not an inference server.

        Example:
            ```python
            if await client.is_ready(): ...
            ```
        """
        return await self._driver.run(self._core.is_ready(self._core.deadline(timeout), all_servers=all_servers))

    async def wait_until_ready(self, *, timeout: float | None = None) -> None:
        """Wait until a server is ready, asking again and again.

        Raises:
            ServerUnavailable: it could not be reached before the timeout.
            DeadlineExceeded: it answered, but was not ready before the timeout.
            AccessDenied: the server refuses to answer.
            ProtocolError: what answers is not an inference server.

        Example:
            ```python
            await client.wait_until_ready(timeout=60)
            ```
        """
        await self._driver.run(self._core.wait_until_ready(self._core.deadline(timeout)))

    async def server_metadata(self, *, timeout: float | None = None) -> ServerMetadata:
        """The server's name, version, and the extensions of the protocol that it speaks.

        Raises:
            ServerUnavailable: nothing answers.
            DeadlineExceeded: the answer took longer than the timeout.
            AccessDenied: the server refuses to answer.
            ProtocolError: what answers is not an inference server.

        Example:
            ```python
            print((await client.server_metadata()).version)
            ```
        """
        return await self._driver.run(self._core.server_metadata(self._core.deadline(timeout)))

    async def models(self, *, timeout: float | None = None) -> tuple[ModelStatus, ...]:
        """Every version of every model in the server's repository, loaded or not.

        Raises:
            ProtocolError: the server has no index (an extension of the protocol), or is not an inference server.
            ClientError: any other of the errors that `server_metadata` lists.

        Example:
            ```python
            for model in await client.models():
                print(model.name, model.version, model.state)
            ```
        """
        return await self._driver.run(self._core.models(self._core.deadline(timeout)))

    def model(self, name: str, version: str = "", *, fallback: str = "") -> AsyncModel:
        """A model of the server. Nothing is sent: whether it exists shows with its first use.

        The same model is given for the same arguments, so that its metadata is read once.

        Args:
            name: the model's name.
            version: a number, as in `"3"`; empty leaves the choice to the server, which takes the newest.
            fallback: the name of another model with the same inputs, which is asked if this one is overloaded,
                fails, is not loaded or cannot be reached; `InferResult.model_name` tells which one answered.

        Raises:
            InvalidInput: the name is empty, the version is not a number, or the fallback is the model itself.

        Example:
            ```python
            await client.model("digits")(images)
            ```
        """
        core = self._core.model(name, version, fallback)
        known = self._models.get((name, version, fallback))
        if known is not None:
            return known
        return self._models.setdefault((name, version, fallback), AsyncModel(self._core, core, self._driver))

    async def statistics(self, *, timeout: float | None = None) -> tuple[ModelStatistics, ...]:
        """The server's statistics of each version of each model; with several servers, those of one.

        Raises:
            ProtocolError: the server has no such extension.
            ClientError: any other of the errors that `server_metadata` lists.

        Example:
            ```python
            for statistics in await client.statistics():
                print(statistics.name, statistics.inferences, statistics.compute_infer.mean)
            ```
        """
        return await self._driver.run(self._core.statistics("", "", self._core.deadline(timeout)))

    async def load_model(
        self,
        name: str,
        *,
        config: Mapping[str, Any] | str | None = None,
        files: Mapping[str, bytes | Path] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Load or reload a model on every server of the client.

        Args:
            name: the model's name.
            config: a configuration to use instead of the repository's, as JSON text or as a mapping.
            files: the model's files, sent along and used instead of the repository's, which need not have the model:
                contents, or local files, by their paths in the model's folder, such as `"1/model.onnx"`. Needs
                `config`. Over HTTP the server limits their size (Triton: 64 MiB by default).
            timeout: seconds; the client's by default, which large models may exceed.

        Raises:
            ModelNotFound: the repository has no such model.
            InvalidInput: the server is not started with explicit model control, or refuses the configuration; or the
                files are not valid.
            ClientError: any other; the model may be loaded on some servers then.

        Example:
            ```python
            await client.load_model("double")
            ```
        """
        await self._driver.run(self._core.load(name, config, files, self._core.deadline(timeout)))

    async def unload_model(self, name: str, *, dependents: bool = False, timeout: float | None = None) -> None:
        """Unload a model on every server of the client.

        A server first finishes the requests in flight, and may still do so when this returns.

        Args:
            name: the model's name.
            dependents: whether the models of an ensemble go with it.
            timeout: seconds; the client's by default.

        Raises:
            InvalidInput: the server is not started with explicit model control.
            ClientError: any other.

        Example:
            ```python
            await client.unload_model("double")
            ```
        """
        await self._driver.run(self._core.unload(name, self._core.deadline(timeout), dependents=dependents))

    async def trace_settings(self, model: str = "", *, timeout: float | None = None, **changes: Any) -> dict[str, Any]:
        """Change trace settings and give all of them, each a list of strings.

        Args:
            model: the model whose settings are changed; empty for the server's own.
            timeout: seconds that the call may take in total; the client's by default.
            changes: new values; None goes back to the default.

        Raises:
            ClientError: the server refuses them, or cannot be reached.

        Example:
            ```python
            (await client.trace_settings())["trace_rate"]
            ```
        """
        return await self._driver.run(self._core.trace_settings(model, changes, self._core.deadline(timeout)))

    async def log_settings(self, *, timeout: float | None = None, **changes: bool | int | str) -> dict[str, Any]:
        """Change the server's log settings and give all of them.

        Args:
            timeout: seconds that the call may take in total; the client's by default.
            changes: new values, such as `log_verbose_level=1`.

        Raises:
            ClientError: the server refuses them, or cannot be reached.

        Example:
            ```python
            await client.log_settings(log_verbose_level=0)
            ```
        """
        return await self._driver.run(self._core.log_settings(changes, self._core.deadline(timeout)))

    async def close(self) -> None:
        """End the connections and give shared memory back; may be called again.

        Later calls raise ClientClosed, and so may those in flight.

        Example:
            ```python
            await client.close()
            ```
        """
        for server in self._core.caller.servers.close():
            if server.shared_memory is not None:
                await self._driver.run(server.shared_memory.close())
            await server.transport.close()
        await self._driver.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        # A traceback with local variables also shows one whose options were refused.
        return f"AsyncClient({self._core.url if hasattr(self, '_core') else ''!r})"
