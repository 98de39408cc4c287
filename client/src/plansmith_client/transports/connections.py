"""How a client connects and what it shows of itself: TLS, credentials, headers, compression."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from plansmith_client.addresses import is_loopback
from plansmith_client.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from plansmith_client.addresses import Address
    from plansmith_client.client_options import ClientOptions

__all__ = ["Compression", "Connection", "connection_from"]

Compression = Literal["gzip", "deflate"]

# RFC 9110: a field name is a token. What HTTP and gRPC set themselves is not the caller's.
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_HOST_NAME = re.compile(r"[A-Za-z0-9._:-]+")
_OWN_HEADERS = {
    *("host", "connection", "content-length", "content-type", "content-encoding", "accept-encoding", "te"),
    *("transfer-encoding", "inference-header-content-length", "user-agent"),
}


@dataclass(frozen=True, slots=True)
class Connection:
    """How to connect. Credentials stay out of `repr`, so that they stay out of logs.

    Attributes:
        ca_file: the authorities to trust, PEM; None for the system's.
        certificate_file: the client's own certificate, PEM, for mutual TLS.
        key_file: its private key, PEM.
        server_name: the name to expect in the server's certificate, where it is not the URL's host.
        make_token: gives the bearer token of a call, or None.
        headers: sent with every call.
        compression: of requests; servers may compress answers with the same.
        channels: gRPC connections to spread calls over.
    """

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    server_name: str | None = None
    make_token: Callable[[], str] | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    compression: Compression | None = None
    channels: int = 1

    def call_headers(self, more: Mapping[str, str]) -> dict[str, str]:
        """The headers of one call, its token among them.

        Raises:
            InvalidInput: the token, which may have been renewed, cannot be read or sent.
        """
        headers = {**self.headers, **more}
        if self.make_token is not None:
            headers["authorization"] = f"Bearer {_checked_token(self.make_token())}"
        return headers

    def read_pem(self, path: Path | None) -> bytes | None:
        """The bytes of one of the files, None for None.

        Raises:
            InvalidInput: it cannot be read.
        """
        try:
            return None if path is None else path.read_bytes()
        except OSError as error:
            raise InvalidInput(f"{path} cannot be read: {error.strerror or error}") from error


def connection_from(addresses: tuple[Address, ...], options: ClientOptions) -> Connection:
    """What the options say, and the environment where they say nothing.

    The environment: PLANSMITH_TOKEN, PLANSMITH_TOKEN_FILE (read anew for each call, since such tokens are renewed),
    PLANSMITH_HEADERS (a JSON object; a header among the options wins), PLANSMITH_CA_FILE, PLANSMITH_CERTIFICATE_FILE,
    PLANSMITH_KEY_FILE.

    Raises:
        InvalidInput: one of them is not what it should be, or a token would travel unencrypted to another machine.
    """
    certificate, key = _file("CERTIFICATE_FILE", options.certificate_file), _file("KEY_FILE", options.key_file)
    if (certificate is None) != (key is None):
        raise InvalidInput("Mutual TLS needs both certificate_file and key_file; one of them is missing")
    compression, channels, server_name = options.compression, options.channels, options.server_name
    if compression not in (None, "gzip", "deflate"):
        raise InvalidInput(f"compression={compression!r} is not one of 'gzip', 'deflate' and None")
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise InvalidInput(f"channels={channels!r} is not a number of connections from 1")
    if server_name is not None and not (isinstance(server_name, str) and _HOST_NAME.fullmatch(server_name)):
        raise InvalidInput(f"server_name={server_name!r} is not the name of a host")
    make_token = _token_maker(options.token)
    if make_token is not None and not options.token_over_plaintext:
        for address in addresses:
            if address.scheme in ("grpc", "http") and not is_loopback(address.host):
                raise InvalidInput(
                    f"The token would travel unencrypted to {address.url}: use grpcs:// or https://, or say "
                    "token_over_plaintext=True where the network itself encrypts"
                )
    return Connection(
        _file("CA_FILE", options.ca_file),
        certificate,
        key,
        server_name,
        make_token,
        {**_checked_headers(_environment_headers()), **_checked_headers(options.headers or {})},
        compression,
        channels,
    )


def _file(variable: str, given: str | Path | None) -> Path | None:
    path = os.fspath(given) if given is not None else os.environ.get(f"PLANSMITH_{variable}")
    if not path:
        return None
    if not Path(path).is_file():
        raise InvalidInput(f"{path} is no file: give {variable.lower()}= a file in PEM format")
    return Path(path)


def _environment_headers() -> dict[str, str]:
    text = os.environ.get("PLANSMITH_HEADERS")
    if not text:
        return {}
    try:
        headers = json.loads(text)
    except (ValueError, RecursionError) as error:
        # Without its text: headers hold keys.
        raise InvalidInput("PLANSMITH_HEADERS is not JSON: an object of names and values is expected") from error
    if not isinstance(headers, dict):
        raise InvalidInput("PLANSMITH_HEADERS is not a JSON object of names and values")
    return headers


def _token_maker(token: str | Callable[[], str] | None) -> Callable[[], str] | None:
    if callable(token):
        return token
    if token is None and (path := os.environ.get("PLANSMITH_TOKEN_FILE")):
        return lambda: _read_token(Path(path))
    fixed = os.environ.get("PLANSMITH_TOKEN") if token is None else token
    if not fixed:
        return None
    checked = _checked_token(fixed)
    return lambda: checked


def _read_token(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"The token in {path} (PLANSMITH_TOKEN_FILE) cannot be read") from error


def _checked_token(token: object) -> str:
    if not isinstance(token, str) or not token or " " in token or not _HEADER_VALUE.fullmatch(token):
        # Not repeated here: messages end up in logs.
        raise InvalidInput("The token is not a string of printable ASCII characters without spaces")
    return token


def _checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    checked: dict[str, str] = {}
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidInput(f"{name!r} is not the name of a header")
        if name.lower() in _OWN_HEADERS or name.lower().startswith("grpc-"):
            raise InvalidInput(f"The header {name!r} is the client's own to set: leave it out")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidInput(f"The value of the header {name!r} is not a string of printable ASCII characters")
        checked[name.lower()] = value
    return checked
