"""The servers of a client: which one is next, and whether each of them answers."""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from plansmith_client.calling.breaker import Breaker, BreakerPolicy
from plansmith_client.calling.flows import Pause, Resolve
from plansmith_client.calling.shared_memory_sending import SharedMemory
from plansmith_client.errors import ServerUnavailable
from plansmith_client.shared_memory.policy import SharedMemoryPolicy
from plansmith_client.transports.addresses import is_loopback
from plansmith_client.transports.failures import client_closed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from plansmith_client.calling.flows import Flow
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.connections import Connection
    from plansmith_client.transports.deadlines import Deadline

__all__ = ["Balance", "Server", "Servers"]

Balance = Literal["round_robin", "least_outstanding"]

# The addresses of a name may change: containers come and go.
_LOOK_UP_SECONDS = 30.0
_LOOK_UP_AGAIN_SECONDS = 1.0
_WAIT_FOR_LOOK_UP_SECONDS = 0.005
_LOG = logging.getLogger("plansmith_client")


class Server:
    """One server: its address, its transport and its circuit breaker."""

    __slots__ = ("address", "breaker", "last_failure", "outstanding", "shared_memory", "transport")

    def __init__(
        self, address: Address, transport: Any, policy: BreakerPolicy, shared_memory: SharedMemory | None
    ) -> None:
        self.address = address
        self.transport = transport
        self.shared_memory = shared_memory
        self.breaker = Breaker(policy)
        self.outstanding = 0
        self.last_failure: ServerUnavailable | None = None


