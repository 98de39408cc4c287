"""Image files to the rows that the model was calibrated with."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client.image_formats import IMAGE_FORMATS, UnusableImage, upright_image
from plansmith_client.image_rows import ImageRecipe, row_from_image
from plansmith_server.backends.pipeline_step.step import each_row
from plansmith_server.backends.signature import TensorInfo
from plansmith_server.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from PIL import Image

__all__ = ["ImageStep", "decode", "recipe_from", "row_of"]

_TYPES = {"uint8": "TYPE_UINT8", "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64"}


class ImageStep:
    """Decodes, turns upright, resizes and scales images.

    Takes `image` (BYTES, [rows, 1], whole files). Gives `pixels`, and `geometry` (FP32, [rows, 6]): the factor and the
    offset that lead from a pixel's x and y to the image's own, and the image's width and height.

    Args:
        recipe: the fields of an `ImageRecipe`; `dtype` must be set, and `size` unless there are `sides`.
        formats: those that are decoded, as Pillow names them.
        max_pixels: of the largest image; a larger one is refused by its header, before it is decoded.
        sides: where each image keeps about its own size: the least of the `shorter` side, the most of the `longer` one,
            and what both are a `multiple` of.
    """

    def __init__(
        self,
        *,
        recipe: Mapping[str, Any],
        formats: Sequence[str],
        max_pixels: int,
        sides: Mapping[str, int] | None = None,
    ) -> None:
        self._recipe = recipe_from(recipe)
        self._formats = list(formats)
        self._max_pixels = max_pixels
        self._sides = dict(sides or {})
        height, width = self._recipe.size or (-1, -1)
        self._size = (height, width) if not self._sides else None
        channels = 1 if self._recipe.channels == "GRAY" else 3
        shape = {"NCHW": (channels, height, width), "NHWC": (height, width, channels), "NHW": (height, width)}
        self._dtype = np.dtype(self._recipe.dtype)
        self.inputs = (TensorInfo("image", "TYPE_STRING", (-1, 1)),)
        self.outputs = (
            TensorInfo("pixels", _TYPES[self._dtype.name], (-1, *shape[self._recipe.layout])),
            TensorInfo("geometry", "TYPE_FP32", (-1, 6)),
        )

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Step`."""
        rows = each_row(inputs["image"][:, 0], self._read)
        if len({pixels.shape for pixels, _ in rows}) > 1:
            raise RequestError("the images of a request have several sizes: send each in a request of its own")
        return {
            "pixels": np.ascontiguousarray(np.stack([pixels for pixels, _ in rows])),
            "geometry": np.array([geometry for _, geometry in rows], np.float32),
        }

    def _read(self, content: bytes) -> tuple[NDArray[Any], tuple[float, ...]]:
        image = decode(content, self._formats, self._max_pixels)
        size = self._size or _near(image.size, **self._sides)
        pixels = row_of(image, self._recipe, size, self._dtype)
        return pixels, (*_geometry(image.size, self._recipe, size), *image.size)


def recipe_from(fields: Mapping[str, Any]) -> ImageRecipe:
    """The recipe that a step.json holds."""
    return ImageRecipe(**fields)


def decode(content: bytes, formats: Sequence[str], max_pixels: int) -> Image.Image:
    """An image, turned upright.

    Args:
        content: of the file.
        formats: those that are decoded, as Pillow names them.
        max_pixels: of the largest image; a larger one is refused by its header.

    Raises:
        RequestError: the content cannot be used.
    """
    try:
        return upright_image(io.BytesIO(content), max_pixels, [name for name in formats if name in IMAGE_FORMATS])
    except UnusableImage as error:
        raise RequestError(f"the file of {len(content):,} bytes {error}") from error


def row_of(image: Image.Image, recipe: ImageRecipe, size: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The row of an image.

    Raises:
        RequestError: it cannot be resized.
    """
    try:
        return row_from_image(image, recipe, size, dtype)
    except (ValueError, MemoryError) as error:
        raise RequestError(f"the image cannot be resized: {error}") from error


def _geometry(image: tuple[int, int], recipe: ImageRecipe, size: tuple[int, int]) -> tuple[float, ...]:
    """Factor and offset for x and for y, from pixels of the row to those of the image."""
    (wide, high), (height, width) = image, size
    if recipe.fit == "stretch":
        return wide / width, high / height, 0.0, 0.0
    if recipe.fit == "pad":
        # As Pillow's ImageOps.pad places it.
        factor = max(wide / width, high / height)
        left, top = (round((width - round(wide / factor)) * 0.5), round((height - round(high / factor)) * 0.5))
        return factor, factor, -left * factor, -top * factor
    factor = min(wide / width, high / height) if recipe.resize is None else min(wide, high) / recipe.resize
    return factor, factor, (wide - width * factor) / 2, (high - height * factor) / 2


def _near(image: tuple[int, int], *, shorter: int, longer: int, multiple: int) -> tuple[int, int]:
    """Height and width within bounds, with about the aspect ratio of an image of some width and height."""
    factor = min(max(1, shorter / min(image)), longer / max(image))
    width, height = (max(multiple, round(side * factor / multiple) * multiple) for side in image)
    return height, width
