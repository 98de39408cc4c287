"""A typed client for Triton and other servers of the Open Inference Protocol: numpy in, numpy out, gRPC or HTTP.

Example:
    ```python
    from plansmith_client import Client

    with Client("localhost:8001") as client:
        result = client.model("digits")(images)
    ```
"""

from __future__ import annotations

import importlib
import typing

from plansmith_client._version import __version__ as __version__
from plansmith_client.calling.breaker import BreakerPolicy
from plansmith_client.calling.observers import Observer
from plansmith_client.calling.retries import RetryPolicy
from plansmith_client.errors import (
    AccessDenied,
    ClientClosed,
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
from plansmith_client.faces.client import Client
from plansmith_client.faces.model import Model
from plansmith_client.protocol.metadata import ModelMetadata, ModelStatus, ServerMetadata
from plansmith_client.protocol.results import InferResult
from plansmith_client.shared_memory.policy import SharedMemoryPolicy
from plansmith_client.tensors import TensorSpec

if typing.TYPE_CHECKING:
    from plansmith_client.faces.async_client import AsyncClient
    from plansmith_client.faces.async_model import AsyncModel
    from plansmith_client.faces.async_sequences import AsyncModelSequence
    from plansmith_client.faces.batched import AsyncBatchedModel, BatchedModel
    from plansmith_client.faces.sequences import ModelSequence
    from plansmith_client.mapping.mapped import MappedItem
    from plansmith_client.mapping.runs import AsyncMapRun, MapRun
    from plansmith_client.protocol.classification import ClassScore
    from plansmith_client.protocol.statistics import BatchStatistics, Duration, ModelStatistics
else:
    # A blocking client's first answer needs none of these: each is imported with its first use.
    _PLACES = {
        "AsyncBatchedModel": "faces.batched",
        "AsyncClient": "faces.async_client",
        "AsyncMapRun": "mapping.runs",
        "AsyncModel": "faces.async_model",
        "AsyncModelSequence": "faces.async_sequences",
        "BatchStatistics": "protocol.statistics",
        "BatchedModel": "faces.batched",
        "ClassScore": "protocol.classification",
        "Duration": "protocol.statistics",
        "MapRun": "mapping.runs",
        "MappedItem": "mapping.mapped",
        "ModelSequence": "faces.sequences",
        "ModelStatistics": "protocol.statistics",
    }

    def __getattr__(name: str) -> object:
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "AccessDenied",
    "AsyncBatchedModel",
    "AsyncClient",
    "AsyncMapRun",
    "AsyncModel",
    "AsyncModelSequence",
    "BatchStatistics",
    "BatchedModel",
    "BreakerPolicy",
    "ClassScore",
    "Client",
    "ClientClosed",
    "ClientError",
    "DeadlineExceeded",
    "Duration",
    "InferResult",
    "InferenceFailed",
    "InvalidInput",
    "MapRun",
    "MappedItem",
    "Model",
    "ModelMetadata",
    "ModelNotFound",
    "ModelNotReady",
    "ModelSequence",
    "ModelStatistics",
    "ModelStatus",
    "Observer",
    "ProtocolError",
    "RetryPolicy",
    "ServerMetadata",
    "ServerOverloaded",
    "ServerUnavailable",
    "SharedMemoryPolicy",
    "TensorSpec",
]
