"""Who may use Triton's administrative APIs over HTTP.

A page in the user's browser reaches 127.0.0.1 too, and Triton checks neither Host nor Origin nor Content-Type. So these
APIs require a header with a random value. It is not secret from users of this machine: they can read the command line
of tritonserver (the only place where Triton accepts it) and reach gRPC, which stays open because browsers cannot speak
it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plansmith_server.errors import InvalidOptions
from plansmith_server.launcher.triton_arguments import values_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plansmith_server.launcher.options import ServerOptions

__all__ = ["AdminAccess", "restrict"]

HEADER = "plansmith-secret"
OPTION = "--http-restricted-api"
# With shared memory a client reaches the memory of the backends (CVE-2025-23320, CVE-2025-23334), with logging and
# trace the server's files; to load a model is to run its code.
ALWAYS = ("shared-memory", "logging", "trace")
EXPLICIT = "model-repository"


@dataclass(frozen=True, slots=True)
class AdminAccess:
    """How a server restricts its HTTP APIs.

    Attributes:
        arguments: for tritonserver, besides those that the user gave.
        headers: a request with these may use every API.
    """

    arguments: tuple[str, ...]
    headers: Mapping[str, str]


def restrict(options: ServerOptions) -> AdminAccess:
    """Restrict what is neither opened by `options.open_admin` nor restricted by `options.triton_arguments`.

    Raises:
        InvalidOptions: the arguments give one header two values.
    """
    headers: dict[str, str] = {}
    restricted: set[str] = set()
    for value in values_of(OPTION, options.triton_arguments):
        apis, _, header = value.partition(":")
        key, _, secret = header.partition("=")
        # Names of headers have no case.
        name = key.strip().lower()
        if headers.setdefault(name, secret.strip()) != secret.strip():
            raise InvalidOptions(
                f"{OPTION} asks for two values of the header {name!r}, and a request has one: give both the same value,"
                " or one of them another header"
            )
        restricted.update(api.strip() for api in apis.split(","))
    if options.open_admin:
        return AdminAccess((), headers)
    wanted = (*ALWAYS, EXPLICIT) if options.control == "explicit" else ALWAYS
    apis = ",".join(api for api in wanted if api not in restricted)
    if not apis:
        return AdminAccess((), headers)
    # A user who restricts APIs by this header has chosen its value.
    secret = headers.setdefault(HEADER, secrets.token_hex(16))
    return AdminAccess((f"{OPTION}={apis}:{HEADER}={secret}",), headers)
