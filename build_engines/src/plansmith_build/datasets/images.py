"""One image file as one row."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from PIL import Image, ImageOps, UnidentifiedImageError

from plansmith_build.datasets.errors import InvalidData
from plansmith_client.image_formats import DECODER_ERRORS, IMAGE_FORMATS
from plansmith_client.image_rows import DEEP_MODES, ImageRecipe, row_from_image
from plansmith_client.tensors import numpy_dtype_from_datatype

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_build.datasets.preprocessing import Preprocessing
    from plansmith_build.datasets.ragged import Array

__all__ = ["SUFFIXES", "read_image"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""The files of a folder that are taken for images."""


def read_image(path: Path, preprocessing: Preprocessing, size: tuple[int, int], datatype: str) -> Array:
    """Decode and preprocess one file.

    Args:
        path: the file; of several frames the first is taken, transparency is ignored.
        preprocessing: how.
        size: height and width of the result.
        datatype: of the input, where the preprocessing does not name another dtype.

    Returns:
        [C, H, W], [H, W, C] or [H, W], by the preprocessing's layout.

    Raises:
        InvalidData: it is not an image, is damaged, too large before or after it is resized, or has too many bits per
            colour.
    """
    image = _decode(path)
    try:
        recipe = ImageRecipe(**preprocessing.model_dump())
        return row_from_image(image, recipe, size, numpy_dtype_from_datatype(datatype))
    except ValueError as error:
        raise InvalidData(f"{path}: {error}") from error


def _decode(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow only warns of what is a little too large, and of damaged metadata not even that is of use.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                if image.mode in DEEP_MODES:
                    raise InvalidData(
                        f"{path} has more than 8 bits a channel ({image.mode}), and how its values are scaled is not "
                        "declared: convert it to 8 bits, or give the data as .npz"
                    )
                return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise InvalidData(f"{path} is not an image that can be read: remove it, or save it as PNG or JPEG") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidData(
            f"{path} would decode to more than {Image.MAX_IMAGE_PIXELS:,} pixels, which is not a photograph but a "
            "decompression bomb, or should be made smaller first"
        ) from error
    except OSError as error:
        raise InvalidData(f"{path} cannot be read as an image: {error.strerror or error}") from error
    except DECODER_ERRORS as error:
        raise InvalidData(f"{path} is a damaged image: {' '.join(str(error).split())[:200]}") from error
