"""From the map of a text detector to the lines of text on an image, each as a row for a recogniser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from plansmith_server.backends.pipeline_step.images import decode, recipe_from, row_of
from plansmith_server.backends.signature import TensorInfo
from plansmith_server.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["LinesStep", "UprightStep"]

# As PaddleOCR has them: from where on a pixel of the map is text, a line's shortest side, how many contours are seen.
_TEXT = 0.3
_SHORTEST_SIDE = 3
_MOST_RECTANGLES = 1000
# Lines that are this much higher than wide are written from top to bottom.
_UPRIGHT = 1.5
_NARROW = 4
# A longer line is squeezed: it decides how wide the rows of all others are.
_MOST_ASPECT = 50
_SURE = 0.9


class LinesStep:
    """Finds lines of text by differentiable binarization, and cuts them out of the image, turned to the horizontal.

    Takes one image in a request: `image` (BYTES, [1, 1]), `map` (FP32, [1, 1, height, width], how probable text is at
    each pixel of the row that the detector got) and `geometry` of the image step. Gives a row for each line, from top
    to bottom and from left to right, and a single empty one where there is no text: `lines` (FP32,
    [lines, 3, height, width], filled up with zeros to the widest), `narrow` (FP32, [lines, 3, height, 4 * height],
    longer lines squeezed), `width` (INT32, [lines, 1], of the line in `lines`) and `position` (FP32, [lines, 4]: left,
    top, right, bottom in the image's pixels).

    Args:
        recipe: how pixels become numbers: the fields of an `ImageRecipe`.
        formats: those that are decoded.
        max_pixels: of the largest image.
        height: of a row.
        min_score: the mean of the map within a line that is given.
        unclip: how much larger a line is than what the map shows: by its area times this, divided by its perimeter.
        max_lines: of an image; one with more is refused.
        max_total_width: of all lines of an image, each filled up to the widest: what comes after takes memory by it.
    """

    def __init__(
        self,
        *,
        recipe: Mapping[str, Any],
        formats: Sequence[str],
        max_pixels: int,
        height: int,
        min_score: float,
        unclip: float,
        max_lines: int,
        max_total_width: int,
    ) -> None:
        self._recipe = recipe_from(recipe)
        self._formats, self._max_pixels = list(formats), max_pixels
        self._height, self._min_score, self._unclip = height, min_score, unclip
        self._max_lines, self._max_total_width = max_lines, max_total_width
        self.inputs = (
            TensorInfo("image", "TYPE_STRING", (-1, 1)),
            TensorInfo("map", "TYPE_FP32", (-1, 1, -1, -1)),
            TensorInfo("geometry", "TYPE_FP32", (-1, 6)),
        )
        self.outputs = (
            TensorInfo("lines", "TYPE_FP32", (-1, 3, height, -1)),
            TensorInfo("narrow", "TYPE_FP32", (-1, 3, height, _NARROW * height)),
            TensorInfo("width", "TYPE_INT32", (-1, 1)),
            TensorInfo("position", "TYPE_FP32", (-1, 4)),
        )

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Step`."""
        if len(inputs["image"]) != 1:
            raise RequestError(f"send one image in a request, not {len(inputs['image'])}: each has lines of its own")
        pixels = np.asarray(decode(inputs["image"][0, 0], self._formats, self._max_pixels).convert("RGB"))
        corners = in_reading_order(self._find(inputs["map"][0, 0], inputs["geometry"][0]))
        if len(corners) > self._max_lines:
            raise RequestError(
                f"the image has {len(corners)} lines of text, and {self._max_lines} are allowed: send it in parts, or "
                "build the pipeline with a larger max_lines"
            )
        images = [Image.fromarray(_cut_out(pixels, quad)) for quad in corners]
        lines = [self._row(image, _MOST_ASPECT) for image in images] or [np.zeros((3, self._height, 1), np.float32)]
        width = max(line.shape[2] for line in lines)
        if len(lines) * width > self._max_total_width:
            raise RequestError(
                f"the {len(lines)} lines of text, filled up to the longest, are {len(lines) * width:,} pixels wide "
                f"together, and {self._max_total_width:,} are allowed: send the image in parts, or build the pipeline "
                "with a larger max_total_width"
            )
        narrow = [self._row(image, _NARROW) for image in images]
        boxes = [[*quad.min(axis=0), *quad.max(axis=0)] for quad in corners] or [[0, 0, 0, 0]]
        return {
            "lines": _side_by_side(lines, len(lines), width),
            "narrow": _side_by_side(narrow, len(lines), _NARROW * self._height),
            "width": np.array([[line.shape[2]] for line in lines], np.int32),
            "position": np.array(boxes, np.float32),
        }

    def _find(self, text: NDArray[Any], geometry: NDArray[Any]) -> list[NDArray[Any]]:
        """The corners of each line in the image's pixels, [4, 2], from the upper left clockwise."""
        factor_x, factor_y, left, top, wide, high = geometry.astype(np.float64)
        mask = cv2.dilate((text > _TEXT).astype(np.uint8), np.ones((2, 2), np.uint8))
        contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
        found = []
        rectangles = [cv2.minAreaRect(contour) for contour in contours]
        # Specks are no lines, however many there are.
        rectangles = [rectangle for rectangle in rectangles if min(rectangle[1]) >= _SHORTEST_SIDE]
        if len(rectangles) > _MOST_RECTANGLES:
            raise RequestError(
                f"the image has {len(rectangles):,} places that may be lines of text, and {_MOST_RECTANGLES:,} are "
                "allowed: send it in parts"
            )
        for centre, sides, angle in rectangles:
            if _mean_within(text, cv2.boxPoints((centre, sides, angle))) < self._min_score:
                continue
            more = sides[0] * sides[1] * self._unclip / sum(sides)
            corners = cv2.boxPoints((centre, (sides[0] + more, sides[1] + more), angle)).astype(np.float64)
            corners = corners * [factor_x, factor_y] + [left, top]
            found.append(_clockwise(corners.round().clip(0, [wide - 1, high - 1])))
        return [quad for quad in found if min(_sides(quad)) > _SHORTEST_SIDE]

    def _row(self, image: Image.Image, most_aspect: int) -> NDArray[Any]:
        width = min(-(-self._height * image.width // image.height), self._height * most_aspect)
        return row_of(image, self._recipe, (self._height, width), np.dtype(np.float32))


class UprightStep:
    """Turns lines that stand on their heads.

    Takes `lines` and `width` of the step `lines`, and `scores` (FP32, [lines, 2]), how probable it is that a line is
    upright, and that it is turned by 180 degrees. Gives `upright`, as `lines`.
    """

    def __init__(self, *, height: int) -> None:
        self.inputs = (
            TensorInfo("lines", "TYPE_FP32", (-1, 3, height, -1)),
            TensorInfo("width", "TYPE_INT32", (-1, 1)),
            TensorInfo("scores", "TYPE_FP32", (-1, 2)),
        )
        self.outputs = (TensorInfo("upright", "TYPE_FP32", (-1, 3, height, -1)),)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Step`."""
        lines = inputs["lines"].copy()
        for number in np.flatnonzero(inputs["scores"][:, 1] > _SURE):
            line = lines[number, :, :, : inputs["width"][number, 0]]
            line[:] = line[:, ::-1, ::-1].copy()
        return {"upright": lines}


def in_reading_order(corners: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """From top to bottom; of lines that begin at about the same height, the left one first."""
    rows: list[list[NDArray[Any]]] = []
    for quad in sorted(corners, key=lambda quad: float(quad[0, 1])):
        if rows and quad[0, 1] - rows[-1][0][0, 1] < _sides(rows[-1][0])[1] / 2:
            rows[-1].append(quad)
        else:
            rows.append([quad])
    return [quad for row in rows for quad in sorted(row, key=lambda quad: float(quad[0, 0]))]


def _clockwise(corners: NDArray[Any]) -> NDArray[Any]:
    by_x = corners[np.argsort(corners[:, 0], kind="stable")]
    (upper_left, lower_left), (upper_right, lower_right) = (
        side[np.argsort(side[:, 1])] for side in (by_x[:2], by_x[2:])
    )
    return np.array([upper_left, upper_right, lower_right, lower_left])


def _sides(quad: NDArray[Any]) -> tuple[int, int]:
    """Width and height."""
    across, down = (np.linalg.norm(quad - np.roll(quad, shift, axis=0), axis=1) for shift in (-1, 1))
    return int(max(across[0], across[2])), int(max(down[0], down[2]))


def _mean_within(text: NDArray[Any], corners: NDArray[Any]) -> float:
    left, top, width, height = cv2.boundingRect(corners.astype(np.int32))
    left, top = max(left, 0), max(top, 0)
    part = text[top : top + height, left : left + width]
    mask = np.zeros(part.shape, np.uint8)
    cv2.fillPoly(mask, [(corners - [left, top]).astype(np.int32)], [1])
    return float(cv2.mean(part, mask)[0])


def _cut_out(pixels: NDArray[Any], quad: NDArray[Any]) -> NDArray[Any]:
    width, height = _sides(quad)
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(quad.astype(np.float32), target)
    line = cv2.warpPerspective(pixels, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(np.rot90(line)) if height >= _UPRIGHT * width else line


def _side_by_side(rows: Sequence[NDArray[Any]], count: int, width: int) -> NDArray[Any]:
    """Rows of several widths as one array, filled up with zeros."""
    together = np.zeros((count, 3, rows[0].shape[1] if rows else width // _NARROW, width), np.float32)
    for number, row in enumerate(rows):
        together[number, :, :, : row.shape[2]] = row
    return together
