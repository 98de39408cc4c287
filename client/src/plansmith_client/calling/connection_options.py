"""How to connect, from a client's options and the environment."""

from __future__ import annotations

import json
import os
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from plansmith_client.errors import InvalidInput
from plansmith_client.transports.addresses import is_loopback
from plansmith_client.transports.connections import Connection, checked_headers, checked_token, hidden

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from plansmith_client.calling.client_options import ClientOptions
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.proxies import Proxy

__all__ = ["connection_from"]

# Each is a connection with threads of its own; all are opened at once.
_MOST_CHANNELS = 1024
_HOST_NAME = r"[A-Za-z0-9._:-]+"


def connection_from(addresses: tuple[Address, ...], options: ClientOptions) -> Connection:
    """The connection that the options describe; environment variables fill in options that are not given.

    These are PLANSMITH_TOKEN, PLANSMITH_TOKEN_FILE (read again for each call, since such tokens are renewed),
    PLANSMITH_HEADERS (a JSON object; a header given as an option wins), PLANSMITH_CA_FILE, PLANSMITH_CERTIFICATE_FILE
    and PLANSMITH_KEY_FILE.

    Raises:
        InvalidInput: an option or variable is not valid, or a token would travel unencrypted to another machine.
    """
    certificate, key = _file("CERTIFICATE_FILE", options.certificate_file), _file("KEY_FILE", options.key_file)
    if (certificate is None) != (key is None):
        raise InvalidInput("Mutual TLS needs both certificate_file and key_file; one of them is missing")
    compression, channels, server_name = options.compression, options.channels, options.server_name
    if compression is not None and (not isinstance(compression, str) or compression not in ("gzip", "deflate")):
        raise InvalidInput(f"compression must be 'gzip', 'deflate' or None, got {compression!r}")
    for name, number in (("channels", channels), ("largest_answer", options.largest_answer)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InvalidInput(f"{name} must be a whole number from 1, got {number!r}")
    if channels > _MOST_CHANNELS:
        raise InvalidInput(f"channels must be at most {_MOST_CHANNELS}, got {channels}")
    if server_name is not None and not (isinstance(server_name, str) and re.fullmatch(_HOST_NAME, server_name)):
        raise InvalidInput(f"server_name must be a host name, got {server_name!r}")
    proxy = None if options.proxy is None else _proxy(options.proxy)
    given_headers = checked_headers({} if options.headers is None else options.headers)
    # What is given counts more than the environment, where that has another kind of credentials.
    make_token = _token_maker("" if options.token is None and "authorization" in given_headers else options.token)
    headers = {**checked_headers(_environment_headers()), **given_headers}
    if (make_token is not None or "authorization" in headers) and not options.token_over_plaintext:
        for address in addresses:
            is_direct = proxy is None or address.socket_path or is_loopback(proxy.address.host)
            near = is_loopback(address.host) and is_direct
            if address.scheme in ("grpc", "http") and not near:
                raise InvalidInput(
                    f"The token would travel unencrypted to {address.url}: use grpcs:// or https://, or pass "
                    "token_over_plaintext=True if the network itself encrypts"
                )
    return Connection(
        _file("CA_FILE", options.ca_file),
        certificate,
        key,
        server_name,
        make_token,
        headers,
        compression,
        channels,
        _context(addresses, options),
        proxy,
        options.largest_answer,
    )


def _proxy(url: str) -> Proxy:
    from plansmith_client.transports.proxies import Proxy  # noqa: PLC0415 - few have one

    return Proxy.parse(url)


def _context(addresses: tuple[Address, ...], options: ClientOptions) -> ssl.SSLContext | None:
    context = options.ssl_context
    if context is not None and not isinstance(context, ssl.SSLContext):
        raise InvalidInput(f"ssl_context must be an ssl.SSLContext, got {context!r}")
    if context is not None and (
        options.ca_file or options.certificate_file or any(address.scheme != "https" for address in addresses)
    ):
        raise InvalidInput(
            "ssl_context is for https:// alone, and holds certificates of its own: for grpcs://, pass ca_file, "
            "certificate_file and key_file"
        )
    return context


def _file(variable: str, given: str | Path | None) -> Path | None:
    if given is not None and not isinstance(given, (str, Path)):
        raise InvalidInput(f"{variable.lower()} must be a path, as a string or a pathlib.Path, got {given!r}")
    path = os.fspath(given) if given is not None else os.environ.get(f"PLANSMITH_{variable}")
    if not path:
        return None
    if not os.path.isfile(path):  # noqa: PTH113 - pathlib raises for a name that is too long
        raise InvalidInput(f"{variable.lower()} must be a PEM file, and {path} is not a file")
    return Path(path)


def _environment_headers() -> dict[str, str]:
    text = hidden(os.environ.get("PLANSMITH_HEADERS"))
    if not text:
        return {}
    try:
        headers = hidden(json.loads(text))
    except (ValueError, RecursionError) as error:
        # Without its text: headers hold keys.
        raise InvalidInput(
            "PLANSMITH_HEADERS must be a JSON object of header names and values, and is not valid JSON"
        ) from error
    if not isinstance(headers, dict):
        raise InvalidInput("PLANSMITH_HEADERS must be a JSON object of header names and values")
    return headers


def _token_maker(
    token: str | Callable[[], str | Awaitable[str]] | None,
) -> Callable[[], str | Awaitable[str]] | None:
    if callable(token):
        return token
    if token is not None and not isinstance(token, str):
        checked_token(token)
    if token is None and (path := os.environ.get("PLANSMITH_TOKEN_FILE")):
        return lambda: _read_token(Path(path))
    fixed = hidden(os.environ.get("PLANSMITH_TOKEN") if token is None else token)
    if not fixed:
        return None
    checked = checked_token(fixed)
    return lambda: checked


def _read_token(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"The token in {path} (PLANSMITH_TOKEN_FILE) cannot be read") from error
