"""The metadata of a server and of its models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plansmith_client.tensors import TensorSpec

__all__ = ["ModelConfig", "ModelMetadata", "ModelStatus", "ServerMetadata"]

_SOURCE_PLACES = "\n\nAt:\n"


@dataclass(frozen=True, slots=True)
class ServerMetadata:
    """The server's name, version, and the extensions of the protocol that it speaks.

    Example:
        ```python
        if "binary_tensor_data" in client.server_metadata().extensions:
            ...
        ```
    """

    name: str
    version: str
    extensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version of one model in the server's repository.

    Attributes:
        name: the model's name.
        version: the version, empty for a model that has not been loaded.
        state: `"READY"`, `"LOADING"`, `"UNLOADING"`, `"UNAVAILABLE"`, or empty for a model that has not been loaded.
        reason: why it is not ready, as the server puts it; empty otherwise.

    Example:
        ```python
        failed = [model for model in client.models() if model.state == "UNAVAILABLE"]
        ```
    """

    name: str
    version: str
    state: str
    reason: str

    @property
    def short_reason(self) -> str:
        """`reason` in one line, without the lines of source code that Triton's Python backend puts behind it."""
        return " ".join(self.reason.partition(_SOURCE_PLACES)[0].split())


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """A model's inputs, outputs and limits.

    Attributes:
        name: the model's name.
        versions: the versions that the server has ready.
        platform: the framework, as the server names it; may be empty.
        inputs: in the order of the model; positional arguments follow it.
        outputs: in the order of the model.
        max_batch_size: the largest first dimension of a request; 0 if the model does not batch, None if
            unknown (the model configuration is Triton's extension of the protocol).
        decoupled: whether the model answers a request with any number of responses: use `stream`.

    Example:
        ```python
        for spec in client.model("digits").metadata.inputs:
            print(spec.name, spec.datatype, spec.shape)
        ```
    """

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int | None = None
    decoupled: bool = False

    def with_config(self, config: ModelConfig) -> ModelMetadata:
        """The same, completed from Triton's model configuration."""
        inputs = tuple(replace(spec, optional=spec.name in config.optional_inputs) for spec in self.inputs)
        return replace(self, inputs=inputs, max_batch_size=config.max_batch_size, decoupled=config.decoupled)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What the client uses of Triton's model configuration.

    Attributes:
        max_batch_size: the largest batch; 0 if the model does not batch.
        optional_inputs: the names of the inputs that a request may leave out.
        decoupled: whether a request is answered with any number of responses.
    """

    max_batch_size: int
    optional_inputs: frozenset[str]
    decoupled: bool = False
