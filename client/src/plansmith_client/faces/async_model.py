"""One model of a server, for an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plansmith_client.calling.model_core import InferOptions
from plansmith_client.inputs.validation import output_names
from plansmith_client.transports.deadlines import Deadline

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping

    from numpy.typing import ArrayLike

    from plansmith_client.calling.client_core import ClientCore
    from plansmith_client.calling.drivers import AsyncDriver
    from plansmith_client.calling.model_core import ModelCore
    from plansmith_client.faces.async_sequences import AsyncModelSequence
    from plansmith_client.faces.batched import AsyncBatchedModel
    from plansmith_client.mapping.runs import AsyncMapRun
    from plansmith_client.protocol.classification import ClassScore
    from plansmith_client.protocol.metadata import ModelMetadata
    from plansmith_client.protocol.operations import ParameterValue
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.protocol.statistics import ModelStatistics

__all__ = ["AsyncModel"]


class AsyncModel:
    """One model of a server: await it with arrays. Made by `AsyncClient.model`; for the tasks of one event loop.

    Example:
        ```python
        model = client.model("add")
        result = await model(a, b)      # in the order of model.metadata.inputs
        result = await model(a=a, b=b)  # or by name
        result["sum"]
        ```
    """

    def __init__(self, client: ClientCore, core: ModelCore, driver: AsyncDriver) -> None:
        self._client = client
        self._core = core
        self._driver = driver

    @property
    def name(self) -> str:
        """The model's name."""
        return self._core.name

    @property
    def version(self) -> str:
        """The version asked for; empty where the server chooses."""
        return self._core.version

    @property
    def metadata(self) -> Awaitable[ModelMetadata]:
        """The model's inputs and outputs, to be awaited.

        They are read with the first use; again after `metadata_max_age`, before a request is refused by what an earlier
        call read, after the server refused one, and when a version answers that was not there before.

        Raises:
            ModelNotFound: the server has no such model or version.
            ModelNotReady: it exists but is not loaded.
            ServerUnavailable: nothing answers.
            DeadlineExceeded: the answer took longer than the client's timeout.
            AccessDenied: the server refuses to answer.
            ProtocolError: what answers is not an inference server.

        Example:
            ```python
            (await model.metadata).inputs[0].shape  # (-1, 64)
            ```
        """
        return self._driver.run(self._core.read_metadata(self._deadline()))

    async def is_ready(self, *, timeout: float | None = None) -> bool:
        """Whether the model is ready; also False if it does not exist or no server can be reached in time.

        Raises:
            AccessDenied: the server refuses to answer.
            ProtocolError: what answers is not an inference server.

        Example:
            ```python
            if await client.model("digits").is_ready(): ...
            ```
        """
        return await self._driver.run(self._core.is_ready(self._deadline(timeout)))

    async def wait_until_ready(self, *, timeout: float | None = None) -> None:
        """Wait until the model is ready, asking again and again.

        Raises:
            DeadlineExceeded: it was not ready before the timeout.
            AccessDenied: the server refuses to answer.
            ProtocolError: what answers is not an inference server.

        Example:
            ```python
            await client.model("digits").wait_until_ready(timeout=60)
            ```
        """
        await self._driver.run(self._core.wait_until_ready(self._deadline(timeout)))

    async def __call__(
        self, /, *positional: ArrayLike, timeout: float | None = None, **named: ArrayLike
    ) -> InferResult:
        """Run the model once: `infer` with the inputs by position, by name, or both.

        Args:
            positional: inputs by position.
            timeout: seconds that the call may take in total; the client's by default.
            named: inputs by name. Pass an input that is itself called `timeout` by position.

        Raises:
            InvalidInput: the inputs do not match the metadata; nothing was sent.
            ClientError: any other of the errors that `infer` lists.

        Example:
            ```python
            (await client.model("digits")(images)).array
            ```
        """
        return await self._driver.run(self._core.call(positional, named, self._deadline(timeout)))

    def submit(
        self, /, *positional: ArrayLike, timeout: float | None = None, **named: ArrayLike
    ) -> Future[InferResult]:
        """Begin to run the model, and go on: the task, which is awaited for the result and has `cancel()`.

        Args:
            positional: inputs by position.
            timeout: seconds from now; the client's by default.
            named: inputs by name. Pass an input that is itself called `timeout` by position.

        Raises:
            ClientClosed: the client has been closed. Other errors are those of the result, as for a call.

        Example:
            ```python
            pending = client.model("digits").submit(images)
            labels = (await pending).array.argmax(axis=1)  # or pending.cancel()
            ```
        """
        deadline = self._deadline(timeout)
        return self._driver.start(self._client, self._core, lambda core: core.call(positional, named, deadline))

    async def infer(
        self,
        inputs: Mapping[str, ArrayLike],
        *,
        outputs: Iterable[str] | None = None,
        request_id: str = "",
        parameters: Mapping[str, ParameterValue] | None = None,
        timeout: float | None = None,
    ) -> InferResult:
        """Run the model once.

        A batch larger than the model's largest is sent in several requests at once, whose outputs are joined.

        Args:
            inputs: by name, anything that numpy converts to an array; `plansmith_client.inputs.conversion` says which
                dtypes are accepted for which datatype. Shapes include the batch dimension.
            outputs: the outputs to compute and send; by default all of them.
            request_id: an identifier that the server gives back and writes to its log.
            parameters: parameters of the request, such as Triton's `priority`.
            timeout: seconds that the call may take in total; the client's by default.

        Returns:
            The outputs by name.

        Raises:
            InvalidInput: names, dtypes, shapes or batch do not match the metadata, and nothing was sent; or the server
                itself refuses the request.
            ModelNotFound: the server has no such model or version.
            ModelNotReady: it exists but is not loaded.
            InferenceFailed: the model failed on this request.
            ServerOverloaded: the server's queue is full.
            ServerUnavailable: nothing answers, or the connection broke.
            DeadlineExceeded: the timeout has passed.
            AccessDenied: the server wants credentials.
            ProtocolError: the answer is not one of the Open Inference Protocol.

        Example:
            ```python
            await client.model("add").infer({"a": a, "b": b}, outputs=["sum"], timeout=0.5)
            ```
        """
        options = InferOptions(outputs, request_id, parameters)
        return await self._driver.run(self._core.infer(inputs, options, self._deadline(timeout)))

    async def classify(
        self,
        /,
        *positional: ArrayLike,
        top: int = 1,
        output: str | None = None,
        timeout: float | None = None,
        **named: ArrayLike,
    ) -> list[list[ClassScore]]:
        """The classes with the largest values, picked and named by the server (Triton's classification extension).

        Args:
            positional: inputs by position.
            top: classes for each row.
            output: the output to pick from; may be left out where there is only one.
            timeout: seconds that the call may take in total; the client's by default.
            named: inputs by name. An input that is called like one of the arguments goes by position.

        Returns:
            For each row its classes, the largest value first.

        Raises:
            InvalidInput: `top` or `output` is not valid, or the inputs do not match the metadata.
            ProtocolError: the server does not know the extension.
            ClientError: any other of the errors that `infer` lists.

        Example:
            ```python
            for classes in await client.model("digits").classify(images, top=3):
                print([(found.label, found.score) for found in classes])
            ```
        """
        flow = self._core.classify(positional, named, top, output, self._deadline(timeout))
        return await self._driver.run(flow)

    def stream(
        self,
        inputs: Mapping[str, ArrayLike],
        *,
        outputs: Iterable[str] | None = None,
        request_id: str = "",
        parameters: Mapping[str, ParameterValue] | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[InferResult]:
        """Send one request and give its responses as they come: for decoupled models, which send any number.

        Closing the iterator with `aclose()` cancels the request. Each call has a stream of its own, so that any number
        can be in flight at once. Over HTTP it is Triton's generate extension (`generate_stream`), whose JSON has no
        shapes, FP16 or BF16: of an input's free dimensions, all but the last must be 1.

        Args:
            inputs: as for `infer`.
            outputs: as for `infer`.
            request_id: as for `infer`.
            parameters: as for `infer`.
            timeout: seconds until the last response has to have arrived; the client's by default, `math.inf` for none.

        Raises:
            InvalidInput: as for `infer`, or a shape that a stream over HTTP cannot carry.
            ClientError: any other of the errors that `infer` lists; responses may have been given before.

        Example:
            ```python
            async for result in grpc_client.model("repeat").stream({"count": [3], "value": [7.0]}):
                print(result["value"])
            ```
        """
        from plansmith_client.faces.async_streaming import responses  # noqa: PLC0415 - not for a first answer

        options = InferOptions(outputs, request_id, parameters)
        return responses(self._core, self._driver, inputs, options, self._deadline(timeout))

    def sequence(self, sequence_id: int | str | None = None, *, timeout: float | None = None) -> AsyncModelSequence:
        """A sequence of requests to a stateful model, as a context manager.

        Args:
            sequence_id: its identifier, an integer from 1 or a string; a random one by default.
            timeout: seconds that each step may take; the client's by default.

        Raises:
            InvalidInput: the identifier or the timeout is not valid.

        Example:
            ```python
            async with client.model("accumulate").sequence() as sequence:
                await sequence([[1.0]])
                total = (await sequence.end([[2.0]])).array  # [[3.0]]
            ```
        """
        from plansmith_client.faces.async_sequences import AsyncModelSequence  # noqa: PLC0415 - not for a first answer

        return AsyncModelSequence(self._core, self._driver, sequence_id, self._timeout(timeout))

    def map(
        self,
        source: AsyncIterable[Any] | Iterable[Any] | Mapping[str, ArrayLike],
        *,
        batch_size: int | str = "auto",
        concurrency: int = 4,
        ordered: bool = True,
        progress: bool | Callable[[int, int | None], None] = False,
        outputs: Iterable[str] | None = None,
        timeout: float | None = None,
        skip: int | Collection[int] = 0,
    ) -> AsyncMapRun:
        """Run the model on any number of items, in batches, with several requests in flight.

        Memory is bounded: the source is read as fast as results are taken. Items share batches with others of their
        shape, also where lengths alternate. An item that fails is reported in its place and the others go on; a batch
        that fails is halved until only the item at fault does. Where the server's queue is full, fewer requests are
        sent at once.

        Args:
            source: an array [items, ...], arrays by name, or anything that can be iterated, asynchronously too: each
                item an array without the batch dimension, a tuple of them in the order of the inputs, or a mapping by
                name. A data frame has a column for each input, or the features of the only one. Of a model that does
                not batch, each item is a whole request.
            batch_size: items in a request; `"auto"` is the model's largest batch, or less where items are large.
            concurrency: requests in flight at once.
            ordered: whether results come in the order of the items, or as they are done.
            progress: True for a bar on standard error; or a function of (items done, total or None).
            outputs: as for `infer`.
            timeout: seconds that each batch may take; the client's by default.
            skip: items that an earlier run has done: how many from the start, or a collection of indices.

        Returns:
            Iterate over it for `MappedItem`s, or call `collect()`.

        Raises:
            InvalidInput: an argument is not valid.
            ClientError: on iterating, if the metadata cannot be read. Errors of single items are in the items.

        Example:
            ```python
            async for item in client.model("digits").map(images):
                print(item.index, item.error or item.array.argmax())
            ```
        """
        from plansmith_client.mapping.batches import MapOptions  # noqa: PLC0415 - not for a first answer
        from plansmith_client.mapping.runs import AsyncMapRun  # noqa: PLC0415

        options = MapOptions(
            batch_size,
            concurrency,
            ordered,
            progress,
            output_names(outputs),
            self._timeout(timeout),
            skip,
        )
        return AsyncMapRun(self._core, self._driver, source, options)

    def batched(
        self, *, max_delay: float = 0.002, max_batch_size: int | None = None, timeout: float | None = None
    ) -> AsyncBatchedModel:
        """The model for many tasks that each have a few rows: their calls are sent as one batch.

        Args:
            max_delay: seconds that the first caller of a batch waits for others.
            max_batch_size: rows in a batch; the model's largest by default.
            timeout: seconds that a call may take in total; the client's by default.

        Raises:
            InvalidInput: an argument is not valid.

        Example:
            ```python
            batched = client.model("digits").batched()
            await batched(images[:1])  # in each of many tasks
            ```
        """
        from plansmith_client.faces.batched import AsyncBatchedModel  # noqa: PLC0415 - not for a first answer

        return AsyncBatchedModel(
            self._core,
            self._driver,
            max_delay=max_delay,
            max_batch_size=max_batch_size,
            timeout=self._timeout(timeout),
        )

    async def config(self, *, timeout: float | None = None) -> dict[str, Any]:
        """The model's whole configuration, by the names of Triton's `model_config.proto`.

        Raises:
            ProtocolError: the server has no such extension.
            ClientError: any other of the errors that `metadata` lists.

        Example:
            ```python
            (await client.model("digits").config())["dynamic_batching"]
            ```
        """
        return await self._driver.run(self._client.config(self._core, self._deadline(timeout)))

    async def statistics(self, *, timeout: float | None = None) -> tuple[ModelStatistics, ...]:
        """The server's statistics of each version of the model.

        Raises:
            ProtocolError: the server has no such extension.
            ClientError: any other of the errors that `metadata` lists.

        Example:
            ```python
            (await client.model("digits").statistics())[0].queue.mean  # seconds
            ```
        """
        return await self._driver.run(self._client.statistics(self.name, self.version, self._deadline(timeout)))

    def __repr__(self) -> str:
        version = f", version {self.version}" if self.version else ""
        return f"AsyncModel({self.name!r}{version} at {self._core.url})"

    def _timeout(self, timeout: float | None) -> float:
        return self._core.timeout if timeout is None else timeout

    def _deadline(self, timeout: float | None = None) -> Deadline:
        return Deadline(self._core.timeout if timeout is None else timeout)
