"""Image files to the rows that the model was calibrated with."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from plansmith_client.image_formats import DECODER_ERRORS, IMAGE_FORMATS
from plansmith_client.image_rows import DEEP_MODES, ImageRecipe, row_from_image
from plansmith_server.backends.pipeline_step.step import each_row
from plansmith_server.backends.signature import TensorInfo
from plansmith_server.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["ImageStep"]

_TYPES = {"uint8": "TYPE_UINT8", "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64"}


class ImageStep:
    """Decodes, turns upright, resizes and scales images.

    Takes `image` (BYTES, [rows, 1], whole files). Gives `pixels`, and `geometry` (FP32, [rows, 6]): the factor and the
    offset that lead from a pixel's x and y to the image's own, and the image's width and height.

    Args:
        folder: of the version.
        recipe: the fields of an `ImageRecipe`; `size` and `dtype` must be set.
        formats: those that are decoded, as Pillow names them.
        max_pixels: of the largest image; a larger one is refused by its header, before it is decoded.
    """

    def __init__(self, folder: Path, *, recipe: Mapping[str, Any], formats: Sequence[str], max_pixels: int) -> None:
        del folder
        self._recipe = ImageRecipe(**recipe)
        self._formats = [name for name in formats if name in IMAGE_FORMATS]
        self._max_pixels = max_pixels
        height, width = self._recipe.size or ()
        self._size = (height, width)
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
        return {
            "pixels": np.ascontiguousarray(np.stack([pixels for pixels, _ in rows])),
            "geometry": np.array([geometry for _, geometry in rows], np.float32),
        }

    def _read(self, content: bytes) -> tuple[NDArray[Any], tuple[float, ...]]:
        image = self._decode(content)
        try:
            pixels = row_from_image(image, self._recipe, self._size, self._dtype)
        except (ValueError, MemoryError) as error:
            raise RequestError(f"the image cannot be resized: {error}") from error
        return pixels, (*_geometry(image.size, self._recipe, self._size), *image.size)

    def _decode(self, content: bytes) -> Image.Image:
        names = ", ".join(self._formats)
        try:
            with warnings.catch_warnings():
                # The limit on pixels is this step's own.
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(content), formats=self._formats) as image:
                    if image.width * image.height > self._max_pixels:
                        raise RequestError(
                            f"the image has {image.width} x {image.height} pixels, and {self._max_pixels:,} are "
                            "allowed: make it smaller"
                        )
                    if image.mode in DEEP_MODES:
                        raise RequestError(
                            f"the image has more than 8 bits a channel ({image.mode}): convert it to 8 bits"
                        )
                    return ImageOps.exif_transpose(image)
        except UnidentifiedImageError as error:
            raise RequestError(f"{len(content)} bytes are not an image: send a file in one of {names}") from error
        except Image.DecompressionBombError as error:
            # Pillow's own limit, which is above every `max_pixels`.
            raise RequestError(f"the image has too many pixels: {error}") from error
        except (OSError, *DECODER_ERRORS) as error:
            raise RequestError(f"the image is damaged: {' '.join(str(error).split())[:200]}") from error


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
