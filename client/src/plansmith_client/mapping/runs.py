"""`Model.map` and `AsyncModel.map`: many rows through one model, with several requests in flight."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections import deque
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any

from plansmith_client.errors import ClientError
from plansmith_client.mapping.batches import items_are_rows, make_batcher
from plansmith_client.mapping.mapped import InOrder, MappedItem, Piece, is_first_error_known, items_of, join_pieces
from plansmith_client.mapping.progress import progress_of
from plansmith_client.mapping.scoring import Pace, score
from plansmith_client.transports.deadlines import Deadline
from plansmith_client.transports.workers import Workers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator

    from plansmith_client.calling.drivers import AsyncDriver, SyncDriver
    from plansmith_client.calling.model_core import ModelCore
    from plansmith_client.mapping.batches import Batch, MapOptions
    from plansmith_client.protocol.results import InferResult

__all__ = ["AsyncMapRun", "MapRun"]

# A batch that is done before an earlier one waits for it; at most this many wait for each request in flight.
_READ_AHEAD = 4


class MapRun:
    """What `Model.map` gives: iterate over it for one item after another, or `collect()` all at once.

    Example:
        ```python
        scores = client.model("digits").map(images).collect()["probabilities"]  # float32 [n, 10]
        ```
    """

    def __init__(self, core: ModelCore, driver: SyncDriver, source: Any, options: MapOptions) -> None:
        self._core = core
        self._driver = driver
        self._source = source
        self._options = options

    def __iter__(self) -> Iterator[MappedItem]:
        in_order = InOrder(self._options.skips, self._options.skip if isinstance(self._options.skip, int) else 0)
        for rows, piece in self._pieces():
            items = items_of(piece, batches=rows)
            yield from in_order.due(items) if self._options.ordered else items

    def collect(self) -> InferResult:
        """All rows in one result.

        Returns:
            The outputs by name, each [items, ...], in the order of the items.

        Raises:
            ClientError: the error of the first item that failed.
            InvalidInput: there were no items, or the items' outputs have different shapes.

        Example:
            ```python
            client.model("digits").map(images).collect()
            ```
        """
        pieces: list[Piece] = []
        rows = True
        failed = False
        with contextlib.closing(self._pieces()) as done:
            for as_rows, piece in done:
                rows = as_rows
                pieces.append(piece)
                failed = failed or isinstance(piece.outcome, ClientError)
                if failed and self._options.ordered and is_first_error_known(pieces, self._options.skips):
                    break
        return join_pieces(pieces, batches=rows)

    def _pieces(self) -> Generator[tuple[bool, Piece], None, None]:
        options, core = self._options, self._core
        deadline = Deadline(options.timeout)
        rows, (make_batches, source, total) = self._driver.run(
            core.by_metadata(
                lambda known: (
                    items_are_rows(known, self._source, options),
                    make_batcher(core, known, self._source, options),
                ),
                deadline,
            )
        )
        pace = Pace(options.concurrency)
        running: deque[concurrent.futures.Future[list[Piece]]] = deque()

        def work(batch: Batch) -> list[Piece]:
            return self._driver.run(score(core, batch, deadline.part(), pace))

        with (
            progress_of(options.progress, total, core.name) as advance,
            contextlib.closing(Workers(options.concurrency, "plansmith-map")) as workers,
        ):
            for batch in make_batches(source):
                while len(busy := [future for future in running if not future.done()]) >= pace.limit:
                    concurrent.futures.wait(busy, return_when=concurrent.futures.FIRST_COMPLETED)
                if len(running) >= options.concurrency * _READ_AHEAD:
                    concurrent.futures.wait([running[0]])
                yield from ((rows, piece) for piece in _taken(running, advance, ordered=options.ordered))
                running.append(workers.submit(work, batch))
            while running:
                waited = [running[0]] if options.ordered else running
                concurrent.futures.wait(waited, return_when=concurrent.futures.FIRST_COMPLETED)
                yield from ((rows, piece) for piece in _taken(running, advance, ordered=options.ordered))


class AsyncMapRun:
    """What `AsyncModel.map` gives: iterate over it with `async for`, or `await collect()`.

    Example:
        ```python
        async for item in client.model("digits").map(images):
            print(item.index, item.array.argmax())
        ```
    """

    def __init__(self, core: ModelCore, driver: AsyncDriver, source: Any, options: MapOptions) -> None:
        self._core = core
        self._driver = driver
        self._source = source
        self._options = options

    async def __aiter__(self) -> AsyncIterator[MappedItem]:
        in_order = InOrder(self._options.skips, self._options.skip if isinstance(self._options.skip, int) else 0)
        async for rows, piece in self._pieces():
            items = items_of(piece, batches=rows)
            for item in in_order.due(items) if self._options.ordered else items:
                yield item

    async def collect(self) -> InferResult:
        """All rows in one result; see `MapRun.collect`.

        Returns:
            The outputs by name, each [items, ...], in the order of the items.

        Raises:
            ClientError: the error of the first item that failed.
            InvalidInput: there were no items, or the items' outputs have different shapes.

        Example:
            ```python
            (await client.model("digits").map(images).collect())["probabilities"]
            ```
        """
        pieces: list[Piece] = []
        rows = True
        failed = False
        async with contextlib.aclosing(self._pieces()) as done:
            async for as_rows, piece in done:
                rows = as_rows
                pieces.append(piece)
                failed = failed or isinstance(piece.outcome, ClientError)
                if failed and self._options.ordered and is_first_error_known(pieces, self._options.skips):
                    break
        return join_pieces(pieces, batches=rows)

    async def _pieces(self) -> AsyncGenerator[tuple[bool, Piece], None]:
        options, core = self._options, self._core
        pace = Pace(options.concurrency)
        running: deque[asyncio.Task[list[Piece]]] = deque()

        async def work(batch: Batch) -> list[Piece]:
            return await self._driver.run(score(core, batch, deadline.part(), pace))

        deadline, arriving = Deadline(options.timeout), isinstance(self._source, AsyncIterable)
        given = () if arriving else self._source
        rows, (make_batches, source, total) = await self._driver.run(
            core.by_metadata(
                lambda known: (items_are_rows(known, given, options), make_batcher(core, known, given, options)),
                deadline,
            )
        )
        if arriving:
            source, total = self._source, None
        with progress_of(options.progress, total, core.name) as advance:
            try:
                async for batch in _batches(make_batches, source):
                    while len(busy := [task for task in running if not task.done()]) >= pace.limit:
                        await asyncio.wait(busy, return_when=asyncio.FIRST_COMPLETED)
                    if len(running) >= options.concurrency * _READ_AHEAD:
                        await asyncio.wait([running[0]])
                    for piece in _taken(running, advance, ordered=options.ordered):
                        yield rows, piece
                    running.append(asyncio.ensure_future(work(batch)))
                while running:
                    waited = [running[0]] if options.ordered else list(running)
                    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                    for piece in _taken(running, advance, ordered=options.ordered):
                        yield rows, piece
            finally:
                for task in running:
                    task.cancel()
                await asyncio.gather(*running, return_exceptions=True)


async def _batches(make_batches: Callable[..., Iterator[Batch]], source: Any) -> AsyncIterator[Batch]:
    """The batches of a source, which may be an asynchronous one."""
    if isinstance(source, AsyncIterable):
        index = 0
        async for item in source:
            for batch in make_batches([(index, item)], more=True):
                yield batch
            index += 1
        source = ()
    for batch in make_batches(source):
        yield batch


def _taken(
    running: deque[concurrent.futures.Future[list[Piece]]] | deque[asyncio.Task[list[Piece]]],
    advance: Callable[[int], None],
    *,
    ordered: bool,
) -> list[Piece]:
    """The pieces that are due: from the front up to the first unfinished one, or all that are done."""
    if ordered:
        done = []
        while running and running[0].done():
            done.append(running.popleft())
    else:
        done = [future for future in running if future.done()]
        for future in done:
            running.remove(future)  # type: ignore[arg-type]
    pieces = [piece for future in done for piece in future.result()]
    advance(sum(len(piece.indices) for piece in pieces))
    return pieces
