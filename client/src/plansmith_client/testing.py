"""A server that is a Python function, for tests of code that calls models: nothing listens and nothing is sent.

```python
import numpy as np
from plansmith_client import Client, TensorSpec
from plansmith_client.testing import FakeModel, FakeServer

x, y = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 4))
server = FakeServer({"double": FakeModel(lambda inputs: {"y": inputs["x"] * 2}, [x], [y])})
with Client("localhost:8001", transport=server) as client:
    assert client.model("double")(np.ones((2, 4), np.float32)).array.sum() == 16
```

Everything above the wire is the client's own: the checks of inputs, splitting, `map`, retries, fallbacks, deadlines,
observers. A function that raises `ServerUnavailable` or `ServerOverloaded` is an outage or an overload.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client._version import __version__
from plansmith_client.errors import ClientError, InferenceFailed, InvalidInput, ModelNotFound, ProtocolError
from plansmith_client.inputs.conversion import array_from_value
from plansmith_client.protocol.metadata import ModelConfig, ModelMetadata, ModelStatus, ServerMetadata
from plansmith_client.protocol.operations import (
    Infer,
    IsModelReady,
    IsServerLive,
    IsServerReady,
    ListModels,
    ModelOperation,
    ReadModelConfig,
    ReadModelMetadata,
    ReadServerMetadata,
)
from plansmith_client.protocol.results import InferResult
from plansmith_client.tensors import TensorSpec
from plansmith_client.transports.connections import NO_HEADERS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from numpy.typing import ArrayLike

    from plansmith_client.protocol.operations import Answer_co, Operation
    from plansmith_client.transports import AsyncTransport, Transport
    from plansmith_client.transports.addresses import Address
    from plansmith_client.transports.connections import Connection
    from plansmith_client.transports.deadlines import Deadline

    Outputs = Mapping[str, ArrayLike]

__all__ = ["FakeModel", "FakeServer"]

_VERSION = "1"


@dataclass(frozen=True, slots=True)
class FakeModel:
    """A model that is a Python function.

    Attributes:
        function: is given the inputs by name, as arrays of the declared dtypes (BYTES as `bytes` objects), and returns
            the outputs by name; for a decoupled model an iterable of such outputs. An exception other than
            `ClientError` is `InferenceFailed` for the caller, as when a real model fails.
        inputs: as a real model's `metadata.inputs`: shapes with the batch dimension.
        outputs: likewise.
        max_batch_size: the largest batch; 0 for a model that does not batch.
        decoupled: whether it answers with any number of responses.

    Raises:
        InvalidInput: an argument is of another type.

    Example:
        ```python
        from plansmith_client.testing import FakeModel

        FakeModel(
            lambda inputs: {"y": inputs["x"] * 2},
            inputs=[TensorSpec("x", "FP32", (-1, 4))],
            outputs=[TensorSpec("y", "FP32", (-1, 4))],
            max_batch_size=8,
        )
        ```
    """

    function: Callable[[Mapping[str, np.ndarray[Any, Any]]], Outputs | Iterable[Outputs]]
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    max_batch_size: int = 0
    decoupled: bool = False

    def __post_init__(self) -> None:
        are_specs = all(
            isinstance(part, Sequence) and all(isinstance(spec, TensorSpec) for spec in part)
            for part in (self.inputs, self.outputs)
        )
        if not callable(self.function) or not are_specs:
            raise InvalidInput(f"A FakeModel needs a function, and TensorSpecs as inputs and outputs, got {self}")


class FakeServer:
    """A server of fake models, to pass as `Client(url, transport=...)` or `AsyncClient(url, transport=...)`.

    Functions run in the thread or the event loop of the caller. Several URLs are several servers that all answer alike.

    Args:
        models: the models by name.

    Attributes:
        requests: the inferences that have been asked for, in order, each with `name`, `inputs`, `parameters`,
            `request_id`; what failed the client's checks never comes here.

    Raises:
        InvalidInput: `models` is something else.

    Example:
        ```python
        from plansmith_client.testing import FakeModel, FakeServer

        spec = TensorSpec("x", "FP32", (-1, 4))
        server = FakeServer({"same": FakeModel(lambda inputs: inputs, [spec], [spec])})
        with Client("localhost:8001", transport=server) as fake:
            fake.model("same")(np.ones((2, 4), np.float32))
        assert [request.name for request in server.requests] == ["same"]
        ```
    """

    def __init__(self, models: Mapping[str, FakeModel]) -> None:
        if not isinstance(models, Mapping) or not all(isinstance(model, FakeModel) for model in models.values()):
            raise InvalidInput(f"models must be a mapping of names and FakeModels, got {models!r}")
        self.models = dict(models)
        self.requests: list[Infer] = []

    def open_transport(self, address: Address, connection: Connection) -> Transport:  # noqa: ARG002
        """What a `Client` calls for each of its servers."""
        return _FakeTransport(self)

    def open_async_transport(self, address: Address, connection: Connection) -> AsyncTransport:  # noqa: ARG002
        """What an `AsyncClient` calls for each of its servers."""
        return _FakeAsyncTransport(self)

    def answer(self, operation: Operation[Any]) -> Any:
        """The answer to an operation.

        Raises:
            ClientError: as a real server would be reported, or as a model's function says.
        """
        if isinstance(operation, Infer):
            for result in self.responses(operation):
                return result
            raise InferenceFailed(f"Model {operation.name!r}: its function gave no outputs")
        known = _ANSWERS.get(type(operation))
        if known is None:
            raise ProtocolError(f"The fake server does not know this call ({type(operation).__name__})")
        return known(self, operation)

    def responses(self, operation: Infer) -> Iterator[InferResult]:
        """The responses to an inference: one, or of a decoupled model any number.

        Raises:
            ClientError: as `answer`.
        """
        model = self.model(operation)
        self.requests.append(operation)
        try:
            given = model.function({tensor.name: tensor.array for tensor in operation.inputs})
            for outputs in (given,) if isinstance(given, Mapping) else given:
                arrays = _arrays(model, outputs, operation)
                yield InferResult(
                    arrays, model_name=operation.name, model_version=_VERSION, request_id=operation.request_id
                )
        except ClientError:
            raise
        except Exception as error:
            raise InferenceFailed(f"Model {operation.name!r}: {type(error).__name__}: {error}") from error

    def model(self, operation: ModelOperation[Any]) -> FakeModel:
        """The model that an operation is about.

        Raises:
            ModelNotFound: there is none of that name and version.
        """
        model = self.models.get(operation.name)
        if model is None or operation.version not in ("", _VERSION):
            raise ModelNotFound(f"The fake server has no model {operation.name!r} of version {operation.version!r}")
        return model


def _metadata(server: FakeServer, operation: ReadModelMetadata) -> ModelMetadata:
    model = server.model(operation)
    return ModelMetadata(operation.name, (_VERSION,), "fake", tuple(model.inputs), tuple(model.outputs))


def _config(server: FakeServer, operation: ReadModelConfig) -> ModelConfig:
    model = server.model(operation)
    optional = frozenset(spec.name for spec in model.inputs if spec.optional)
    return ModelConfig(model.max_batch_size, optional, model.decoupled)


_ANSWERS: Mapping[type[Operation[Any]], Callable[[FakeServer, Any], Any]] = {
    IsServerLive: lambda *_: True,
    IsServerReady: lambda *_: True,
    IsModelReady: lambda server, operation: operation.name in server.models,
    ReadServerMetadata: lambda *_: ServerMetadata("fake", __version__, ()),
    ListModels: lambda server, _: tuple(ModelStatus(name, _VERSION, "READY", "") for name in server.models),
    ReadModelMetadata: _metadata,
    ReadModelConfig: _config,
}


def _arrays(model: FakeModel, outputs: Outputs, operation: Infer) -> dict[str, np.ndarray[Any, Any]]:
    specs = {spec.name: spec for spec in model.outputs}
    names = operation.outputs or tuple(outputs)
    arrays = {name: array_from_value(outputs[name], specs[name].datatype) for name in names}
    return {name: _classes(array, operation.classes) for name, array in arrays.items()} if operation.classes else arrays


def _classes(array: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    rows = [
        [f"{row[index]:f}:{index}".encode() for index in np.argsort(-row, kind="stable")[:count]]
        for row in array.reshape(-1, array.shape[-1])
    ]
    return np.array(rows, object).reshape(*array.shape[:-1], -1)


class _FakeTransport:
    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def call(
        self,
        operation: Operation[Answer_co],
        deadline: Deadline,
        headers: Mapping[str, str] = NO_HEADERS,  # noqa: ARG002
    ) -> Answer_co:
        deadline.remaining()
        answer: Answer_co = self._server.answer(operation)
        # A function that took too long is a server that did.
        deadline.remaining()
        return answer

    def stream(
        self,
        operation: Infer,
        deadline: Deadline,
        headers: Mapping[str, str] = NO_HEADERS,  # noqa: ARG002
    ) -> Iterator[InferResult]:
        for result in self._server.responses(operation):
            deadline.remaining()
            yield result

    def close_idle(self) -> None: ...

    def reopen(self) -> None: ...

    def close(self) -> None: ...


class _FakeAsyncTransport(_FakeTransport):
    async def call(  # type: ignore[override]
        self, operation: Operation[Answer_co], deadline: Deadline, headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer_co:
        return super().call(operation, deadline, headers)

    async def stream(  # type: ignore[override]
        self, operation: Infer, deadline: Deadline, headers: Mapping[str, str] = NO_HEADERS
    ) -> AsyncIterator[InferResult]:
        for result in super().stream(operation, deadline, headers):
            yield result

    async def close(self) -> None: ...  # type: ignore[override]
