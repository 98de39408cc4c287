"""Every error that this package raises.

    ClientError
    ├── InvalidInput         the request, a file or an option is wrong; nothing was sent, or the server refused it
    │   ├── ClientClosed     the client was used after close()
    │   └── MissingDependency   an optional package is not installed; an ImportError, too
    ├── AccessDenied         the server requires credentials, or refuses those that were sent
    ├── ModelNotFound        the server has no such model, or no such version of it
    ├── ModelNotReady        the server knows the model, but it is loading, unloaded or failed to load
    ├── ServerUnavailable    nothing answers at the URL, or the connection broke
    ├── ServerOverloaded     the server answered that its queue is full
    ├── DeadlineExceeded     the call's timeout has passed, here or in the server's queue
    ├── InferenceFailed      the model itself failed on this request
    └── ProtocolError        the answer does not follow the Open Inference Protocol

No exception of grpc, httptools, the socket module or json escapes: it becomes the `__cause__` of one of these. All of
them can be pickled, to cross process boundaries. `exit_code` is the exit status of the `plansmith` command.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AccessDenied",
    "ClientClosed",
    "ClientError",
    "DeadlineExceeded",
    "InferenceFailed",
    "InvalidInput",
    "MissingDependency",
    "ModelNotFound",
    "ModelNotReady",
    "ProtocolError",
    "ServerOverloaded",
    "ServerUnavailable",
]


class ClientError(Exception):
    """The base of every error of this package.

    Attributes:
        exit_code: 1 if the work failed, 2 if the caller's input was wrong.
        retryable: whether sending the same request again, after a pause, can help without doing harm. False for
            overload: a server whose queue is full is not helped by more requests.

    Example:
        ```python
        try:
            result = client.model("digits")(images)
        except plansmith_client.ClientError as error:
            log.warning("no prediction: %s (retryable: %s)", error, error.retryable)
        ```
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False


class InvalidInput(ClientError):
    """The caller's input is wrong: a name, a dtype, a shape, a file, a URL. The message says what was expected."""

    exit_code = 2


class ClientClosed(InvalidInput):
    """The client was used after `close()`, or closed by another thread during the call."""


class MissingDependency(InvalidInput, ImportError):
    """An optional package is not installed. The message names it and what installs it.

    Also an `ImportError`: `try: import plansmith_client.metrics` with `except ImportError` works as for any module.
    """


class AccessDenied(ClientError):
    """The server requires credentials, or refuses those that were sent."""

    exit_code = 2


class ModelNotFound(ClientError):
    """The server has no model of that name, or not that version of it. The message lists those it has."""

    exit_code = 2


class ModelNotReady(ClientError):
    """The server knows the model, but it is loading, unloaded or failed to load. The message gives its reason."""

    retryable = True


class ServerUnavailable(ClientError):
    """Nothing answers at the URL, the connection broke, or the server is stopping."""

    retryable = True


class ServerOverloaded(ClientError):
    """The server's queue is full. Slow down, or add instances: retrying at once makes it worse."""


class DeadlineExceeded(ClientError):
    """The call's timeout has passed, here or in the server's queue."""


class InferenceFailed(ClientError):
    """The model failed on this request. The message is the server's."""


class ProtocolError(ClientError):
    """The answer does not follow the Open Inference Protocol, or does not belong to the request."""
