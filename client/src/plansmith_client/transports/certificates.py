"""Whom TLS trusts, the same for HTTP and gRPC, and the client's own certificate."""

from __future__ import annotations

import contextlib
import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from plansmith_client.errors import InvalidInput

if TYPE_CHECKING:
    from plansmith_client.transports.connections import Connection

__all__ = ["system_authorities", "trusting_context"]


def trusting_context(connection: Connection) -> ssl.SSLContext:
    """A context that checks the server's certificate against the system's authorities, or the connection's own.

    Raises:
        InvalidInput: a file cannot be read, or is not a certificate or key.
    """
    if connection.ssl_context is not None:
        return connection.ssl_context
    try:
        context = ssl.create_default_context(cafile=connection.ca_file)
        if connection.ca_file is not None:
            # What is named is trusted, as by gRPC, be it an intermediate authority or the server's own certificate.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if connection.certificate_file is not None:
            # Without a password: a prompt would hang a service, and an encrypted key is refused with these words.
            context.load_cert_chain(connection.certificate_file, connection.key_file, password=lambda: "")
    except (OSError, ValueError) as error:
        given = (connection.ca_file, connection.certificate_file, connection.key_file)
        files = ", ".join(str(path) for path in given if path is not None)
        raise InvalidInput(
            f"{files} cannot be used for TLS ({error}): expected PEM files, the key unencrypted and the certificate's"
        ) from error
    return context


def system_authorities() -> bytes | None:
    """The authorities that `trusting_context` trusts by default, as PEM for gRPC, which would bring its own.

    None where Python finds none, as on a Mac without them installed, and where GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names
    a file that gRPC reads itself.
    """
    if os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"):
        return None
    context, paths = ssl.create_default_context(), ssl.get_default_verify_paths()
    variables = {paths.openssl_cafile_env, paths.openssl_capath_env}
    # A system's own folder holds what its own file does.
    is_enough = paths.cafile is not None and not variables & os.environ.keys()
    folders = "" if is_enough else os.environ.get(paths.openssl_capath_env, paths.openssl_capath)
    # What lies in folders OpenSSL reads only when it needs it, by the hash that is the file's name.
    for folder in folders.split(os.pathsep):
        for file in Path(folder).glob("????????.[0-9]*") if folder else ():
            with contextlib.suppress(OSError):
                context.load_verify_locations(file)
    authorities = context.get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, authorities)).encode() or None
