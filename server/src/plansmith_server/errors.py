"""Everything that plansmith_server raises on purpose.

```
ServerError               exit code 1
├── InvalidOptions        2  a port, a host, a name or a combination of options that cannot be used
│   ├── InvalidRepository 2  the model repository is missing, not a folder, unreadable, empty, or has an unusable name
│   └── PortInUse         2  another process listens on a port that was asked for
├── TritonUnavailable     1  the wheel, libpython, glibc or bash that Triton needs is missing or too old
├── StartFailed           1  Triton ended, hung or did not answer while it started
├── NotForProduction      3  --production-check found that the server is not fit for others
├── NoModelLoaded         1  Triton runs, but no model (or, with `strict`, not every model) could be loaded
└── ModelError            1  a model's configuration or file cannot be served; raised inside Triton by the backends
    └── RequestError      1  one request cannot be answered; the others of its batch can
```

`exit_code` is what the `plansmith` command ends with. Every message is one or two sentences: what, where, what to do.
"""

from __future__ import annotations

__all__ = [
    "InvalidOptions",
    "InvalidRepository",
    "ModelError",
    "NoModelLoaded",
    "NotForProduction",
    "PortInUse",
    "RequestError",
    "ServerError",
    "StartFailed",
    "TritonUnavailable",
]


class ServerError(Exception):
    """Base of all errors of this package."""

    exit_code = 1


class InvalidOptions(ServerError):
    """The options cannot be used as they are."""

    exit_code = 2


class InvalidRepository(InvalidOptions):
    """The model repository cannot be served as it is."""


class PortInUse(InvalidOptions):
    """Another process listens on a port that was asked for."""


class TritonUnavailable(ServerError):
    """Something that Triton needs is missing from this machine or environment."""


class StartFailed(ServerError):
    """Triton did not come up."""


class NotForProduction(ServerError):
    """The server is not fit for others to use."""

    exit_code = 3


class NoModelLoaded(ServerError):
    """Triton came up without the models it was to serve."""


class ModelError(ServerError):
    """A model's configuration or file cannot be served."""


class RequestError(ModelError):
    """One request cannot be answered."""
