"""Scores of characters at each place of a line to its text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_server.backends.pipeline_step.step import text_array
from plansmith_server.backends.signature import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["CtcStep"]


class CtcStep:
    """Reads what connectionist temporal classification says: the best character of each place, repetitions joined.

    Takes `scores` (FP32, [rows, places, characters]), probabilities whose first character is the blank. Gives `label`
    (BYTES) and `probability` (FP32, the mean of the characters'), [rows, 1]. After a step `lines` it also takes its
    `position` ([lines, 4]), and gives what one image says: `box` [1, lines, 4], `label` and `probability` [1, lines],
    without lines below `min_score`; where none is left, one with the probability 0 and an empty label.

    Args:
        characters: without the blank.
        min_score: of a text that is given.
        lines: whether the rows are the lines of one image.
    """

    def __init__(self, *, characters: str, min_score: float, lines: bool) -> None:
        self._characters = ["", *characters]
        self._min_score = min_score
        self._lines = lines
        scores = TensorInfo("scores", "TYPE_FP32", (-1, -1, len(self._characters)))
        width = -1 if lines else 1
        read = (TensorInfo("label", "TYPE_STRING", (-1, width)), TensorInfo("probability", "TYPE_FP32", (-1, width)))
        self.inputs = (scores, TensorInfo("position", "TYPE_FP32", (-1, 4))) if lines else (scores,)
        self.outputs = (TensorInfo("box", "TYPE_FP32", (-1, -1, 4)), *read) if lines else read

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Step`."""
        read = [self._read(row) for row in inputs["scores"]]
        if not self._lines:
            texts, shares = zip(*read, strict=True)
            return {
                "label": text_array([[text] for text in texts], 1),
                "probability": np.array(shares, np.float32)[:, np.newaxis],
            }
        kept = [
            (text, share, box)
            for (text, share), box in zip(read, inputs["position"], strict=True)
            # Without a text on the image there is one line without a size.
            if text and share >= self._min_score and box[2] > box[0]
        ] or [("", 0.0, np.zeros(4))]
        return {
            "box": np.array([[box for _, _, box in kept]], np.float32),
            "label": text_array([[text for text, _, _ in kept]], len(kept)),
            "probability": np.array([[share for _, share, _ in kept]], np.float32),
        }

    def _read(self, scores: NDArray[Any]) -> tuple[str, float]:
        best = scores.argmax(axis=1)
        first = np.concatenate([[True], best[1:] != best[:-1]]) & (best != 0)
        if not first.any():
            return "", 0.0
        return "".join(self._characters[place] for place in best[first]), float(scores.max(axis=1)[first].mean())
