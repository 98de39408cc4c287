"""From an ONNX file to a verified version in a Triton model repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_build.errors import (
    BuildError,
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

__all__ = [
    "BuildError",
    "BuildOptions",
    "BuildResult",
    "BuildStep",
    "InvalidModel",
    "InvalidOption",
    "ModelNotFound",
    "PublishFailed",
    "UnsafeExternalData",
    "UnsupportedOperator",
    "VerificationFailed",
    "build",
]


def __getattr__(name: str) -> Any:
    """Import onnx and ONNX Runtime when a build is asked for, not before: reading a repository needs neither."""
    if name not in {"BuildOptions", "BuildResult", "build"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from plansmith_build import building  # noqa: PLC0415

    return getattr(building, name)
