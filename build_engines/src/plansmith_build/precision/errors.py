"""Why a graph has no version of lower precision."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from plansmith_build.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ConversionFailed", "failing_as"]


class ConversionFailed(BuildError):
    """A graph cannot be written in a precision; a candidate fails by it, and the build goes on with the others."""


@contextmanager
def failing_as(sentence: str) -> Iterator[None]:
    """Whatever a converter stumbles over, as a ConversionFailed that begins with a sentence."""
    try:
        yield
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise ConversionFailed(f"{sentence}: {type(error).__name__}: {said}") from error
