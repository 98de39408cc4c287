"""What runs flows: a thread that blocks, or an event loop that awaits."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from plansmith_client.calling.flows import AnyOf, FirstOf, Pause, Resolve, Send, Together
from plansmith_client.errors import InvalidInput
from plansmith_client.transports.failures import client_closed
from plansmith_client.transports.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from plansmith_client.calling.attempts import Caller
    from plansmith_client.calling.client_core import ClientCore
    from plansmith_client.calling.flows import Flow, Result, Step
    from plansmith_client.calling.model_core import ModelCore

__all__ = ["AsyncDriver", "SyncDriver"]

# How long a client that is closed waits for what was submitted.
_GRACE_SECONDS = 0.5


class SyncDriver:
    """Drives flows by blocking the calling thread. Starts threads only for work that runs concurrently."""

    def __init__(self) -> None:
        self._loops: dict[int, _BackgroundLoop] = {}
        self._closed = False

    def start(
        self, client: ClientCore, model: ModelCore, make_flow: Callable[[ModelCore], Flow[Result]]
    ) -> concurrent.futures.Future[Result]:
        """Drive a flow while the caller goes on; cancelling the future cancels requests in flight.

        The event loop of a thread drives it, over connections of its own: only there can a request be cancelled. Where
        the system starts no thread, or the interpreter is ending, the caller does the work before this returns.

        Raises:
            ClientClosed: the client has been closed.
        """
        future = None
        if not self._closed:
            # After a fork the thread is in the parent.
            known = self._loops.get(os.getpid())
            if known is None:
                made = _BackgroundLoop(client.open_async_caller())
                if not made.has_begun():
                    return self._done(make_flow(model))
                known = self._loops.setdefault(os.getpid(), made)
                if known is not made:
                    made.end()
            future = known.start(model, make_flow)
            if self._closed:
                # Meanwhile, by another thread.
                self.close()
        if future is None:
            raise client_closed(client.url)
        return future

    def _done(self, flow: Flow[Result]) -> concurrent.futures.Future[Result]:
        future: concurrent.futures.Future[Result] = concurrent.futures.Future()
        try:
            future.set_result(self.run(flow))
        except Exception as error:  # noqa: BLE001 - passed to who asks for the result
            future.set_exception(error)
        return future

    def close(self) -> None:
        """End what `start` has begun."""
        self._closed = True
        known = self._loops.pop(os.getpid(), None)
        if known is not None:
            known.end()

    def run(self, flow: Flow[Result]) -> Result:
        """Drive a flow to its end.

        Raises:
            ClientError: what the flow raises.
        """
        try:
            step = next(flow)
            while True:
                try:
                    if type(step) is Send:
                        given = step.transport.call(step.operation, step.deadline, step.headers)
                    else:
                        given = self._take(step)
                except BaseException as error:  # noqa: BLE001, PERF203 - Ctrl-C too lets the flow clear up
                    step = flow.throw(error)
                else:
                    step = flow.send(given)
        except StopIteration as end:
            result: Result = end.value
            return result

    def _take(self, step: Step) -> Any:
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        if isinstance(step, Resolve):
            with _looking_up(step) as future:
                concurrent.futures.wait([future], step.seconds)
                return future.result() if future.done() else ()
        if isinstance(step, Together):
            return self._together(step)
        if isinstance(step, FirstOf):
            return self._first_of(step)
        if isinstance(step, AnyOf):
            return self._any_of(step)
        raise TypeError(f"{step!r} is not a step of a flow")

    def _together(self, step: Together) -> list[Any]:
        at_once = min(step.at_once, len(step.flows))
        if at_once <= 1:
            return [self.run(flow) for flow in step.flows]
        with contextlib.closing(Workers(at_once, "plansmith-part")) as workers:
            parts = [workers.submit(self.run, flow) for flow in step.flows]
            try:
                return [part.result() for part in parts]
            except Exception:
                workers.close()
                concurrent.futures.wait(parts)
                raise

    def _first_of(self, step: FirstOf) -> Any:
        with contextlib.closing(Workers(2, "plansmith-hedge")) as workers:
            futures = [workers.submit(self.run, step.first)]
            try:
                if not concurrent.futures.wait(futures, step.after).done:
                    futures.append(workers.submit(self.run, step.make_second()))
                for ended in concurrent.futures.as_completed(futures):
                    if ended.exception() is None:
                        return ended.result()
                return futures[0].result()
            finally:
                for deadline in step.deadlines:
                    deadline.cancel()

    def _any_of(self, step: AnyOf) -> bool:
        if len(step.flows) == 1:
            return self.run(step.flows[0])
        with contextlib.closing(Workers(len(step.flows), "plansmith-probe")) as workers:
            futures = [workers.submit(self.run, flow) for flow in step.flows]
            for ended in concurrent.futures.as_completed(futures):
                if ended.exception() is None and ended.result():
                    return True
            # No yes: the first error counts.
            return any(future.result() for future in futures)


class AsyncDriver:
    """Drives flows on the running event loop."""

    def start(
        self,
        client: ClientCore,  # noqa: ARG002 - as of `SyncDriver`
        model: ModelCore,
        make_flow: Callable[[ModelCore], Flow[Result]],
    ) -> asyncio.Future[Result]:
        """Drive a flow in a task of its own.

        Raises:
            InvalidInput: no event loop is running.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError as error:
            raise InvalidInput("submit of an AsyncClient needs a running event loop: call it in a coroutine") from error
        return loop.create_task(self.run(make_flow(model)))

    async def close(self) -> None:
        """Nothing: tasks are the caller's."""

    async def run(self, flow: Flow[Result]) -> Result:
        """Drive a flow to its end; cancelling the task cancels requests in flight.

        Raises:
            ClientError: what the flow raises.
        """
        try:
            step = next(flow)
            while True:
                try:
                    if type(step) is Send:
                        given = await step.transport.call(step.operation, step.deadline, step.headers)
                    else:
                        given = await self._take(step)
                except BaseException as error:  # noqa: BLE001, PERF203 - cancellation too lets the flow clear up
                    step = flow.throw(error)
                else:
                    step = flow.send(given)
        except StopIteration as end:
            result: Result = end.value
            return result

    async def _take(self, step: Step) -> Any:
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        if isinstance(step, Resolve):
            with _looking_up(step) as future:
                looking = asyncio.wrap_future(future)
                await asyncio.wait([looking], timeout=step.seconds)
                return looking.result() if looking.done() else ()
        if isinstance(step, Together):
            return await self._together(step)
        if isinstance(step, FirstOf):
            return await self._first_of(step)
        if isinstance(step, AnyOf):
            return await self._any_of(step)
        raise TypeError(f"{step!r} is not a step of a flow")

    async def _together(self, step: Together) -> list[Any]:
        slots = asyncio.Semaphore(step.at_once)

        async def in_turn(flow: Flow[Any]) -> Any:
            async with slots:
                return await self.run(flow)

        return await _all_or_none([in_turn(flow) for flow in step.flows])

    async def _first_of(self, step: FirstOf) -> Any:
        first = asyncio.ensure_future(self.run(step.first))
        tasks = [first]
        try:
            await asyncio.wait(tasks, timeout=step.after)
            if not first.done():
                tasks.append(asyncio.ensure_future(self.run(step.make_second())))
            pending = set(tasks)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task.exception() is None:
                        return task.result()
            return first.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _any_of(self, step: AnyOf) -> bool:
        tasks = [asyncio.ensure_future(self.run(flow)) for flow in step.flows]
        try:
            for ended in asyncio.as_completed(tasks):
                with contextlib.suppress(Exception):
                    if await ended:
                        return True
            # No yes: the first error counts.
            return any([await task for task in tasks])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class _BackgroundLoop:
    """An event loop in a thread, and what asks the servers from it."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._driver = AsyncDriver()
        # Weakly: `with_options` makes others, for each call perhaps.
        self._models: WeakKeyDictionary[ModelCore, ModelCore] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._has_ended = False
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="plansmith-submit", daemon=True)

    def has_begun(self) -> bool:
        """Start the thread, if one can be started; else nothing stays open."""
        try:
            self._thread.start()
        except RuntimeError:
            self.loop.close()
            return False
        return True

    def start(
        self, model: ModelCore, make_flow: Callable[[ModelCore], Flow[Result]]
    ) -> concurrent.futures.Future[Result] | None:
        """The future of a flow; None after `end`."""
        known = self._models.get(model) or self._models.setdefault(model, model.asked_by(self._caller))
        with self._lock:
            if self._has_ended:
                return None
            return asyncio.run_coroutine_threadsafe(self._driver.run(make_flow(known)), self.loop)

    def end(self) -> None:
        with self._lock:
            # Whatever `start` was called for before ends as well.
            self._has_ended = True
            ending = asyncio.run_coroutine_threadsafe(self._end(), self.loop)
        ending.add_done_callback(lambda _: self.loop.call_soon_threadsafe(self.loop.stop))
        # A future's callback may close the client, and runs in this very thread.
        if threading.current_thread() is not self._thread:
            ending.result()
            self._thread.join()

    def _work(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    async def _end(self) -> None:
        servers = self._caller.servers.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            # Most are about to be answered. Triton 2.51 may end with SIGSEGV where gRPC cancels such a call.
            await asyncio.wait(others, timeout=_GRACE_SECONDS)
        for server in servers:
            if server.shared_memory is not None:
                await self._driver.run(server.shared_memory.close())
            await server.transport.close()
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def _all_or_none(work: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    tasks = [asyncio.ensure_future(part) for part in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _looking_up(step: Resolve) -> Iterator[concurrent.futures.Future[tuple[str, ...]]]:
    """What a thread of its own finds: the system's resolver has no deadline, and cannot be cancelled."""
    with contextlib.closing(Workers(1, "plansmith-lookup")) as workers:
        yield workers.submit(_look_up, step.host, step.port)


def _look_up(host: str, port: int) -> tuple[str, ...]:
    with contextlib.suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return tuple(dict.fromkeys(str(address[0]) for *_, address in found))
    return ()
