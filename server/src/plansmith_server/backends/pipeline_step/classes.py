"""Scores of classes to their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_server.backends.pipeline_step.step import text_array
from plansmith_server.backends.signature import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["ClassesStep", "softmax"]


class ClassesStep:
    """The most probable classes of each row.

    Takes `scores` (FP32, [rows, classes]). Gives `label` (BYTES) and `probability` (FP32), both [rows, top], the most
    probable first.

    Args:
        folder: of the version.
        labels: the classes by name.
        top: how many are given.
        activation: what makes probabilities of the scores: `softmax`, `sigmoid`, or `none` where they are some.
    """

    def __init__(self, folder: Path, *, labels: Sequence[str], top: int, activation: str) -> None:
        del folder
        self._labels = list(labels)
        self._top = min(top, len(labels))
        self._activate = {"softmax": softmax, "sigmoid": _sigmoid, "none": _unchanged}[activation]
        self.inputs = (TensorInfo("scores", "TYPE_FP32", (-1, len(labels))),)
        self.outputs = (
            TensorInfo("label", "TYPE_STRING", (-1, self._top)),
            TensorInfo("probability", "TYPE_FP32", (-1, self._top)),
        )

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Step`."""
        probabilities = self._activate(inputs["scores"])
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self._top]
        labels = [[self._labels[place] for place in row] for row in order]
        return {
            "label": text_array(labels, self._top),
            "probability": np.take_along_axis(probabilities, order, axis=1).astype(np.float32),
        }


def softmax(scores: NDArray[Any]) -> NDArray[Any]:
    """Along the last dimension."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: NDArray[Any] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def _sigmoid(scores: NDArray[Any]) -> NDArray[Any]:
    # Through tanh, which does not overflow.
    shares: NDArray[Any] = np.tanh(scores / 2) / 2 + 0.5
    return shares


def _unchanged(scores: NDArray[Any]) -> NDArray[Any]:
    return scores
