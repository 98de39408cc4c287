"""What goes wrong with plans."""

from __future__ import annotations

from plansmith_build.errors import BuildError

__all__ = ["PlanFailed", "PlanVersionMismatch"]


class PlanFailed(BuildError):
    """TensorRT does not parse or compile a graph; a candidate fails by it, and the build goes on with the others."""


class PlanVersionMismatch(BuildError):
    """A plan was built by another TensorRT than the one that is to run it."""

    exit_code = 3
