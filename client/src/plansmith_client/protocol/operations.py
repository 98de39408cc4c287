"""The operations of a server, independent of the transport.

An operation is a plain value; its type parameter is the type of the answer. A transport turns it into a message of its
wire and the reply into the answer. Nothing changes an operation once it is made. Most are plain classes: a frozen
dataclass takes three times as long to make, and many times as long to define, for which every program would wait.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from plansmith_client.protocol.metadata import ModelConfig, ModelMetadata, ModelStatus, ServerMetadata
from plansmith_client.protocol.results import InferResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from typing_extensions import Self

    from plansmith_client.protocol.statistics import ModelStatistics  # noqa: F401 - in quotes below
    from plansmith_client.shared_memory.cuda import DeviceArray

__all__ = [
    "Infer",
    "IsModelReady",
    "IsServerLive",
    "IsServerReady",
    "ListCudaSharedMemory",
    "ListModelNames",
    "ListModels",
    "ListSharedMemory",
    "LoadModel",
    "LogSettings",
    "ModelOperation",
    "Operation",
    "OutputPlace",
    "ParameterValue",
    "ReadConfigDocument",
    "ReadModelConfig",
    "ReadModelMetadata",
    "ReadServerMetadata",
    "ReadStatistics",
    "RegisterCudaSharedMemory",
    "RegisterSharedMemory",
    "SharedPlace",
    "Tensor",
    "TraceSettings",
    "UnloadModel",
    "UnregisterCudaSharedMemory",
    "UnregisterSharedMemory",
]

Answer_co = TypeVar("Answer_co", covariant=True)

ParameterValue = bool | int | float | str


class Operation(Generic[Answer_co]):
    """One request to a server, of any kind."""

    __slots__ = ()

    def __class_getitem__(cls, answer: object) -> type[Self]:
        """The class itself. The type of the answer is for type checkers; `typing` would keep it, and us, to the end."""
        return cls

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self, 'name', '')})"

    @property
    def repeatable(self) -> bool:
        """Whether it is safe to send the operation again if its answer was lost."""
        return True


class IsServerLive(Operation[bool]):
    """Whether the server's process answers."""


class IsServerReady(Operation[bool]):
    """Whether the server is ready for requests."""


class ReadServerMetadata(Operation[ServerMetadata]):
    """The server's name, version and extensions."""


class ListModels(Operation[tuple[ModelStatus, ...]]):
    """The repository's index: every model and its state."""


class ListModelNames(Operation[tuple[str, ...]]):
    """The names of the models of a server without an index; over HTTP only."""


class ModelOperation(Operation[Answer_co]):
    """An operation on one model; with an empty version the server chooses."""

    def __init__(self, name: str, version: str) -> None:
        self.name = name
        self.version = version


class IsModelReady(ModelOperation[bool]):
    """Whether the model is ready for requests."""


class ReadModelMetadata(ModelOperation[ModelMetadata]):
    """The model's inputs and outputs, without its configuration."""


class ReadModelConfig(ModelOperation[ModelConfig]):
    """The part of the model's configuration that the client uses; an extension of the protocol."""


class ReadConfigDocument(ModelOperation[dict[str, Any]]):
    """The model's whole configuration, by the names of Triton's `model_config.proto`; an extension."""


class ReadStatistics(ModelOperation["tuple[ModelStatistics, ...]"]):
    """The counters of each version since it was loaded, for all models if the name is empty; an extension."""


class LoadModel(ModelOperation[bool]):
    """Load or reload a model; an extension.

    Attributes:
        config: a configuration, JSON, that replaces the repository's; empty for the repository's.
        files: the files of the model by their paths in its folder, instead of the repository's.
    """

    def __init__(self, name: str, version: str, config: str = "", files: Mapping[str, bytes] | None = None) -> None:
        super().__init__(name, version)
        self.config = config
        self.files: Mapping[str, bytes] = {} if files is None else files

    @property
    def repeatable(self) -> bool:
        """No: it changes the server."""
        return False


