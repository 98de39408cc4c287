"""What a model does, written once for both kinds of client: metadata, checks, splitting, fallback."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from plansmith_client.calling.flows import Together
from plansmith_client.calling.waiting import wait_until
from plansmith_client.errors import (
    AccessDenied,
    ClientClosed,
    ClientError,
    InferenceFailed,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ProtocolError,
    ServerOverloaded,
    ServerUnavailable,
)
from plansmith_client.inputs.device_tensors import on_host
from plansmith_client.inputs.validation import bind_inputs, check_inputs, check_outputs, check_parameters, check_text
from plansmith_client.protocol.answers import mismatch
from plansmith_client.protocol.operations import Infer, IsModelReady, ListModels, ReadModelConfig, ReadModelMetadata
from plansmith_client.protocol.results import with_outputs
from plansmith_client.protocol.splitting import join_results, split_tensors
from plansmith_client.transports.deadlines import Deadline
from plansmith_client.transports.failures import malformed_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeVar

    from numpy.typing import ArrayLike

    from plansmith_client.calling.attempts import Caller
    from plansmith_client.calling.client_core import ClientCore
    from plansmith_client.calling.flows import Flow
    from plansmith_client.protocol.classification import ClassScore
    from plansmith_client.protocol.metadata import ModelMetadata, ModelStatus
    from plansmith_client.protocol.operations import ParameterValue
    from plansmith_client.protocol.results import InferResult

    Answer = TypeVar("Answer")

__all__ = ["InferOptions", "Learned", "ModelCore"]

# Errors after which the fallback may still answer: not invalid input, nor a passed deadline.
_FALL_BACK_ON = (ServerUnavailable, ServerOverloaded, ModelNotReady, ModelNotFound, InferenceFailed)


class InferOptions(NamedTuple):
    """The options of one inference; see `Model.infer`."""

    outputs: Iterable[str] | None = None
    request_id: str = ""
    parameters: Mapping[str, ParameterValue] | None = None
    classes: int = 0


_NO_OPTIONS = InferOptions()
# Requests in flight for one call whose batch is larger than `max_batch_size`.
_PARTS_AT_ONCE = 4
# The caller waits for an error that is probably right already.
_RENEWAL_SECONDS = 5.0
_LOG = logging.getLogger("plansmith_client")


class Learned:
    """What a server has told of a model, for all who ask it: clients with other options, and submitted calls."""

    metadata: ModelMetadata | None = None
    read_at = 0.0


class ModelCore:
    """One model, and what is known about it; the settings are those of its `ClientCore`.

    Attributes:
        name: the model's name.
        version: the version; empty for the server's choice.
        fallback: the model to use when this one cannot answer.
    """

    def __init__(self, client: ClientCore, name: str, version: str, fallback: ModelCore | None) -> None:
        self.caller = client.caller
        self.name = name
        self.version = version
        self.url = client.url
        self.timeout = client.timeout
        self.metadata_max_age = client.metadata_max_age
        self.hedge_after = client.hedge_after
        self.cast = client.cast
        self.fallback = fallback
        self._learned = client.learned.setdefault((name, version), Learned())

    def asked_by(self, caller: Caller) -> ModelCore:
        """The same model, and what is known about it, asked by another caller."""
        other = copy.copy(self)
        other.caller = caller
        other.fallback = self.fallback.asked_by(caller) if self.fallback else None
        return other

    def read_metadata(self, deadline: Deadline) -> Flow[ModelMetadata]:
        """The metadata, read from the server if it is unknown or too old."""
        known = self._known(deadline)
        if known is not None:
            return known
        metadata = yield from self._fetch_metadata(deadline)
        self._learned.metadata, self._learned.read_at = metadata, time.monotonic()
        return metadata

    def _known(self, deadline: Deadline) -> ModelMetadata | None:
        """The metadata, if it is known and was not too old when the call began."""
        return self._learned.metadata if deadline.begun - self._learned.read_at <= self.metadata_max_age else None

    def is_ready(self, deadline: Deadline) -> Flow[bool]:
        """Whether the model is ready; also False if it does not exist or no server can be reached."""
        return self.caller.is_any(IsModelReady(self.name, self.version), deadline)

    def wait_until_ready(self, deadline: Deadline) -> Flow[None]:
        """Return when the model is ready."""
        yield from wait_until(self.is_ready, f"Model {self.name!r} at {self.url}", deadline)

    def call(
        self, positional: Sequence[ArrayLike], named: Mapping[str, ArrayLike], deadline: Deadline
    ) -> Flow[InferResult]:
        """One inference with inputs by position, by name, or both."""
        if self.fallback is None:
            return self._infer(positional, named, _NO_OPTIONS, deadline)
        return self._call_by_name(positional, named, deadline)

    def _call_by_name(
        self, positional: Sequence[ArrayLike], named: Mapping[str, ArrayLike], deadline: Deadline
    ) -> Flow[InferResult]:
        # The fallback may declare the same inputs in another order.
        inputs = yield from self.by_metadata(lambda known: bind_inputs(known, positional, named), deadline)
        return (yield from self.infer(inputs, _NO_OPTIONS, deadline))

    def infer(self, inputs: Mapping[str, ArrayLike], options: InferOptions, deadline: Deadline) -> Flow[InferResult]:
        """One inference; in several requests if the batch is larger than `max_batch_size`."""
        return self._or_fallback(
            self._infer((), inputs, options, deadline), lambda fallback: fallback.infer(inputs, options, deadline)
        )

    def ask(self, operation: Infer, deadline: Deadline) -> Flow[InferResult]:
        """Send a request that `request` has checked: with the fallback, hedging and renewed metadata of `infer`."""

        def of_fallback(fallback: ModelCore) -> Flow[InferResult]:
            inputs = {tensor.name: tensor.array for tensor in on_host(operation).inputs}
            options = InferOptions(operation.outputs, operation.request_id, operation.parameters, operation.classes)
            return fallback.infer(inputs, options, deadline)

        return self._or_fallback(self._ask(operation, None, deadline), of_fallback)

    def describe(self, deadline: Deadline) -> Flow[ModelMetadata]:
        """The metadata by which inputs are checked: of the fallback while this model cannot be used."""
        return self._or_fallback(self.read_metadata(deadline), lambda fallback: fallback.describe(deadline))

    def by_metadata(
        self, check: Callable[[ModelMetadata], Answer], deadline: Deadline, *, own: bool = False
    ) -> Flow[Answer]:
        """What a check makes of a request. Metadata of an earlier call is read again before the request is refused.

        Args:
            check: raises InvalidInput if the request does not match the metadata.
            deadline: of the call.
            own: whether the metadata has to be of this model, even while that cannot be used.

        Raises:
            InvalidInput: the check refuses the request.
        """
        metadata = self._known(deadline) or (yield from (self.read_metadata if own else self.describe)(deadline))
        try:
            return check(metadata)
        except InvalidInput:
            if not (yield from self._has_changed(metadata, deadline)):
                raise
        return check(self._learned.metadata or metadata)

    def _has_changed(self, metadata: ModelMetadata, deadline: Deadline) -> Flow[bool]:
        """Whether the model has been loaded anew with other inputs or outputs since its metadata was read."""
        if self._learned.read_at >= deadline.begun:
            # Another thread may have read it since.
            return self._learned.metadata is not None and self._learned.metadata != metadata
        try:
            seconds = min(_RENEWAL_SECONDS, deadline.remaining() or _RENEWAL_SECONDS)
            renewed = yield from self._fetch_metadata(Deadline(seconds))
        except ClientError:
            return False
        self._learned.metadata, self._learned.read_at = renewed, time.monotonic()
        return renewed != metadata

    def refused(self, error: ClientError, deadline: Deadline) -> Flow[ClientError]:
        """The error to raise for a checked request that the server refused: the model may have changed."""
        self.forget()
        if isinstance(error, (ModelNotFound, ModelNotReady)):
            return (yield from self._explained(error, deadline))
        return error

    def classify(
        self,
        positional: Sequence[ArrayLike],
        named: Mapping[str, ArrayLike],
        top: int,
        output: str | None,
        deadline: Deadline,
    ) -> Flow[list[list[ClassScore]]]:
        """The largest values of one output for each row, with their labels."""
        from plansmith_client.protocol.classification import classes_from_result  # noqa: PLC0415 - not for a first answer

        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise InvalidInput(f"Model {self.name!r}: top must be a whole number of classes from 1, got {top!r}")

        def check(metadata: ModelMetadata) -> tuple[str, dict[str, ArrayLike]]:
            names = [spec.name for spec in metadata.outputs]
            if output is None and not names:
                raise InvalidInput(f"Model {self.name!r}: the server declares no outputs: name one with output=")
            if output is None and len(names) != 1:
                raise InvalidInput(
                    f"Model {self.name!r} has several outputs: choose one with output= ({', '.join(names)})"
                )
            return names[0] if output is None else output, bind_inputs(metadata, positional, named)

        chosen, inputs = yield from self.by_metadata(check, deadline)
        result = yield from self.infer(inputs, InferOptions(outputs=(chosen,), classes=top), deadline)
        return classes_from_result(result, chosen)

    def request(self, metadata: ModelMetadata, inputs: Mapping[str, ArrayLike], options: InferOptions) -> Infer:
        """The checked request, of any batch size, with all inputs in host memory.

        Raises:
            InvalidInput: the inputs or options do not match the metadata.
        """
        return on_host(self._checked(metadata, inputs, options))

    def _checked(self, metadata: ModelMetadata, inputs: Mapping[str, ArrayLike], options: InferOptions) -> Infer:
        if type(inputs) is not dict and not isinstance(inputs, Mapping):
            raise InvalidInput(
                f"Model {self.name!r}: inputs must be a mapping of names and arrays, got a {type(inputs).__name__}: "
                "call the model itself, model(array), to pass inputs by position"
            )
        tensors = check_inputs(metadata, inputs, cast=self.cast)
        on_device, outputs, parameters = False, None, {}
        for tensor in tensors:
            on_device = on_device or tensor.device is not None
        if options is not _NO_OPTIONS:
            outputs = check_outputs(metadata, options.outputs)
            check_text("request_id", options.request_id)
            parameters = check_parameters(metadata, options.parameters)
        return Infer(
            self.name,
            self.version,
            tensors,
            outputs,
            options.request_id,
            parameters,
            options.classes,
            on_device,
            metadata,
        )

    def _checked_for_one_answer(
        self,
        metadata: ModelMetadata,
        positional: Sequence[ArrayLike],
        named: Mapping[str, ArrayLike],
        options: InferOptions,
    ) -> Infer:
        if metadata.decoupled:
            raise InvalidInput(
                f"Model {self.name!r} is decoupled: it answers with any number of responses; use model.stream(...)"
            )
        inputs = bind_inputs(metadata, positional, named) if positional else named
        return self._checked(metadata, inputs, options)

    def stream_request(self, inputs: Mapping[str, ArrayLike], options: InferOptions, deadline: Deadline) -> Flow[Infer]:
        """The checked request of a stream, which cannot be split."""

        def check(metadata: ModelMetadata) -> Infer:
            operation = self.request(metadata, inputs, options)
            largest = metadata.max_batch_size
            if largest and operation.inputs and operation.inputs[0].array.shape[0] > largest:
                raise InvalidInput(
                    f"Model {self.name!r}: given a batch of {operation.inputs[0].array.shape[0]}, expected at most "
                    f"{largest} (max_batch_size): a stream is one request"
                )
            return operation

        return (yield from self.by_metadata(check, deadline, own=True))

    def check_response(self, operation: Infer, result: InferResult) -> None:
        """Check one response of a stream, and forget the metadata if it is of a version that this does not describe.

        Raises:
            ProtocolError: the outputs are not those that the metadata declares.
        """
        metadata = operation.metadata
        if metadata is None:
            return
        if not self.version and metadata.versions and result.model_version not in metadata.versions:
            self._learned.metadata = None
        elif problem := mismatch(operation, result, metadata, whole=False):
            self._learned.metadata = None
            raise self._undeclared(problem)

    def matches(self, operation: Infer, result: InferResult) -> bool:
        """Whether the result is what the metadata declares and what was asked for; if not, `checked` has to follow.

        Metadata that does not know the version which answered is forgotten.
        """
        # Not what another call may have read since: the model that answers may be the one before.
        metadata = operation.metadata
        if metadata is None:
            return True
        if not self.version and metadata.versions and result.model_version not in metadata.versions:
            self._learned.metadata = None
        is_surplus = operation.outputs is not None and len(result) > len(operation.outputs)
        return not is_surplus and not mismatch(operation, result, metadata)

    def checked(self, operation: Infer, result: InferResult, deadline: Deadline) -> Flow[InferResult]:
        """A result that does not match: by metadata that is read again, or without outputs that nobody asked for.

        Raises:
            ProtocolError: its outputs are not those that the metadata declares.
        """
        if operation.metadata is not None and mismatch(operation, result, operation.metadata):
            # The model may have been loaded anew.
            self._learned.metadata = None
            if problem := mismatch(operation, result, (yield from self.read_metadata(deadline))):
                raise self._undeclared(problem)
        if operation.outputs is not None and len(result) > len(operation.outputs):
            # Some servers send all outputs, whatever was asked for.
            return with_outputs(result, {name: result[name] for name in operation.outputs})
        return result

    def _undeclared(self, problem: str) -> ProtocolError:
        return ProtocolError(
            f"Model {self.name!r} at {self.url}: the answer is not what the model declares ({problem})"
        )

    def forget(self) -> None:
        """Forget the metadata, so that the next use reads it again."""
        self._learned.metadata = None

    def _explained(self, error: ModelNotFound | ModelNotReady, deadline: Deadline) -> Flow[ClientError]:
        """The error with what the repository's index says about a model that did not answer."""
        try:
            models = yield from self.caller.call(ListModels(), deadline)
        except ClientError:
            return error
        return _explanation(self, error, models)

    def _infer(
        self,
        positional: Sequence[ArrayLike],
        named: Mapping[str, ArrayLike],
        options: InferOptions,
        deadline: Deadline,
    ) -> Flow[InferResult]:
        metadata = self._known(deadline) or (yield from self.read_metadata(deadline))
        try:
            operation = self._checked_for_one_answer(metadata, positional, named, options)
        except InvalidInput:
            # As `by_metadata`, whose generator and function a small call would feel.
            if not (yield from self._has_changed(metadata, deadline)):
                raise
            metadata = yield from self.read_metadata(deadline)
            operation = self._checked_for_one_answer(metadata, positional, named, options)
        return (yield from self._ask(operation, metadata.max_batch_size, deadline))

    def _ask(
        self, operation: Infer, largest: int | None, deadline: Deadline, *, again: bool = True
    ) -> Flow[InferResult]:
        try:
            if largest and operation.inputs and operation.inputs[0].array.shape[0] > largest:
                result = yield from self._infer_in_parts(operation, largest, deadline)
            else:
                result = yield from self._send(operation, deadline)
        except InvalidInput:
            self.forget()
            raise
        except (ModelNotFound, ModelNotReady) as error:
            explained = yield from self.refused(error, deadline)
            if again and explained is error and isinstance(error, ModelNotReady) and operation.repeatable:
                # Nothing is wrong with the model: a server that was stopping has been started again since.
                return (yield from self._ask(operation, largest, deadline, again=False))
            raise explained from error.__cause__
        # Without a generator where there is nothing to ask, which a small call would feel.
        return result if self.matches(operation, result) else (yield from self.checked(operation, result, deadline))

    def _or_fallback(self, flow: Flow[Answer], of_fallback: Callable[[ModelCore], Flow[Answer]]) -> Flow[Answer]:
        return flow if self.fallback is None else self._with_fallback(flow, of_fallback, self.fallback)

    def _with_fallback(
        self, flow: Flow[Answer], of_fallback: Callable[[ModelCore], Flow[Answer]], fallback: ModelCore
    ) -> Flow[Answer]:
        try:
            return (yield from flow)
        except _FALL_BACK_ON as error:
            _LOG.info("Model %r cannot answer, asking %r: %s", self.name, fallback.name, error)
            try:
                return (yield from of_fallback(fallback))
            except ClientError as second:
                raise second from error

    def _infer_in_parts(self, operation: Infer, largest: int, deadline: Deadline) -> Flow[InferResult]:
        if not operation.repeatable:
            raise InvalidInput(
                f"Model {self.name!r}: given a batch of {operation.inputs[0].array.shape[0]}, expected at most "
                f"{largest} (max_batch_size): a step of a sequence is one request"
            )
        operation = on_host(operation)
        parts = [replace(operation, inputs=tensors) for tensors in split_tensors(operation.inputs, largest)]
        results = yield Together([self._send(part, deadline) for part in parts], _PARTS_AT_ONCE)
        return join_results(results, [part.inputs[0].array.shape[0] for part in parts])

    def _send(self, operation: Infer, deadline: Deadline) -> Flow[InferResult]:
        if operation.metadata is not None and operation.metadata.queue_timeout:
            # In microseconds: a request that nobody waits for leaves the server's queue.
            remaining = deadline.remaining()
            if remaining is not None and "timeout" not in operation.parameters:
                parameters = {**operation.parameters, "timeout": max(1, int(remaining * 1e6))}
                operation = replace(operation, parameters=parameters)
        return self.caller.call(operation, deadline, hedge_after=self.hedge_after)

    def _fetch_metadata(self, deadline: Deadline) -> Flow[ModelMetadata]:
        try:
            metadata = yield from self.caller.call(ReadModelMetadata(self.name, self.version), deadline)
        except (ModelNotFound, ModelNotReady) as error:
            raise (yield from self._explained(error, deadline)) from error.__cause__
        try:
            config = yield from self.caller.call(ReadModelConfig(self.name, self.version), deadline)
        except ClientClosed:
            # An invalid use, too, which says nothing about the model.
            raise
        except (ProtocolError, AccessDenied, InvalidInput, ModelNotFound):
            # The configuration is an extension of Triton, and access may be restricted: then the server checks inputs.
            return metadata
        try:
            return metadata.with_config(config)
        except ProtocolError as error:
            raise malformed_answer(ReadModelConfig(self.name, self.version), self.url, error) from error


