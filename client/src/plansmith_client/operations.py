"""What can be asked of a server, whatever carries it.

An operation is a plain value; its type parameter is the type of the answer. A transport turns it into a message of its
wire and the reply into the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from plansmith_client.metadata import ModelConfig, ModelMetadata, ModelStatus, ServerMetadata
from plansmith_client.results import InferResult

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import numpy as np

__all__ = [
    "Infer",
    "IsModelReady",
    "IsServerLive",
    "IsServerReady",
    "ListModels",
    "ModelOperation",
    "Operation",
    "ParameterValue",
    "ReadModelConfig",
    "ReadModelMetadata",
    "ReadServerMetadata",
    "Tensor",
]

Answer_co = TypeVar("Answer_co", covariant=True)

ParameterValue = bool | int | float | str


class Operation(Generic[Answer_co]):
    """Something that a server can be asked."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class IsServerLive(Operation[bool]):
    """Whether the server's process answers."""


@dataclass(frozen=True, slots=True)
class IsServerReady(Operation[bool]):
    """Whether the server is ready for requests."""


@dataclass(frozen=True, slots=True)
class ReadServerMetadata(Operation[ServerMetadata]):
    """The server's name, version and extensions."""


@dataclass(frozen=True, slots=True)
class ListModels(Operation[tuple[ModelStatus, ...]]):
    """The repository's index: every model and its state."""


@dataclass(frozen=True, slots=True)
class ModelOperation(Operation[Answer_co]):
    """Something that concerns one model; an empty version leaves the choice to the server."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class IsModelReady(ModelOperation[bool]):
    """Whether the model is ready for requests."""


@dataclass(frozen=True, slots=True)
class ReadModelMetadata(ModelOperation[ModelMetadata]):
    """The model's inputs and outputs, without what only its configuration tells."""


@dataclass(frozen=True, slots=True)
class ReadModelConfig(ModelOperation[ModelConfig]):
    """The part of the model's configuration that the client uses; an extension of the protocol."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input that has been checked: its array is of the datatype's dtype, BYTES as `bytes` objects."""

    name: str
    datatype: str
    array: np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Infer(ModelOperation[InferResult]):
    """One inference; `outputs` None asks for all of them."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] | None
    request_id: str
    parameters: Mapping[str, ParameterValue]
