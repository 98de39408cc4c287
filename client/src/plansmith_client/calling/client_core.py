"""What both kinds of client do, written once: servers, readiness, operations on the repository."""

from __future__ import annotations

import copy
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plansmith_client.calling.attempts import Caller
from plansmith_client.calling.breaker import BreakerPolicy
from plansmith_client.calling.connection_options import connection_from
from plansmith_client.calling.model_core import Learned, ModelCore
from plansmith_client.calling.retries import RetryBudget, RetryPolicy
from plansmith_client.calling.servers import Servers
from plansmith_client.calling.waiting import wait_until
from plansmith_client.errors import InvalidInput, ModelNotFound
from plansmith_client.inputs.validation import check_flag, check_text
from plansmith_client.protocol.operations import (
    IsServerReady,
    ListModels,
    LoadModel,
    LogSettings,
    ReadConfigDocument,
    ReadServerMetadata,
    ReadStatistics,
    TraceSettings,
    UnloadModel,
)
from plansmith_client.transports import open_async_transport
from plansmith_client.transports.addresses import Address
from plansmith_client.transports.deadlines import Deadline
from plansmith_client.transports.forks import reopen_in_children

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plansmith_client.calling.client_options import ClientOptions
    from plansmith_client.calling.flows import Flow
    from plansmith_client.protocol.metadata import ModelStatus, ServerMetadata
    from plansmith_client.protocol.statistics import ModelStatistics
    from plansmith_client.transports.connections import Connection

__all__ = ["ClientCore", "open_core"]


class ClientCore:
    """The servers of a client and its settings, which are those of `ClientOptions`.

    Attributes:
        caller: asks the servers.
        url: the URLs of the servers, for messages.
        open_async_caller: opens connections of their own to the same servers, for an event loop.
    """

    def __init__(
        self, caller: Caller, url: str, options: ClientOptions, open_async_caller: Callable[[], Caller]
    ) -> None:
        self.caller = caller
        self.url = url
        self.timeout = options.timeout
        self.metadata_max_age = options.metadata_max_age
        self.hedge_after = options.hedge_after
        self.cast = options.cast
        self.open_async_caller = open_async_caller
        self.cores: dict[tuple[str, str, str], ModelCore] = {}
        self.learned: dict[tuple[str, str], Learned] = {}

    def deadline(self, timeout: float | None = None) -> Deadline:
        """The deadline of a call that begins now."""
        return Deadline(self.timeout if timeout is None else timeout)

    def with_timeout(self, timeout: float) -> ClientCore:
        """The same servers with another default timeout; what is learned about models is shared.

        Raises:
            InvalidInput: the timeout is not valid.
        """
        Deadline(timeout)
        other = copy.copy(self)
        other.timeout, other.cores = timeout, {}
        return other

    def model(self, name: str, version: str, fallback: str) -> ModelCore:
        """The model; the same one for the same arguments, so that its metadata is read once."""
        _check_name(name)
        if not isinstance(version, str) or (version and not (version.isascii() and version.isdigit())):
            raise InvalidInput(f"Model {name!r}: given version {version!r}, expected a number in a string, as in '3'")
        if check_text("fallback", fallback) == name:
            raise InvalidInput(f"Model {name!r} cannot be its own fallback: name another model of the server")
        known = self.cores.get((name, version, fallback))
        if known is not None:
            return known
        second = self.model(fallback, "", "") if fallback else None
        return self.cores.setdefault((name, version, fallback), ModelCore(self, name, version, second))

    def wait_until_ready(self, deadline: Deadline) -> Flow[None]:
        """Return when a server is ready."""
        yield from wait_until(self._is_ready, f"The server at {self.url}", deadline)

    def is_ready(self, deadline: Deadline, *, all_servers: bool) -> Flow[bool]:
        """Whether a server is ready, or all of them are."""
        check_flag("all_servers", all_servers)
        return (self.caller.is_every if all_servers else self.caller.is_any)(IsServerReady(), deadline)

    def server_metadata(self, deadline: Deadline) -> Flow[ServerMetadata]:
        """The metadata of a server."""
        return self.caller.call(ReadServerMetadata(), deadline)

    def models(self, deadline: Deadline) -> Flow[tuple[ModelStatus, ...]]:
        """The repository's index."""
        return self.caller.call(ListModels(), deadline)

    def statistics(self, name: str, version: str, deadline: Deadline) -> Flow[tuple[ModelStatistics, ...]]:
        """The statistics of one server, for all models if the name is empty."""
        return self.caller.call(ReadStatistics(name, version), deadline)

    def config(self, core: ModelCore, deadline: Deadline) -> Flow[dict[str, Any]]:
        """The whole configuration of a model."""
        return self.caller.call(ReadConfigDocument(core.name, core.version), deadline)

    def load(
        self,
        name: str,
        config: Mapping[str, Any] | str | None,
        files: Mapping[str, bytes | Path] | None,
        deadline: Deadline,
    ) -> Flow[None]:
        """Load a model on every server."""
        _check_name(name)
        contents = _contents(name, files)
        if contents and not config:
            raise InvalidInput(f"Model {name!r}: files= needs config= as well: the server takes both or neither")
        try:
            document = config if isinstance(config, str) else json.dumps(config, allow_nan=False) if config else ""
            check_text("config", document)
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInput(f"Model {name!r}: config cannot be written as JSON: {error}") from error
        try:
            yield from self.caller.call_all(LoadModel(name, "", document, contents), deadline)
        except ModelNotFound as error:
            # Triton sends the same message for a missing model and for a configuration that it cannot read.
            if any(model.name == name for model in (yield from self.models(deadline))):
                raise InvalidInput(
                    f"Model {name!r} at {self.url}: the server refuses its configuration; its log says why"
                ) from error
            raise
        self._forget(name)

    def unload(self, name: str, deadline: Deadline, *, dependents: bool) -> Flow[None]:
        """Unload a model on every server."""
        _check_name(name)
        check_flag("dependents", dependents)
        yield from self.caller.call_all(UnloadModel(name, "", dependents), deadline)
        self._forget(name)

    def trace_settings(self, model: str, changes: Mapping[str, Any], deadline: Deadline) -> Flow[dict[str, Any]]:
        """Change the trace settings of every server, or of one model if it is named, and return them."""
        results = yield from self.caller.call_all(
            TraceSettings(check_text("model name", model), "", _checked_settings(changes)), deadline
        )
        settings: dict[str, Any] = results[0]
        return settings

    def log_settings(self, changes: Mapping[str, Any], deadline: Deadline) -> Flow[dict[str, Any]]:
        """Change the log settings of every server and return them."""
        results = yield from self.caller.call_all(LogSettings(_checked_settings(changes, whole=True)), deadline)
        settings: dict[str, Any] = results[0]
        return settings

    def _is_ready(self, deadline: Deadline) -> Flow[bool]:
        yield from self.caller.servers.look_up(deadline)
        servers = self.caller.servers.all()
        if len(servers) != 1:
            return (yield from self.caller.is_any(IsServerReady(), deadline))
        # Of a single server the error says more than a no.
        return (yield from self.caller.call_one(servers[0], IsServerReady(), deadline))

    def _forget(self, name: str) -> None:
        # A list: other threads may meet a model meanwhile.
        for (known, _), learned in list(self.learned.items()):
            if known == name:
                learned.metadata = None


