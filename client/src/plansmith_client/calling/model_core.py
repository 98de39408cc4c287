"""What a model does, written once for both kinds of client: metadata, checks, splitting, fallback."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from plansmith_client.calling.flows import FirstOf, Together
from plansmith_client.errors import (
    AccessDenied,
    ClientError,
    DeadlineExceeded,
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
from plansmith_client.protocol.classification import classes_from_result
from plansmith_client.protocol.operations import Infer, IsModelReady, ListModels, ReadModelConfig, ReadModelMetadata
from plansmith_client.protocol.splitting import join_results, split_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import ArrayLike

    from plansmith_client.calling.attempts import Caller
    from plansmith_client.calling.flows import Flow
    from plansmith_client.protocol.classification import ClassScore
    from plansmith_client.protocol.metadata import ModelMetadata, ModelStatus
    from plansmith_client.protocol.operations import ParameterValue
    from plansmith_client.protocol.results import InferResult
    from plansmith_client.transports.deadlines import Deadline

__all__ = ["ModelCore", "Wish"]

# Errors after which the fallback may still answer: not invalid input, nor a passed deadline.
_FALL_BACK_ON = (ServerUnavailable, ServerOverloaded, ModelNotReady, ModelNotFound, InferenceFailed)


@dataclass(frozen=True, slots=True)
class Wish:
    """The options of one inference; see `Model.infer`."""

    outputs: Iterable[str] | None = None
    request_id: str = ""
    parameters: Mapping[str, ParameterValue] | None = None
    classes: int = 0


_NOTHING_MORE = Wish()


@dataclass(slots=True, eq=False)
class ModelCore:
    """One model, and what is known about it.

    Attributes:
        caller: asks the servers.
        name: the model's name.
        version: the version; empty for the server's choice.
        url: the URLs of the servers, for messages.
        timeout: seconds for calls that do not set their own.
        metadata_max_age: seconds after which metadata is read again.
        hedge_after: seconds after which an unanswered request is sent to a second server; None for never.
        parts_at_once: requests in flight for one call whose batch is larger than `max_batch_size`.
        fallback: the model to use when this one cannot answer.
    """

    caller: Caller
    name: str
    version: str
    url: str
    timeout: float
    metadata_max_age: float
    hedge_after: float | None
    parts_at_once: int
    fallback: ModelCore | None = None
    _metadata: ModelMetadata | None = field(default=None, init=False)
    _read_at: float = field(default=0.0, init=False)

    def read_metadata(self, deadline: Deadline) -> Flow[ModelMetadata]:
        """The metadata, read from the server if it is unknown or too old."""
        known = self._metadata
        if known is not None and time.monotonic() - self._read_at <= self.metadata_max_age:
            return known
        metadata = yield from self._fetch_metadata(deadline)
        self._metadata, self._read_at = metadata, time.monotonic()
        return metadata

    def is_ready(self, deadline: Deadline) -> Flow[bool]:
        """Whether the model is ready; also False if it does not exist or no server can be reached."""
        try:
            ready = yield from self.caller.call(IsModelReady(self.name, self.version), deadline)
        except (ModelNotFound, ModelNotReady, ServerUnavailable, ServerOverloaded, DeadlineExceeded):
            return False
        return ready

    def bind(
        self, positional: Sequence[ArrayLike], named: Mapping[str, ArrayLike], deadline: Deadline
    ) -> Flow[Mapping[str, ArrayLike]]:
        """The inputs by name."""
        if not positional:
            return named
        metadata = yield from self.read_metadata(deadline)
        return bind_inputs(metadata, positional, named)

    def call(
        self, positional: Sequence[ArrayLike], named: Mapping[str, ArrayLike], deadline: Deadline
    ) -> Flow[InferResult]:
        """One inference with inputs by position, by name, or both."""
        inputs = (yield from self.bind(positional, named, deadline)) if positional else named
        return (yield from self.infer(inputs, _NOTHING_MORE, deadline))

    def infer(self, inputs: Mapping[str, ArrayLike], wish: Wish, deadline: Deadline) -> Flow[InferResult]:
        """One inference; in several requests if the batch is larger than `max_batch_size`."""
        try:
            return (yield from self._infer(inputs, wish, deadline))
        except _FALL_BACK_ON as error:
            if self.fallback is None:
                raise
            try:
                return (yield from self.fallback.infer(inputs, wish, deadline))
            except ClientError as second:
                raise second from error

    def classify(
        self,
        positional: Sequence[ArrayLike],
        named: Mapping[str, ArrayLike],
        top: int,
        output: str | None,
        deadline: Deadline,
    ) -> Flow[list[list[ClassScore]]]:
        """The largest values of one output for each row, with their labels."""
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise InvalidInput(f"Model {self.name!r}: top must be a whole number of classes from 1, got {top!r}")
        metadata = yield from self.read_metadata(deadline)
        names = [spec.name for spec in metadata.outputs]
        if output is None and len(names) != 1:
            raise InvalidInput(f"Model {self.name!r} has several outputs: choose one with output= ({', '.join(names)})")
        chosen = names[0] if output is None else output
        inputs = bind_inputs(metadata, positional, named)
        result = yield from self.infer(inputs, Wish(outputs=(chosen,), classes=top), deadline)
        return classes_from_result(result, chosen)

    def request(self, metadata: ModelMetadata, inputs: Mapping[str, ArrayLike], wish: Wish) -> Infer:
        """The checked request, of any batch size, with all inputs in host memory.

        Raises:
            InvalidInput: the inputs or options do not match the metadata.
        """
        return on_host(self._checked(metadata, inputs, wish))

    def _checked(self, metadata: ModelMetadata, inputs: Mapping[str, ArrayLike], wish: Wish) -> Infer:
        tensors = check_inputs(metadata, inputs)
        return Infer(
            self.name,
            self.version,
            tensors,
            check_outputs(metadata, wish.outputs),
            check_text("request_id", wish.request_id),
            check_parameters(metadata, wish.parameters),
            wish.classes,
            any(tensor.device is not None for tensor in tensors),
        )

    def stream_request(self, inputs: Mapping[str, ArrayLike], wish: Wish, deadline: Deadline) -> Flow[Infer]:
        """The checked request of a stream, which cannot be split."""
        metadata = yield from self.read_metadata(deadline)
        operation = self.request(metadata, inputs, wish)
        largest = metadata.max_batch_size
        if largest and operation.inputs and operation.inputs[0].array.shape[0] > largest:
            raise InvalidInput(
                f"Model {self.name!r}: given a batch of {operation.inputs[0].array.shape[0]}, expected at most "
                f"{largest} (max_batch_size): a stream is one request"
            )
        return operation

    def noticed(self, result: InferResult) -> None:
        """Forget the metadata if a model version answered that it does not describe."""
        known = self._metadata
        if known is not None and not self.version and known.versions and result.model_version not in known.versions:
            self._metadata = None

    def forget(self) -> None:
        """Forget the metadata, so that the next use reads it again."""
        self._metadata = None

    def explained(self, error: ModelNotFound | ModelNotReady, deadline: Deadline) -> Flow[ClientError]:
        """The error with what the repository's index says about a model that did not answer."""
        try:
            models = yield from self.caller.call(ListModels(), deadline)
        except ClientError:
            return error
        return _explanation(self, error, models)

    def _infer(self, inputs: Mapping[str, ArrayLike], wish: Wish, deadline: Deadline) -> Flow[InferResult]:
        metadata = yield from self.read_metadata(deadline)
        operation = self._checked(metadata, inputs, wish)
        if metadata.decoupled:
            raise InvalidInput(
                f"Model {self.name!r} is decoupled: it answers with any number of responses; use model.stream(...)"
            )
        largest = metadata.max_batch_size
        try:
            if largest and operation.inputs and operation.inputs[0].array.shape[0] > largest:
                return (yield from self._infer_in_parts(operation, largest, deadline))
            result: InferResult = yield from self._send(operation, deadline)
        except (InvalidInput, ModelNotFound, ModelNotReady) as error:
            # The server refuses what the metadata allows: the model may have changed.
            self.forget()
            if isinstance(error, InvalidInput):
                raise
            raise (yield from self.explained(error, deadline)) from error
        self.noticed(result)
        return result

    def _infer_in_parts(self, operation: Infer, largest: int, deadline: Deadline) -> Flow[InferResult]:
        if not operation.repeatable:
            raise InvalidInput(
                f"Model {self.name!r}: given a batch of {operation.inputs[0].array.shape[0]}, expected at most "
                f"{largest} (max_batch_size): a step of a sequence is one request"
            )
        operation = on_host(operation)
        parts = [replace(operation, inputs=tensors) for tensors in split_tensors(operation.inputs, largest)]
        results = yield Together([self._send(part, deadline) for part in parts], self.parts_at_once)
        return join_results(results, [part.inputs[0].array.shape[0] for part in parts])

    def _send(self, operation: Infer, deadline: Deadline) -> Flow[InferResult]:
        if self.hedge_after is None or not operation.repeatable or len(self.caller.servers.all()) == 1:
            return (yield from self.caller.call(operation, deadline))
        result: InferResult = yield FirstOf(
            self.caller.call(operation, deadline), lambda: self.caller.call(operation, deadline), self.hedge_after
        )
        return result

    def _fetch_metadata(self, deadline: Deadline) -> Flow[ModelMetadata]:
        try:
            metadata = yield from self.caller.call(ReadModelMetadata(self.name, self.version), deadline)
        except (ModelNotFound, ModelNotReady) as error:
            raise (yield from self.explained(error, deadline)) from error
        try:
            config = yield from self.caller.call(ReadModelConfig(self.name, self.version), deadline)
        except (ProtocolError, AccessDenied, InvalidInput, ModelNotFound):
            # The configuration is an extension of Triton, and access may be restricted: then the server checks inputs.
            return metadata
        return metadata.with_config(config)


def _explanation(model: ModelCore, error: ModelNotFound | ModelNotReady, models: Iterable[ModelStatus]) -> ClientError:
    mine = [status for status in models if status.name == model.name]
    wanted = [status for status in mine if not model.version or status.version in (model.version, "")]
    if any(status.state == "READY" for status in wanted):
        # The model is ready: "not found" was part of its own message, or it has become ready since.
        return InferenceFailed(str(error)) if isinstance(error, ModelNotFound) else error
    if wanted:
        state = wanted[0].state.lower() or "not loaded"
        reason = " ".join(wanted[0].reason.split())
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
