"""Connecting to a host of several addresses, "happy eyeballs" (RFC 8305): one that does not answer delays nobody."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ipaddress
import os
import selectors
import socket
import time
from functools import partial
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any

from plansmith_client.transports.http.exchanges import is_timeout
from plansmith_client.transports.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.deadlines import Deadline
    from plansmith_client.transports.proxies import Proxy

__all__ = ["is_numeric", "opened_socket"]

# What RFC 8305 recommends: how long an address is tried alone before the next one is tried as well.
_HEAD_START_SECONDS = 0.25


def opened_socket(address: Address, proxy: Proxy | None, deadline: Deadline) -> socket.socket:
    """A socket connected to the first address of the host that accepts, or to a proxy that leads there.

    For `https` the proxy has opened a tunnel to the address. The socket may block or not.

    Raises:
        OSError: the name has no address, the last of its addresses refuses, or the proxy does; `TimeoutError` after the
            deadline.
        DeadlineExceeded: nothing is left of the deadline.
    """
    if proxy is None:
        return _connected(address, deadline)
    try:
        connection = _connected(proxy.address, deadline)
    except OSError as error:
        if is_timeout(error):
            raise
        raise OSError(f"the proxy {proxy.address.target} cannot be reached: {error.strerror or error}") from error
    try:
        if address.scheme == "https":
            proxy.open_tunnel(connection, address.target, deadline)
    except BaseException:
        connection.close()
        raise
    return connection


def is_numeric(host: str) -> bool:
    """Whether a host is an address, and no name to look up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _connected(address: Address, deadline: Deadline) -> socket.socket:
    if address.socket_path:
        return _connected_to_path(address.socket_path, deadline)
    failure = OSError("the name has no address")
    waiting = _alternating(_addresses(address, deadline))
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or selector.get_map():
                if waiting:
                    try:
                        _start(waiting.pop(0), selector)
                    except OSError as error:
                        failure = error
                        continue
                next_at = time.monotonic() + _HEAD_START_SECONDS if waiting else None
                for connection, problem in _ended(selector, next_at, deadline):
                    if problem is None:
                        selector.unregister(connection)
                        return connection
                    selector.unregister(connection)
                    connection.close()
                    failure = problem
        finally:
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]
    raise failure


def _connected_to_path(path: str, deadline: Deadline) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(deadline.remaining())
        connection.connect(path)
    except BaseException:
        connection.close()
        raise
    return connection


def _addresses(address: Address, deadline: Deadline) -> list[tuple[Any, ...]]:
    look_up = partial(socket.getaddrinfo, address.host, address.port, type=socket.SOCK_STREAM)
    try:
        if is_numeric(address.host):
            return look_up()
        # A name server that says nothing takes its time, and the system's resolver has no deadline.
        with contextlib.closing(Workers(1, "plansmith-lookup")) as workers:
            return workers.submit(look_up).result(deadline.remaining())
    except UnicodeError as error:
        raise OSError(f"{address.host!r} is not a valid host name") from error
    except concurrent.futures.TimeoutError as error:
        raise TimeoutError("timed out") from error


def _alternating(found: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The addresses, those of the two families in turn, in the resolver's order."""
    places = list(found)
    first = [place for place in places if place[0] == places[0][0]]
    second = [place for place in places if place[0] != places[0][0]]
    return [place for place in chain.from_iterable(zip_longest(first, second)) if place is not None]


def _start(place: tuple[Any, ...], selector: selectors.BaseSelector) -> None:
    family, kind, protocol, _, where = place
    connection = socket.socket(family, kind, protocol)
    try:
        connection.setblocking(False)  # noqa: FBT003
        with contextlib.suppress(BlockingIOError):
            connection.connect(where)
        selector.register(connection, selectors.EVENT_WRITE)
    except BaseException:
        connection.close()
        raise


def _ended(
    selector: selectors.BaseSelector, next_at: float | None, deadline: Deadline
) -> list[tuple[socket.socket, OSError | None]]:
    """The attempts that have ended, each with its error: at least one, or none at `next_at`."""
    remaining = deadline.remaining()
    limits = [remaining, None if next_at is None else max(0.0, next_at - time.monotonic())]
    ready = selector.select(min((limit for limit in limits if limit is not None), default=None))
    if not ready and next_at is None:
        raise TimeoutError("timed out")
    ended: list[tuple[socket.socket, OSError | None]] = []
    for key, _ in ready:
        connection: Any = key.fileobj
        number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        ended.append((connection, OSError(number, os.strerror(number)) if number else None))
    return ended
