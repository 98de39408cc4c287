"""What a detector says of every place of an image to the boxes of what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_server.backends.pipeline_step.step import text_array
from plansmith_server.backends.signature import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["BoxesStep", "keep_boxes"]

# As detectors are evaluated: beyond these no box of a row is looked at.
_MOST_CANDIDATES = 3000


class BoxesStep:
    """The best boxes of each image, in its own pixels, without those that overlap a better one of their class.

    Takes `predictions` (FP32, [rows, 4 + classes, places], as YOLOv8 gives them: centre x and y, width and height in
    pixels of the row, a score for each class) and `geometry` of the image step. Gives `box` (FP32, [rows, boxes, 4]:
    left, top, right, bottom), `label` (BYTES) and `probability` (FP32), both [rows, boxes]; the best box first. There
    are as many as the row with most has, at least one; others are filled up with probability 0 and an empty label.

    Args:
        folder: of the version.
        labels: the classes by name.
        min_score: of a box that is given.
        max_overlap: intersection over union of two boxes of one class that are both given.
        max_boxes: of a row.
    """

    def __init__(
        self, folder: Path, *, labels: Sequence[str], min_score: float, max_overlap: float, max_boxes: int
    ) -> None:
        del folder
        self._labels = list(labels)
        self._min_score = min_score
        self._max_overlap = max_overlap
        self._max_boxes = max_boxes
        self.inputs = (
            TensorInfo("predictions", "TYPE_FP32", (-1, 4 + len(labels), -1)),
            TensorInfo("geometry", "TYPE_FP32", (-1, 6)),
        )
        self.outputs = (
            TensorInfo("box", "TYPE_FP32", (-1, -1, 4)),
            TensorInfo("label", "TYPE_STRING", (-1, -1)),
            TensorInfo("probability", "TYPE_FP32", (-1, -1)),
        )

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Step`."""
        rows = [self._find(*row) for row in zip(inputs["predictions"], inputs["geometry"], strict=True)]
        width = max([1, *(len(scores) for _, scores, _ in rows)])
        boxes = np.zeros((len(rows), width, 4), np.float32)
        probabilities = np.zeros((len(rows), width), np.float32)
        for number, (corners, scores, _) in enumerate(rows):
            boxes[number, : len(corners)] = corners
            probabilities[number, : len(scores)] = scores
        names = [[self._labels[place] for place in classes] for _, _, classes in rows]
        return {"box": boxes, "label": text_array(names, width), "probability": probabilities}

    def _find(
        self, predictions: NDArray[Any], geometry: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        by_class = predictions[4:]
        classes = by_class.argmax(axis=0)
        scores = by_class.max(axis=0)
        found = np.flatnonzero(scores >= self._min_score)
        found = found[np.argsort(-scores[found], kind="stable")[:_MOST_CANDIDATES]]
        x, y, width, height = predictions[:4, found].astype(np.float64)
        corners = np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], axis=1)
        kept = keep_boxes(corners, classes[found], self._max_overlap)[: self._max_boxes]
        factor_x, factor_y, left, top, wide, high = geometry.astype(np.float64)
        own = corners[kept] * [factor_x, factor_y, factor_x, factor_y] + [left, top, left, top]
        return own.clip(0, [wide, high, wide, high]), scores[found][kept], classes[found][kept]


def keep_boxes(corners: NDArray[Any], classes: NDArray[Any], max_overlap: float) -> NDArray[np.intp]:
    """The places of the boxes that overlap no better one of their class: non-maximum suppression.

    Args:
        corners: [boxes, 4], the best box first.
        classes: [boxes].
        max_overlap: intersection over union.
    """
    areas = np.prod(np.maximum(corners[:, 2:] - corners[:, :2], 0), axis=1)
    remaining, kept = np.arange(len(corners)), []
    while len(remaining):
        best, others = remaining[0], remaining[1:]
        kept.append(best)
        low = np.maximum(corners[best, :2], corners[others, :2])
        high = np.minimum(corners[best, 2:], corners[others, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        overlap = shared / np.maximum(areas[best] + areas[others] - shared, np.finfo(np.float64).tiny)
        remaining = others[(overlap <= max_overlap) | (classes[others] != classes[best])]
    return np.array(kept, np.intp)
