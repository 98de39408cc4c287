"""What goes wrong with engines of TensorRT for RTX."""

from __future__ import annotations

from plansmith_build.errors import BuildError

__all__ = ["EngineFailed"]


class EngineFailed(BuildError):
    """TensorRT for RTX does not parse or compile a graph; a candidate fails by it, and the build goes on."""