class UnloadModel(ModelOperation[bool]):
    """Unload a model and, if `dependents` is set, the models that only it uses; an extension."""

    def __init__(self, name: str, version: str, dependents: bool = False) -> None:  # noqa: FBT001, FBT002
        super().__init__(name, version)
        self.dependents = dependents

    @property
    def repeatable(self) -> bool:
        """No: it changes the server."""
        return False


class TraceSettings(ModelOperation[dict[str, Any]]):
    """Change the trace settings, of one model or, with an empty name, of the server, and read them; an extension.

    Attributes:
        changes: new values by name; None goes back to the default. Empty to read only.
    """

    def __init__(self, name: str, version: str, changes: Mapping[str, Any]) -> None:
        super().__init__(name, version)
        self.changes = changes

    @property
    def repeatable(self) -> bool:
        """Whether it only reads."""
        return not self.changes


class LogSettings(Operation[dict[str, Any]]):
    """Change the server's log settings and read them; an extension."""

    def __init__(self, changes: Mapping[str, Any]) -> None:
        self.changes = changes

    @property
    def repeatable(self) -> bool:
        """Whether it only reads."""
        return not self.changes


class RegisterSharedMemory(Operation[bool]):
    """Ask the server to map a region of system shared memory; an extension."""

    def __init__(self, name: str, key: str, size: int) -> None:
        self.name = name
        self.key = key
        self.size = size


class UnregisterSharedMemory(Operation[bool]):
    """Ask the server to unmap a region."""

    def __init__(self, name: str) -> None:
        self.name = name


class ListSharedMemory(Operation[tuple[str, ...]]):
    """The names of the regions that the server has mapped, of all clients."""


class RegisterCudaSharedMemory(Operation[bool]):
    """Ask the server to map a region of a GPU's memory; an extension.

    Attributes:
        handle: the bytes of CUDA's handle.
        device: the number of the GPU.
    """

    def __init__(self, name: str, handle: bytes, device: int, size: int) -> None:
        self.name = name
        self.handle = handle
        self.device = device
        self.size = size


class UnregisterCudaSharedMemory(UnregisterSharedMemory):
    """Ask the server to unmap a region of a GPU's memory."""


class ListCudaSharedMemory(Operation[tuple[str, ...]]):
    """The names of the regions of GPUs' memory that the server has mapped, of all clients."""


class SharedPlace(NamedTuple):
    """Where in a registered region a tensor lies."""

    region: str
    offset: int
    size: int


class OutputPlace(NamedTuple):
    """Where the server writes an output, and how to read it there."""

    place: SharedPlace
    memory: memoryview


class Tensor(NamedTuple):
    """An input that has been checked: its array is of the datatype's dtype, BYTES as `bytes` objects.

    Attributes:
        place: where in shared memory the server finds the values; None if they are in the request.
        device: the array on a GPU; `array` then has its shape and dtype only.
    """

    name: str
    datatype: str
    array: np.ndarray[Any, Any]
    place: SharedPlace | None = None
    device: DeviceArray | None = None


@dataclass(eq=False, repr=False)
class Infer(ModelOperation[InferResult]):
    """One inference.

    Attributes:
        outputs: the names to ask for; None for all of them.
        classes: how many of the largest values to ask for as `score:index:label`, instead of the outputs themselves;
            0 for the outputs. An extension.
        on_device: whether an input lies on a GPU: it must be placed in shared memory or copied to the
            host before the request can be sent.
        metadata: by which the request was checked; None if it is unknown.
        places: the outputs that come in shared memory, all of which are in `outputs`.
    """

    name: str
    version: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...] | None
    request_id: str
    parameters: Mapping[str, ParameterValue]
    classes: int = 0
    on_device: bool = False
    metadata: ModelMetadata | None = None
    places: Mapping[str, OutputPlace] = field(default_factory=dict)

    @property
    def repeatable(self) -> bool:
        """Whether it is not a step of a sequence, which changes state in the server."""
        return not self.parameters.get("sequence_id")
