"""NVIDIA's Triton Inference Server from PyPI, with Python-based backends for ONNX Runtime and OpenVINO."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from plansmith_server.errors import (
    InvalidOptions,
    InvalidRepository,
    ModelError,
    NoModelLoaded,
    NotForProduction,
    PortInUse,
    RequestError,
    ServerError,
    StartFailed,
    TritonUnavailable,
)

if TYPE_CHECKING:
    from plansmith_server.launcher.endpoint import ModelState
    from plansmith_server.launcher.options import ServerOptions
    from plansmith_server.launcher.process import TritonServer

__all__ = [
    "InvalidOptions",
    "InvalidRepository",
    "ModelError",
    "ModelState",
    "NoModelLoaded",
    "NotForProduction",
    "PortInUse",
    "RequestError",
    "ServerError",
    "ServerOptions",
    "StartFailed",
    "TritonServer",
    "TritonUnavailable",
]

# ONNX Runtime from PyPI reports which models run where to its maker, unless it finds this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Imported when they are asked for: each backend process imports this package and starts no server.
_PLACES = {"ModelState": "endpoint", "ServerOptions": "options", "TritonServer": "process"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.launcher.{_PLACES[name]}"), name)
