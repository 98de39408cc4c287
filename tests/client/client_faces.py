"""The four faces of the client behind one: gRPC and HTTP, blocking and asynchronous, so that one test runs over all.

`Blocking` wraps an asynchronous object and answers like its blocking counterpart, on an event loop in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading

from plansmith_client import AsyncClient, Client

FACES = ("grpc", "http", "grpc-async", "http-async")


def url_of(face: str, server) -> str:
    return server.grpc_url if face.startswith("grpc") else server.http_url


@contextlib.contextmanager
def open_client(face: str, url: str | list[str], **options):
    """A client of this face, with the methods of `Client`."""
    if not face.endswith("async"):
        with Client(url, **options) as client:
            yield client
        return
    with event_loop() as loop, Blocking(AsyncClient(url, **options), loop) as client:
        yield client


@contextlib.contextmanager
def event_loop():
    """An event loop that runs in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _started(start, *arguments, **named):
    return await start(*arguments, **named)


class Blocking:
    """Waits for whatever the object behind it makes one await."""

    def __init__(self, behind, loop: asyncio.AbstractEventLoop) -> None:
        self._behind = behind
        self._loop = loop

    def __getattr__(self, name: str):
        value = getattr(self._behind, name)
        if name == "submit":
            # It starts a task of the running loop.
            return lambda *arguments, **named: self._await(_started(value, *arguments, **named))
        if inspect.ismethod(value):
            return lambda *arguments, **named: self._given(value(*arguments, **named))
        return self._given(value)

    def __call__(self, *arguments, **named):
        return self._given(self._behind(*arguments, **named))

    def __iter__(self):
        return self._iterated(self._behind)

    def __enter__(self):
        if hasattr(self._behind, "__aenter__"):
            self._await(self._behind.__aenter__())
        return self

    def __exit__(self, *problem) -> None:
        self._await(self._behind.__aexit__(*problem))

    def _given(self, value):
        if inspect.isawaitable(value):
            return self._given(self._await(value))
        if inspect.isasyncgen(value):
            return self._iterated(value)
        return Blocking(value, self._loop) if type(value).__name__.startswith("Async") else value

    def _iterated(self, source):
        iterator = source.__aiter__()
        try:
            while True:
                try:
                    yield self._await(anext(iterator))
                except StopAsyncIteration:
                    return
        finally:
            self._await(iterator.aclose())

    def _await(self, awaitable):
        async def wait():
            return await awaitable

        future = asyncio.run_coroutine_threadsafe(wait(), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
