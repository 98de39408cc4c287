"""TLS over HTTP: trusted authorities and the client's certificate."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from plansmith_client.errors import InvalidInput

if TYPE_CHECKING:
    from plansmith_client.transports.connections import Connection

__all__ = ["trusting_context"]


def trusting_context(connection: Connection) -> ssl.SSLContext:
    """A context that checks the server's certificate against the system's authorities, or the connection's own.

    Raises:
        InvalidInput: a file cannot be read, or is not a certificate or key.
    """
    if connection.ssl_context is not None:
        return connection.ssl_context
    try:
        context = ssl.create_default_context(cafile=connection.ca_file)
        if connection.certificate_file is not None:
            # Without a password: a prompt would hang a service, and an encrypted key is refused with these words.
            context.load_cert_chain(connection.certificate_file, connection.key_file, password=lambda: "")
    except (OSError, ValueError) as error:
        given = (connection.ca_file, connection.certificate_file, connection.key_file)
        files = ", ".join(str(path) for path in given if path is not None)
        raise InvalidInput(
            f"{files} cannot be used for TLS ({error}): expected PEM files, the key unencrypted"
        ) from error
    return context
