"""The metadata of a server and of its models."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from plansmith_client.errors import InvalidInput, ProtocolError
from plansmith_client.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ModelConfig",
    "ModelMetadata",
    "ModelStatus",
    "ServerMetadata",
    "read_batch_size",
    "read_specs",
    "read_text",
    "shape_fits",
]

_SOURCE_PLACES = "\n\nAt:\n"


class ServerMetadata(NamedTuple):
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


class ModelStatus(NamedTuple):
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
        """`reason` in one line, without the lines of source code that Triton's Python backend puts behind it.

        Example:
            ```python
            for status in client.models():
                print(status.name, status.state, status.short_reason)
            ```
        """
        return " ".join(self.reason.partition(_SOURCE_PLACES)[0].split())


@dataclass(frozen=True)
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
        queue_timeout: whether a request may say how long it waits in the server's queue: it then says the call's.

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
    queue_timeout: bool = False

    @cached_property
    def outputs_by_name(self) -> dict[str, TensorSpec]:
        """The outputs by name."""
        return {spec.name: spec for spec in self.outputs}

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs."""
        return tuple(spec.name for spec in self.inputs)

    @cached_property
    def has_optional_inputs(self) -> bool:
        """Whether a request may leave an input out."""
        return any(spec.optional for spec in self.inputs)

    @cached_property
    def fixed_outputs(self) -> tuple[tuple[str, int, bool], ...]:
        """The outputs of known size: name, bytes, and whether these are the bytes of one row of the batch.

        Which outputs come may depend on which optional inputs are given: then no size is known.
        """
        if self.max_batch_size is None or self.has_optional_inputs:
            return ()
        fixed = []
        for spec in self.outputs:
            is_batch = bool(self.max_batch_size) and spec.shape[:1] == (-1,)
            shape = spec.shape[1:] if is_batch else spec.shape
            if spec.datatype != "BYTES" and all(size > 0 for size in shape):
                with contextlib.suppress(InvalidInput):
                    fixed.append((spec.name, math.prod(shape) * spec.numpy_dtype.itemsize, is_batch))
        return tuple(fixed)

    @cached_property
    def fixed_bytes(self) -> int:
        """The bytes of the outputs of known size, of one row where they are of a batch."""
        return sum(size for _, size, _ in self.fixed_outputs)

    def with_config(self, config: ModelConfig) -> ModelMetadata:
        """The same, completed from Triton's model configuration.

        Raises:
            ProtocolError: the model batches, and has a tensor without a dimension for it.
        """
        for spec in (*self.inputs, *self.outputs):
            if config.max_batch_size and not spec.shape:
                raise ProtocolError(f"it has max_batch_size, and {spec.name!r} has no dimension for the batch")
        inputs = tuple(replace(spec, optional=spec.name in config.optional_inputs) for spec in self.inputs)
        return replace(
            self,
            inputs=inputs,
            max_batch_size=config.max_batch_size,
            decoupled=config.decoupled,
            queue_timeout=config.queue_timeout,
        )


class ModelConfig(NamedTuple):
    """What the client uses of Triton's model configuration.

    Attributes:
        max_batch_size: the largest batch; 0 if the model does not batch.
        optional_inputs: the names of the inputs that a request may leave out.
        decoupled: whether a request is answered with any number of responses.
        queue_timeout: whether a request may say how long it waits in the queue.
    """

    max_batch_size: int
    optional_inputs: frozenset[str]
    decoupled: bool = False
    queue_timeout: bool = False


def read_text(value: Any) -> str:
    """A string that a server sent.

    Raises:
        ProtocolError: it is something else; UnicodeEncodeError if it is not valid Unicode.
    """
    if not isinstance(value, str):
        raise ProtocolError(f"{value!r} should be a string")
    if not value.isascii():
        # JSON can write halves of characters, which cannot be sent back, shown or filed.
        value.encode()
    return value


def read_specs(tensors: Iterable[tuple[Any, Any, Iterable[Any]]]) -> tuple[TensorSpec, ...]:
    """The inputs or the outputs of a model, from their names, datatypes and shapes.

    Raises:
        ProtocolError: a name is empty or occurs twice, or a dimension is neither a size nor -1.
    """
    specs: dict[str, TensorSpec] = {}
    for name, datatype, shape in tensors:
        dimensions = tuple(shape)
        if not read_text(name) or name in specs:
            raise ProtocolError(f"the tensor name {name!r} is empty or occurs twice")
        if any(type(size) is not int or size < -1 for size in dimensions):
            raise ProtocolError(f"{list(dimensions)} is not the shape of the tensor {name!r}")
        specs[name] = TensorSpec(name, read_text(datatype), dimensions)
    return tuple(specs.values())


def read_batch_size(value: Any) -> int:
    """A model's largest batch.

    Raises:
        ProtocolError: it is not a whole number from 0.
    """
    if type(value) is not int or value < 0:
        raise ProtocolError(f"max_batch_size is {value!r}")
    return value


@lru_cache(1024)
def shape_fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    """Whether the shape of an array is a declared one, in which -1 is any size."""
    return len(shape) == len(declared) and all(size in (given, -1) for given, size in zip(shape, declared, strict=True))
