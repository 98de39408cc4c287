"""One model of a server."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from plansmith_client.deadlines import Deadline
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
from plansmith_client.operations import Infer, IsModelReady, ListModels, ReadModelConfig, ReadModelMetadata
from plansmith_client.validation import bind_inputs, check_inputs, check_outputs, check_parameters, check_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import ArrayLike

    from plansmith_client.metadata import ModelMetadata
    from plansmith_client.operations import ParameterValue
    from plansmith_client.results import InferResult
    from plansmith_client.transports import Transport

__all__ = ["Model"]


class Model:
    """One model of a server: call it with arrays. Made by `Client.model`; safe to use from many threads at once.

    Example:
        ```python
        model = client.model("bert")
        result = model(ids, mask)             # in the order of model.metadata.inputs
        result = model(ids=ids, mask=mask)    # or by name
        result["logits"]
        ```
    """

    def __init__(self, transport: Transport, timeout: float, url: str, name: str, version: str) -> None:
        self._transport = transport
        self._timeout = timeout
        self._url = url
        self._name = name
        self._version = version
        self._metadata: ModelMetadata | None = None
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The model's name."""
        return self._name

    @property
    def version(self) -> str:
        """The version asked for; empty where the server chooses."""
        return self._version

    @property
    def metadata(self) -> ModelMetadata:
        """The model's inputs and outputs; read with the first use, and again after the server refused a request.

        Raises:
            ModelNotFound: the server has no such model or version.
            ModelNotReady: it has, but the model is not loaded.
            ServerUnavailable: nothing answers.
            DeadlineExceeded: the answer took longer than the client's timeout.
            AccessDenied: the server refuses to tell.
            ProtocolError: something else than an inference server answers.

        Example:
            ```python
            model.metadata.inputs[0].shape  # (-1, 64)
            ```
        """
        return self._read_metadata(Deadline(self._timeout))

    def is_ready(self) -> bool:
        """Whether the model is ready; False too where it does not exist or the server cannot be reached in time.

        Raises:
            AccessDenied: the server refuses to tell.
            ProtocolError: something else than an inference server answers.

        Example:
            ```python
            if client.model("digits").is_ready(): ...
            ```
        """
        try:
            return self._transport.call(IsModelReady(self._name, self._version), Deadline(self._timeout))
        except (ModelNotFound, ModelNotReady, ServerUnavailable, ServerOverloaded, DeadlineExceeded):
            return False

    def __call__(self, *positional: ArrayLike, **named: ArrayLike) -> InferResult:
        """Run the model once: `infer` with the inputs by position, by name, or both.

        Raises:
            InvalidInput: the inputs do not match the metadata; nothing was sent.
            ClientError: any other of the errors that `infer` lists.

        Example:
            ```python
            client.model("digits")(images).array
            ```
        """
        deadline = Deadline(self._timeout)
        if positional:
            named = bind_inputs(self._read_metadata(deadline), positional, named)
        return self._infer(named, None, "", None, deadline)

    def infer(
        self,
        inputs: Mapping[str, ArrayLike],
        *,
        outputs: Iterable[str] | None = None,
        request_id: str = "",
        parameters: Mapping[str, ParameterValue] | None = None,
        timeout: float | None = None,
    ) -> InferResult:
        """Run the model once.

        Args:
            inputs: by name, anything that numpy takes for an array; which dtypes are taken for which datatype is
                written in `plansmith_client.conversion`. Shapes include the batch dimension.
            outputs: the outputs to compute and send; by default all of them.
            request_id: an identifier that the server gives back and writes to its log.
            parameters: parameters of the request, such as Triton's `priority`.
            timeout: seconds that the call may take in all; the client's by default.

        Returns:
            The outputs by name.

        Raises:
            InvalidInput: names, dtypes, shapes or batch do not match the metadata, and nothing was sent; or the server
                itself refuses the request.
            ModelNotFound: the server has no such model or version.
            ModelNotReady: it has, but the model is not loaded.
            InferenceFailed: the model failed on this request.
            ServerOverloaded: the server's queue is full.
            ServerUnavailable: nothing answers, or the connection broke.
            DeadlineExceeded: the timeout has passed.
            AccessDenied: the server wants credentials.
            ProtocolError: the answer is not one of the Open Inference Protocol.

        Example:
            ```python
            model.infer({"ids": ids, "mask": mask}, outputs=["logits"], timeout=0.5)
            ```
        """
        return self._infer(
            inputs, outputs, request_id, parameters, Deadline(self._timeout if timeout is None else timeout)
        )

    def __repr__(self) -> str:
        version = f", version {self._version}" if self._version else ""
        return f"Model({self._name!r}{version} at {self._url})"

    def _infer(
        self,
        inputs: Mapping[str, ArrayLike],
        outputs: Iterable[str] | None,
        request_id: str,
        parameters: Mapping[str, ParameterValue] | None,
        deadline: Deadline,
    ) -> InferResult:
        metadata = self._read_metadata(deadline)
        operation = Infer(
            self._name,
            self._version,
            check_inputs(metadata, inputs),
            check_outputs(metadata, outputs),
            check_text("request_id", request_id),
            check_parameters(metadata, parameters),
        )
        try:
            return self._transport.call(operation, deadline)
        except (InvalidInput, ModelNotFound, ModelNotReady) as error:
            # What the server refuses although the metadata allows it: the model may have changed.
            self._metadata = None
            if isinstance(error, InvalidInput):
                raise
            raise self._explained(error, deadline) from error

    def _read_metadata(self, deadline: Deadline) -> ModelMetadata:
        metadata = self._metadata
        if metadata is not None:
            return metadata
        # One thread reads while the others wait for it, but not longer than each may: remaining() ends the loop.
        while not self._lock.acquire(timeout=_lock_timeout(deadline)):
            pass
        try:
            if self._metadata is None:
                self._metadata = self._fetch_metadata(deadline)
            return self._metadata
        finally:
            self._lock.release()

    def _fetch_metadata(self, deadline: Deadline) -> ModelMetadata:
        try:
            metadata = self._transport.call(ReadModelMetadata(self._name, self._version), deadline)
        except (ModelNotFound, ModelNotReady) as error:
            raise self._explained(error, deadline) from error
        try:
            return metadata.with_config(self._transport.call(ReadModelConfig(self._name, self._version), deadline))
        except (ProtocolError, AccessDenied, InvalidInput, ModelNotFound):
            # The configuration is Triton's extension, and may be kept from clients: without it the server checks.
            return metadata

    def _explained(self, error: ModelNotFound | ModelNotReady, deadline: Deadline) -> ClientError:
        """What the repository's index tells about a model that the server did not use."""
        try:
            models = self._transport.call(ListModels(), deadline)
        except ClientError:
            return error
        mine = [model for model in models if model.name == self._name]
        wanted = [model for model in mine if not self._version or model.version in (self._version, "")]
        if any(model.state == "READY" for model in wanted):
            # The model is there: "not found" was its own word, "not ready" has passed.
            return InferenceFailed(str(error)) if isinstance(error, ModelNotFound) else error
        if wanted:
            state = wanted[0].state.lower() or "not loaded"
            reason = " ".join(wanted[0].reason.split())
            return ModelNotReady(
                f"Model {self._name!r} at {self._url} is {state}{f' ({reason})' if reason else ''}: "
                "load it, or see the server's log"
            )
        if isinstance(error, ModelNotReady):
            return error
        if mine:
            versions = ", ".join(model.version for model in mine if model.version) or "none"
            return ModelNotFound(
                f"Model {self._name!r} at {self._url} has no version {self._version}: it has {versions}"
            )
        names = ", ".join(sorted({model.name for model in models})) or "no models at all"
        return ModelNotFound(f"No model {self._name!r} at {self._url}: the server has {names}")


def _lock_timeout(deadline: Deadline) -> float:
    remaining = deadline.remaining()
    return -1 if remaining is None else min(remaining, threading.TIMEOUT_MAX)
