"""From an ONNX file to a verified version in a Triton model repository."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from plansmith_build.building import BuildOptions, BuildResult, build

__all__ = ["BuildOptions", "BuildResult", "build"]


def __getattr__(name: str) -> Any:
    """Import onnx and ONNX Runtime when a build is asked for, not before: reading a repository needs neither."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from plansmith_build import building  # noqa: PLC0415

    return getattr(building, name)