def open_core(
    urls: str | Sequence[str],
    open_transport: Callable[[Address, Connection], Any],
    options: ClientOptions,
) -> ClientCore:
    """The core of a client from the arguments of its constructor.

    Raises:
        InvalidInput: an argument is not valid.
    """
    given = tuple(urls) if isinstance(urls, (list, tuple)) else (urls,)
    if not given:
        raise InvalidInput("No URL is given: write one like localhost:8001 (gRPC) or http://localhost:8000 (HTTP)")
    addresses = tuple(Address.parse(url) for url in given)
    if len({(address.scheme, address.target, address.path) for address in addresses}) < len(addresses):
        raise InvalidInput(f"The URLs name the same server twice: {', '.join(map(str, given))}. Name each server once")
    connection = connection_from(addresses, options)
    retries = options.retries
    policy = retries if isinstance(retries, RetryPolicy) else RetryPolicy(attempts=retries, restart=0.0)

    def open_caller(opener: Callable[[Address, Connection], Any]) -> Caller:
        servers = Servers(
            addresses,
            connection,
            opener,
            balance=options.balance,
            breaker=options.breaker or _NEVER_OPENS,
            resolve=options.resolve,
            shared_memory=options.shared_memory,
        )
        reopen_in_children(servers)
        return Caller(servers, policy, RetryBudget(), tuple(options.observers))

    def open_async_caller() -> Caller:
        transport = options.transport
        return open_caller(open_async_transport if transport is None else transport.open_async_transport)

    return ClientCore(open_caller(open_transport), ", ".join(map(str, given)), options, open_async_caller)


def _check_name(name: str) -> None:
    if not check_text("model name", name):
        raise InvalidInput("The model name is empty: client.models() lists those of the server")


def _contents(name: str, files: Mapping[str, bytes | Path] | None) -> dict[str, bytes]:
    if not isinstance(files, (Mapping, type(None))):
        raise InvalidInput(f"Model {name!r}: files must be a mapping of paths and contents, got {files!r}")
    contents: dict[str, bytes] = {}
    for path, given in (files or {}).items():
        steps = check_text("path of a file", path).split("/")
        if not steps[0].isdigit() or len(steps) < 2 or any(step in ("", ".", "..") for step in steps):  # noqa: PLR2004
            raise InvalidInput(
                f"Model {name!r}: {path!r} is not a path in a version's folder: write it like '1/model.onnx'"
            )
        if not isinstance(given, (bytes, Path)):
            raise InvalidInput(
                f"Model {name!r}, file {path!r}: expected bytes or a pathlib.Path, got {type(given).__name__}"
            )
        try:
            if isinstance(given, Path) and not stat.S_ISREG(given.stat().st_mode):
                raise InvalidInput(f"Model {name!r}, file {path!r}: {given} is not a regular file")
            contents[path] = given if isinstance(given, bytes) else given.read_bytes()
        except (OSError, ValueError) as error:
            raise InvalidInput(f"Model {name!r}: {path} cannot be read: {error}") from error
    return contents


def _checked_settings(changes: Mapping[str, Any], *, whole: bool = False) -> dict[str, Any]:
    """The settings; lists and None, which stands for the default, unless each is one value."""
    for name, value in changes.items():
        check_text("setting", name)
        for part in value if isinstance(value, (list, tuple)) and not whole else (value,):
            if isinstance(part, str):
                check_text(f"setting {name!r}", part)
            elif not (isinstance(part, int) and 0 <= part < 2**32) and (part is not None or whole):
                raise InvalidInput(
                    f"The setting {name!r} must be a bool, a string or an integer from 0 to 2**32 - 1, got {value!r}"
                )
    return dict(changes)


_NEVER_OPENS = BreakerPolicy(failures=2**63)
