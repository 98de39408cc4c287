"""What an export gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from plansmith_build.portable.comparison import OutputComparison
    from plansmith_client.tensors import TensorSpec

__all__ = ["ExportResult"]


@dataclass(frozen=True)
class ExportResult:
    """A model that was written as ONNX and computes what the framework computes.

    Attributes:
        path: the .onnx file.
        weights: the file next to it that holds the weights, None where they are in the .onnx file itself.
        inputs: what the model takes, -1 where a dimension may have any size.
        outputs: what it gives.
        opsets: operator set version by domain; the standard domain is `ai.onnx`.
        comparisons: for each output, the one of all samples that came out worst, all within their tolerance.
        samples: how many inputs the framework and ONNX Runtime were both run on.
        versions: of the framework, its exporter and ONNX Runtime, by package.
    """

    path: Path
    weights: Path | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opsets: Mapping[str, int]
    comparisons: tuple[OutputComparison, ...]
    samples: int
    versions: Mapping[str, str]

    @property
    def max_relative_error(self) -> float:
        """The greatest relative error of any output, as `plansmith_build.portable.comparison` measures it."""
        return max(comparison.max_relative_error for comparison in self.comparisons)
