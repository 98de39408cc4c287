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

from plansmith_client.transports.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.deadlines import Deadline
    from plansmith_client.transports.proxies import Proxy

__all__ = ["LONGEST_WAIT", "connected_socket", "is_numeric"]

LONGEST_WAIT = 1e6
"""Seconds that a selector may wait at once: poll counts milliseconds in 32 bits."""

# What RFC 8305 recommends: how long an address is tried alone before the next one is tried as well.
_HEAD_START_SECONDS = 0.25


def connected_socket(address: Address, proxy: Proxy | None, deadline: Deadline) -> socket.socket:
    """A socket connected to the first address of the host that accepts, or to a proxy that leads there.

    Raises:
        OSError: the name has no address, or the last of its addresses refuses, or the proxy does; `TimeoutError` after
            the deadline.
        DeadlineExceeded: nothing is left of the deadline.
    """
    if proxy is not None:
        return _tunnelled(proxy, address, deadline)
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


def _tunnelled(proxy: Proxy, address: Address, deadline: Deadline) -> socket.socket:
    """A socket connected to a proxy, which for `https` has opened a tunnel to the address."""
    connection = connected_socket(proxy.address, None, deadline)
    try:
        if address.scheme == "https":
            connection.settimeout(deadline.remaining())
            connection.sendall(proxy.tunnel_request(address.target))
            reply = b""
            # A server of TLS says nothing before the client does: what comes is the proxy's reply alone.
            while not proxy.is_open(reply):
                connection.settimeout(deadline.remaining())
                reply += proxy.checked(connection.recv(4096))
    except BaseException:
        connection.close()
        raise
    return connection


def _connected_to_path(path: str, deadline: Deadline) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(deadline.remaining())
        connection.connect(path)
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
    wait = LONGEST_WAIT if remaining is None else min(remaining, LONGEST_WAIT)
    ready = selector.select(wait if next_at is None else min(wait, max(0.0, next_at - time.monotonic())))
    if not ready and next_at is None and wait < LONGEST_WAIT:
        raise TimeoutError("timed out")
    ended: list[tuple[socket.socket, OSError | None]] = []
    for key, _ in ready:
        connection: Any = key.fileobj
        number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        ended.append((connection, OSError(number, os.strerror(number)) if number else None))
    return ended