def _explanation(model: ModelCore, error: ModelNotFound | ModelNotReady, models: Iterable[ModelStatus]) -> ClientError:
    mine = [status for status in models if status.name == model.name]
    wanted = [status for status in mine if not model.version or status.version in (model.version, "")]
    ready = [status for status in wanted if status.state == "READY"]
    if ready:
        # Servers that list no versions, as MLServer does, cannot say that this one is there.
        is_listed = not model.version or any(status.version for status in ready)
        # Where it is, "not found" was part of the model's own message, or it has become ready since.
        return InferenceFailed(str(error)) if isinstance(error, ModelNotFound) and is_listed else error
    if wanted:
        state = wanted[0].state.lower() or "not loaded"
        reason = wanted[0].short_reason
        return ModelNotReady(
            f"Model {model.name!r} at {model.url} is {state}{f' ({reason})' if reason else ''}: "
            "load it, or see the server's log"
        )
    if isinstance(error, ModelNotReady):
        return error
    if mine:
        versions = ", ".join(status.version for status in mine if status.version) or "none"
        return ModelNotFound(f"Model {model.name!r} at {model.url} has no version {model.version}: it has {versions}")
    names = ", ".join(sorted({status.name for status in models})) or "no models at all"
    return ModelNotFound(f"No model {model.name!r} at {model.url}: the server has {names}")
