"""One image file as one row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_build.datasets.errors import InvalidData
from plansmith_client.image_formats import UnusableImage, upright_image
from plansmith_client.image_rows import MOST_PIXELS, ImageRecipe, row_from_image
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
    try:
        with path.open("rb") as file:
            image = upright_image(file, MOST_PIXELS)
        recipe = ImageRecipe(**preprocessing.model_dump())
        return row_from_image(image, recipe, size, numpy_dtype_from_datatype(datatype))
    except OSError as error:
        raise InvalidData(f"{path} cannot be read: {error.strerror}") from error
    except UnusableImage as error:
        raise InvalidData(f"{path} {error}") from error
    except ValueError as error:
        raise InvalidData(f"{path}: {error}") from error
