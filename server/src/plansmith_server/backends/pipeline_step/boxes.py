"""What a detector says of every place of an image to the boxes of what is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_server.backends.pipeline_step.step import text_array
from plansmith_server.backends.signature import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["BoxesStep", "keep_boxes"]

# As detectors are evaluated: beyond these no box of a row is looked at.
_MOST_CANDIDATES = 3000


class BoxesStep:
    """The best boxes of each image, in its own pixels, without those that overlap a better one of their class.

    Takes `geometry` of the image step, and what the detector's head gives, in pixels of the row: of a `yolov8`,
    `predictions` (FP32, [rows, 4 + classes, places]: centre x and y, width and height, a score for each class); of a
    `picodet`, for each stride `scores_8` (FP32, [rows, places, classes]) and `distances_8` (FP32,
    [rows, places, 4 * bins]: how probable each distance is of the place from the left, upper, right and lower side).
    Gives `box` (FP32, [rows, boxes, 4]: left, top, right, bottom), `label` (BYTES) and `probability` (FP32), both
    [rows, boxes]; the best box first. There are as many as the row with most has, at least one; others are filled up
    with probability 0 and an empty label.

    Args:
        labels: the classes by name.
        min_score: of a box that is given.
        max_overlap: intersection over union of two boxes of one class that are both given.
        max_boxes: of a row.
        head: of the detector.
        strides: of a picodet.
        size: height and width of the rows, for a picodet.
    """

    def __init__(
        self,
        *,
        labels: Sequence[str],
        min_score: float,
        max_overlap: float,
        max_boxes: int,
        head: str = "yolov8",
        strides: Sequence[int] = (),
        size: Sequence[int] = (),
    ) -> None:
        self._labels = list(labels)
        self._min_score = min_score
        self._max_overlap = max_overlap
        self._max_boxes = max_boxes
        if head == "picodet":
            self._decode = _picodet
            self._centres = {stride: _centres(stride, *size) for stride in strides}
            places = {stride: len(centres) for stride, centres in self._centres.items()}
            scores = [
                TensorInfo(f"scores_{stride}", "TYPE_FP32", (-1, count, len(labels)))
                for stride, count in places.items()
            ]
            distances = [
                TensorInfo(f"distances_{stride}", "TYPE_FP32", (-1, count, -1)) for stride, count in places.items()
            ]
            found = (*scores, *distances)
        else:
            self._decode = _yolov8
            self._centres = {}
            found = (TensorInfo("predictions", "TYPE_FP32", (-1, 4 + len(labels), -1)),)
        self.inputs = (*found, TensorInfo("geometry", "TYPE_FP32", (-1, 6)))
        self.outputs = (
            TensorInfo("box", "TYPE_FP32", (-1, -1, 4)),
            TensorInfo("label", "TYPE_STRING", (-1, -1)),
            TensorInfo("probability", "TYPE_FP32", (-1, -1)),
        )

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Step`."""
        corners, scores = self._decode(inputs, self._centres)
        rows = [self._best(*row) for row in zip(corners, scores, inputs["geometry"], strict=True)]
        width = max([1, *(len(scores) for _, scores, _ in rows)])
        boxes = np.zeros((len(rows), width, 4), np.float32)
        probabilities = np.zeros((len(rows), width), np.float32)
        for number, (own, best, _) in enumerate(rows):
            boxes[number, : len(own)] = own
            probabilities[number, : len(best)] = best
        names = [[self._labels[place] for place in classes] for _, _, classes in rows]
        return {"box": boxes, "label": text_array(names, width), "probability": probabilities}

    def _best(
        self, corners: NDArray[Any], by_class: NDArray[Any], geometry: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        classes = by_class.argmax(axis=1)
        scores = by_class.max(axis=1)
        found = np.flatnonzero(scores >= self._min_score)
        found = found[np.argsort(-scores[found], kind="stable")[:_MOST_CANDIDATES]]
        kept = found[keep_boxes(corners[found], classes[found], self._max_overlap)[: self._max_boxes]]
        factor_x, factor_y, left, top, wide, high = geometry.astype(np.float64)
        own = corners[kept] * [factor_x, factor_y, factor_x, factor_y] + [left, top, left, top]
        return own.clip(0, [wide, high, wide, high]), scores[kept], classes[kept]


def _yolov8(
    inputs: Mapping[str, NDArray[Any]], centres: Mapping[int, NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Corners [rows, places, 4] and scores [rows, places, classes]."""
    del centres
    predictions = inputs["predictions"].transpose(0, 2, 1)
    middle, size = predictions[:, :, :2].astype(np.float64), predictions[:, :, 2:4]
    return np.concatenate([middle - size / 2, middle + size / 2], axis=2), predictions[:, :, 4:]


def _picodet(
    inputs: Mapping[str, NDArray[Any]], centres: Mapping[int, NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The same; a distance is the mean of its bins, as probable as each is, in strides."""
    corners = []
    for stride, middle in centres.items():
        given = inputs[f"distances_{stride}"]
        bins = given.reshape(*given.shape[:2], 4, -1).astype(np.float64)
        shares = np.exp(bins - bins.max(axis=-1, keepdims=True))
        distances = shares @ np.arange(bins.shape[-1]) / shares.sum(axis=-1) * stride
        corners.append(np.concatenate([middle - distances[:, :, :2], middle + distances[:, :, 2:]], axis=2))
    return np.concatenate(corners, axis=1), np.concatenate([inputs[f"scores_{stride}"] for stride in centres], axis=1)


def _centres(stride: int, height: int, width: int) -> NDArray[Any]:
    """The middle of each place, x and y, [places, 2], row by row."""
    y, x = np.mgrid[: -(-height // stride), : -(-width // stride)]
    middle: NDArray[Any] = (np.stack([x.ravel(), y.ravel()], axis=1) + 0.5) * stride
    return middle


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