class Servers:
    """All servers of a client, which are assumed to serve the same models.

    Args:
        addresses: one or more.
        connection: how to connect to each.
        open_transport: makes what carries messages to an address.
        balance: `"round_robin"`, or `"least_outstanding"`: the server with the fewest requests in flight.
        breaker: when the circuit of a server that does not answer opens.
        resolve: treat each address of a host name as a server of its own; names are looked up every 30 s, and sooner
            while a server cannot be reached.
        shared_memory: when large inputs go through shared memory; True for the default, False for never.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        connection: Connection,
        open_transport: Callable[[Address, Connection], Any],
        *,
        balance: Balance,
        breaker: BreakerPolicy,
        resolve: bool,
        shared_memory: SharedMemoryPolicy | bool,
    ) -> None:
        self._addresses = tuple(addresses)
        self._connection = connection
        self._open_transport = open_transport
        self._counts = balance == "least_outstanding"
        self._breaker = breaker
        self.resolves = resolve
        self._shared_memory = SharedMemoryPolicy() if shared_memory is True else shared_memory
        self.has_answered = False
        self._look_up_at = -math.inf if resolve else math.inf
        self._looking_up = False
        self._look_ups = 0
        self._next = 0
        self._lock = threading.Lock()
        self._closed = False
        self._retired: list[Server] = []
        self._servers: tuple[Server, ...] = ()
        if not resolve:
            self._servers = tuple(self._open(address, connection) for address in addresses)

    @property
    def urls(self) -> str:
        """The URLs of the servers, as the caller wrote them."""
        return ", ".join(address.url for address in self._addresses)

    def all(self) -> tuple[Server, ...]:
        """Every server; empty until names have been looked up."""
        return self._servers

    def look_up(self, deadline: Deadline) -> Flow[None]:
        """Look host names up, if `resolve` is set and it is time: once for all calls that wait for the addresses.

        Raises:
            DeadlineExceeded: another call's lookup took too long.
            ClientClosed: the client has been closed.
        """
        if self._closed:
            raise client_closed(self.urls)
        with self._lock:
            if time.monotonic() < self._look_up_at or (self._looking_up and self._servers):
                return
            first, seen = not self._looking_up, self._look_ups
            self._looking_up = True
        if not first:
            while self._look_ups == seen:
                deadline.remaining()
                yield Pause(_WAIT_FOR_LOOK_UP_SECONDS)
            return
        try:
            found: dict[tuple[str, int], tuple[Address, Connection]] = {}
            complete = True
            for address in self._addresses:
                patience = deadline.remaining()
                if self._servers or len(self._addresses) > 1:
                    # The call is to reach those that are known, or have other names.
                    longest = _LOOK_UP_AGAIN_SECONDS if self._servers else _LOOK_UP_SECONDS
                    patience = min(longest, math.inf if patience is None else patience / 2)
                hosts = (
                    (address.host,) if address.socket_path else (yield Resolve(address.host, address.port, patience))
                )
                complete = complete and bool(hosts)
                for host in hosts:
                    named = replace(self._connection, server_name=self._connection.server_name or address.host)
                    url = address.url if host == address.host else f"{address.url} ({host})"
                    found.setdefault((host, address.port), (address._replace(host=host, url=url), named))
            self._replace(found, complete=complete)
        finally:
            with self._lock:
                self._looking_up = False
                self._look_ups += 1

    def choose(self, tried: Collection[Server]) -> Server | None:
        """The server to ask next; None if all have been tried.

        `release` has to follow.

        Raises:
            ClientClosed: the client has been closed.
        """
        servers = self._servers
        if len(servers) == 1 and not (tried or self._counts or self._closed) and servers[0].breaker.is_closed:
            # Without the lock, for which many threads would wait on each other.
            return servers[0]
        with self._lock:
            if self._closed:
                raise client_closed(self.urls)
            fresh = [server for server in self._servers if server not in tried] if tried else self._servers
            usable = [server for server in fresh if server.breaker.is_closed]
            due = [server for server in fresh if not server.breaker.is_closed and server.breaker.wait() <= 0]
            if due:
                # One request at a time probes the server; meanwhile the others go to another one.
                chosen = due[0]
                chosen.breaker.probing()
            elif not usable and fresh:
                # All circuits are open: the server whose cooldown ends first may be back, which beats an error.
                chosen = min(fresh, key=lambda server: server.breaker.wait())
            elif not usable:
                return None
            elif self._counts:
                offset = self._next % len(usable)
                chosen = min(usable[offset:] + usable[:offset], key=lambda server: server.outstanding)
            else:
                chosen = usable[self._next % len(usable)]
            self._next += 1
            if self._counts:
                chosen.outstanding += 1
            return chosen

    def release(self, server: Server) -> None:
        """The request to a chosen server has ended."""
        if self._counts:
            with self._lock:
                server.outstanding -= 1

    def succeeded(self, server: Server) -> None:
        """The server answered, if only with an error."""
        self.has_answered = True
        # The common case takes no lock.
        if server.breaker.failures:
            with self._lock:
                if not server.breaker.is_closed:
                    _LOG.info("Circuit closed: %s answers again", server.address.url)
                server.breaker.succeeded()

    def failed(self, server: Server, error: ServerUnavailable) -> None:
        """The server could not be reached, or its connection broke."""
        with self._lock:
            server.last_failure = error
            if self.resolves:
                # It may have moved.
                self._look_up_at = min(self._look_up_at, time.monotonic() + _LOOK_UP_AGAIN_SECONDS)
            was_closed = server.breaker.is_closed
            server.breaker.failed()
            if was_closed and not server.breaker.is_closed:
                _LOG.warning("Circuit open for %.2g s: %s", server.breaker.wait(), error)

    def timed_out(self, server: Server) -> None:
        """No answer came in time: counted as a failure only while another server could answer instead."""
        with self._lock:
            if any(other.breaker.is_closed for other in self._servers if other is not server):
                server.breaker.failed()

    def unavailable(self) -> ServerUnavailable:
        """The error for a call that finds no server to ask."""
        if not self._servers:
            return ServerUnavailable(f"No server at {self.urls}: the name has no address; correct the URL")
        last = next((server.last_failure for server in self._servers if server.last_failure is not None), None)
        seconds = min(server.breaker.wait() for server in self._servers)
        return ServerUnavailable(
            f"{last or self.urls}. Not asked again for {max(seconds, 0.1):,.1f} s after several failures in a row"
        )

    def reopen(self) -> None:
        """Forget all connections and locks: after a fork they belong to the parent."""
        self._lock = threading.Lock()
        self._looking_up = False
        for server in self._servers:
            server.outstanding = 0
            server.transport.reopen()
            if server.shared_memory is not None:
                server.shared_memory.reopen()

    def close(self) -> tuple[Server, ...]:
        """Refuse further calls; returns the servers, whose transports the caller closes."""
        with self._lock:
            self._closed = True
            return (*self._servers, *self._retired)

    def _open(self, address: Address, connection: Connection) -> Server:
        if address.socket_path:
            # Proxies lead to hosts.
            connection = replace(connection, proxy=None)
        transport = self._open_transport(address, connection)
        shared_memory = None
        if self._shared_memory and is_loopback(address.host) and connection.proxy is None:
            shared_memory = SharedMemory(transport, self._shared_memory, address.url)
        return Server(address, transport, self._breaker, shared_memory)

    def _replace(self, found: dict[tuple[str, int], tuple[Address, Connection]], *, complete: bool) -> None:
        with self._lock:
            if self._closed:
                # Meanwhile: nobody would close what is opened now.
                raise client_closed(self.urls)
            if found or self._servers:
                self._look_up_at = time.monotonic() + (_LOOK_UP_SECONDS if complete else _LOOK_UP_AGAIN_SECONDS)
            known = {(server.address.host, server.address.port): server for server in self._servers}
            servers = tuple(
                known.pop(key) if key in known else self._open(address, connection)
                for key, (address, connection) in found.items()
            )
            if not complete:
                # A name server that fails for a moment has not moved the servers.
                self._servers = (*servers, *known.values())
                return
            if self._servers and set(servers) != set(self._servers):
                _LOG.info("The servers are now %s", ", ".join(server.address.url for server in servers))
            self._servers = servers
            # Requests may be in flight on a removed server: all of it is closed with the client.
            self._retired.extend(known.values())
        for server in known.values():
            server.transport.close_idle()
