"""Why a graph has no version of lower precision."""

from __future__ import annotations

from plansmith_build.errors import BuildError

__all__ = ["ConversionFailed"]


class ConversionFailed(BuildError):
    """A graph cannot be written in a precision; a candidate fails by it, and the build goes on with the others."""
