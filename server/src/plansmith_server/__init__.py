"""NVIDIA's Triton Inference Server from PyPI, with Python-based backends for ONNX Runtime and OpenVINO."""

from plansmith_server.endpoint import ModelState
from plansmith_server.errors import (
    InvalidOptions,
    InvalidRepository,
    ModelError,
    NoModelLoaded,
    PortInUse,
    RequestError,
    ServerError,
    StartFailed,
    TritonUnavailable,
)
from plansmith_server.options import ServerOptions
from plansmith_server.process import TritonServer

__all__ = [
    "InvalidOptions",
    "InvalidRepository",
    "ModelError",
    "ModelState",
    "NoModelLoaded",
    "PortInUse",
    "RequestError",
    "ServerError",
    "ServerOptions",
    "StartFailed",
    "TritonServer",
    "TritonUnavailable",
]
