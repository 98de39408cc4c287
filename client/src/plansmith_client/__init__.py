"""A typed client for Triton and other servers of the Open Inference Protocol: numpy in, numpy out, gRPC or HTTP.

Example:
    ```python
    from plansmith_client import Client

    with Client("localhost:8001") as client:
        result = client.model("digits")(images)
    ```
"""

from __future__ import annotations

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
from plansmith_client.metadata import ModelMetadata, ModelStatus, ServerMetadata
from plansmith_client.model import Model
from plansmith_client.results import InferResult
from plansmith_client.tensors import TensorSpec

__all__ = [
    "AccessDenied",
    "Client",
    "ClientClosed",
    "ClientError",
    "DeadlineExceeded",
    "InferResult",
    "InferenceFailed",
    "InvalidInput",
    "Model",
    "ModelMetadata",
    "ModelNotFound",
    "ModelNotReady",
    "ModelStatus",
    "ProtocolError",
    "ServerMetadata",
    "ServerOverloaded",
    "ServerUnavailable",
    "TensorSpec",
]
