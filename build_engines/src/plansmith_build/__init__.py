"""From an ONNX file to a verified version in a Triton model repository."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from plansmith_build.errors import (
    BudgetNotMet,
    BuildError,
    InputsNeeded,
    InvalidModel,
    InvalidOption,
    ModelNotFound,
    PublishFailed,
    UnsafeExternalData,
    UnsupportedOperator,
    VerificationFailed,
)
from plansmith_build.progress import BuildStep

if TYPE_CHECKING:
    from typing import Any

    from plansmith_build.building import BuildOptions, BuildResult, build
    from plansmith_build.pipelines.building import build_pipeline
    from plansmith_build.search.search import SearchOptions

__all__ = [
    "BudgetNotMet",
    "BuildError",
    "BuildOptions",
    "BuildResult",
    "BuildStep",
    "InputsNeeded",
    "InvalidModel",
    "InvalidOption",
    "ModelNotFound",
    "PublishFailed",
    "SearchOptions",
    "UnsafeExternalData",
    "UnsupportedOperator",
    "VerificationFailed",
    "build",
    "build_pipeline",
]

# ONNX Runtime from PyPI reports which models run where to its maker, unless it finds this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_LAZY = {
    "BuildOptions": "building",
    "BuildResult": "building",
    "SearchOptions": "search.search",
    "build": "building",
    "build_pipeline": "pipelines.building",
}


def __getattr__(name: str) -> Any:
    """Import onnx and ONNX Runtime when a build is asked for, not before: reading a repository needs neither."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"plansmith_build.{_LAZY[name]}"), name)
