"""A typed client for Triton and other servers of the Open Inference Protocol: numpy in, numpy out, gRPC or HTTP.

Example:
    ```python
    from plansmith_client import Client

    with Client("localhost:8001") as client:
        result = client.model("digits")(images)
    ```
"""

from __future__ import annotations

from plansmith_client.async_client import AsyncClient
from plansmith_client.async_model import AsyncModel
from plansmith_client.async_sequences import AsyncModelSequence
from plansmith_client.batching import AsyncBatchedModel, BatchedModel
from plansmith_client.breaker import BreakerPolicy
from plansmith_client.classification import ClassScore
from plansmith_client.client import Client
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
from plansmith_client.mapped import MappedItem
from plansmith_client.mapping import AsyncMapRun, MapRun
from plansmith_client.metadata import ModelMetadata, ModelStatus, ServerMetadata
from plansmith_client.model import Model
from plansmith_client.observers import Observer
from plansmith_client.results import InferResult
from plansmith_client.retries import RetryPolicy
from plansmith_client.sequences import ModelSequence
from plansmith_client.shared_memory import SharedMemoryPolicy
from plansmith_client.statistics import BatchStatistics, Duration, ModelStatistics
from plansmith_client.tensors import TensorSpec

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
