"""The server that a stream starts on: the next one is tried as long as no response has arrived."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_client.errors import ClientClosed, ClientError, DeadlineExceeded, ServerUnavailable

if TYPE_CHECKING:
    from plansmith_client.calling.servers import Server, Servers

__all__ = ["StreamServers"]


class StreamServers:
    """The servers that one stream may start on."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._tried: set[Server] = set()

    def choose(self) -> Server:
        """The server to start on; `Servers.release` must follow.

        Raises:
            ServerUnavailable: all have been tried, or their circuits are open.
        """
        server = self._servers.choose(self._tried)
        if server is None:
            raise self._servers.unavailable()
        self._tried.add(server)
        return server

    def may_begin_again(self, server: Server, error: ClientError, *, begun: bool) -> bool:
        """Whether the stream, which failed with this error, may start again on another server."""
        if isinstance(error, ServerUnavailable):
            self._servers.failed(server, error)
            # A response that the caller has received cannot be taken back.
            return not begun and len(self._tried) < len(self._servers.all())
        if not isinstance(error, (DeadlineExceeded, ClientClosed)):
            self._servers.succeeded(server)
        return False
