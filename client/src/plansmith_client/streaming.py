"""Responses one after another: the streams of decoupled models, begun on a server that answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plansmith_client.errors import ClientClosed, ClientError, DeadlineExceeded, ServerUnavailable
from plansmith_client.servers import Server, Servers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from numpy.typing import ArrayLike

    from plansmith_client.deadlines import Deadline
    from plansmith_client.drivers import AsyncDriver, SyncDriver
    from plansmith_client.model_core import ModelCore, Wish
    from plansmith_client.results import InferResult


__all__ = ["responses", "responses_async"]


def responses(
    core: ModelCore, driver: SyncDriver, inputs: Mapping[str, ArrayLike], wish: Wish, deadline: Deadline
) -> Iterator[InferResult]:
    """The responses of a model; the next server is asked as long as no response has come."""
    operation = driver.run(core.stream_request(inputs, wish, deadline))
    servers, tried = core.caller.servers, set[Server]()
    driver.run(servers.look_up())
    while True:
        server = _next_server(servers, tried)
        begun = False
        try:
            for result in server.transport.stream(operation, deadline):
                begun = True
                yield result
        except ClientError as error:
            if not _may_go_elsewhere(servers, server, error, tried, begun=begun):
                raise
        else:
            servers.succeeded(server)
            return
        finally:
            servers.release(server)


async def responses_async(
    core: ModelCore, driver: AsyncDriver, inputs: Mapping[str, ArrayLike], wish: Wish, deadline: Deadline
) -> AsyncIterator[InferResult]:
    """The same on an event loop."""
    operation = await driver.run(core.stream_request(inputs, wish, deadline))
    servers, tried = core.caller.servers, set[Server]()
    await driver.run(servers.look_up())
    while True:
        server = _next_server(servers, tried)
        begun = False
        stream = server.transport.stream(operation, deadline)
        try:
            async for result in stream:
                begun = True
                yield result
        except ClientError as error:
            if not _may_go_elsewhere(servers, server, error, tried, begun=begun):
                raise
        else:
            servers.succeeded(server)
            return
        finally:
            servers.release(server)
            await stream.aclose()


def _next_server(servers: Servers, tried: set[Server]) -> Server:
    server = servers.choose(tried)
    if server is None:
        raise servers.unavailable()
    tried.add(server)
    return server


def _may_go_elsewhere(servers: Servers, server: Server, error: ClientError, tried: set[Any], *, begun: bool) -> bool:
    if isinstance(error, ServerUnavailable):
        servers.failed(server, error)
        # A response that has been given cannot be taken back.
        return not begun and len(tried) < len(servers.all())
    if not isinstance(error, (DeadlineExceeded, ClientClosed)):
        servers.succeeded(server)
    return False
