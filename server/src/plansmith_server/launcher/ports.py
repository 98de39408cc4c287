"""TCP ports: whether one is free, and finding free ones."""

from __future__ import annotations

import errno
import ipaddress
import socket
from contextlib import ExitStack

from plansmith_server.errors import InvalidOptions, PortInUse

__all__ = ["check_free", "find_free", "is_loopback", "resolve_host"]


def resolve_host(host: str) -> str:
    """The IPv4 address that `host` stands for; Triton's servers take an address.

    Args:
        host: an IPv4 address or a name that resolves to one.

    Raises:
        InvalidOptions: it resolves to no IPv4 address of this machine.
    """
    try:
        address = str(socket.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)[0][4][0])
        find_free(address, 1)
    except OSError as error:
        raise InvalidOptions(
            f"--host {host!r} is not an IPv4 address of this machine or a name of one: use 127.0.0.1, which only this "
            "machine can reach"
        ) from error
    return address


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach `address`."""
    return ipaddress.ip_address(address).is_loopback


def check_free(address: str, port: int, option: str) -> None:
    """Raise unless `port`, which `option` of the command line sets, can be listened on.

    Raises:
        PortInUse: another process listens there.
        InvalidOptions: the port needs privileges.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Triton binds: a port whose last connections still linger in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            # With SO_REUSEADDR a port that is only bound looks free until someone listens on it.
            probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"port {port} is in use on {address}: stop what listens there, or choose another one with"
                    f" {option} (0 takes a free one)"
                ) from error
            raise InvalidOptions(f"cannot listen on {address}:{port} ({error.strerror}): change {option}") from error


def find_free(address: str, count: int) -> list[int]:
    """`count` different ports that nothing listens on at this moment."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) for _ in range(count)]
        for probe in probes:
            probe.bind((address, 0))
        return [probe.getsockname()[1] for probe in probes]
