# Written by client/unasync.py from async_streaming.py: edit that file, and run `make unasync`.
"""Responses one after another: the streams of decoupled models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_client.calling.observers import tell_of_attempt
from plansmith_client.calling.stream_servers import StreamServers
from plansmith_client.errors import ClientError, InvalidInput, ModelNotFound, ModelNotReady

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import ArrayLike

    from plansmith_client.calling.drivers import SyncDriver
    from plansmith_client.calling.model_core import InferOptions, ModelCore
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.transports.deadlines import Deadline

__all__ = ["responses"]


def responses(
    core: ModelCore, driver: SyncDriver, inputs: Mapping[str, ArrayLike], options: InferOptions, deadline: Deadline
) -> Iterator[InferResult]:
    """The responses of a model; the next server is asked as long as no response has come."""
    operation = driver.run(core.stream_request(inputs, options, deadline))
    servers = core.caller.servers
    with core.caller.observing(operation) as headers:
        driver.run(servers.look_up(deadline))
        candidates = StreamServers(servers)
        while True:
            server = candidates.choose()
            begun = False
            tell_of_attempt(core.caller.observers, operation, server.address)
            stream = server.transport.stream(operation, deadline, headers)
            try:
                for result in stream:
                    begun = True
                    core.check_response(operation, result)
                    yield result
            except ClientError as error:
                if candidates.may_begin_again(server, error, begun=begun):
                    continue
                if isinstance(error, (ModelNotFound, ModelNotReady)):
                    raise driver.run(core.refused(error, deadline)) from error.__cause__
                if isinstance(error, InvalidInput):
                    core.forget()
                raise
            else:
                servers.succeeded(server)
                return
            finally:
                servers.release(server)
                stream.close()
