"""One image file as one row."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from plansmith_build.datasets.errors import InvalidData
from plansmith_client.image_formats import DECODER_ERRORS, IMAGE_FORMATS
from plansmith_client.tensors import numpy_dtype_from_datatype

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_build.datasets.preprocessing import Preprocessing

__all__ = ["SUFFIXES", "read_image"]

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""The files of a folder that are taken for images."""

# Of these Pillow would cut off what is above 255, without a word.
_DEEP_MODES = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def read_image(
    path: Path, preprocessing: Preprocessing, size: tuple[int, int], datatype: str
) -> np.ndarray[Any, np.dtype[Any]]:
    """Decode and preprocess one file.

    Args:
        path: the file; of several frames the first is taken, transparency is ignored.
        preprocessing: how.
        size: height and width of the result.
        datatype: of the input, where the preprocessing does not name another dtype.

    Returns:
        [C, H, W], [H, W, C] or [H, W], by the preprocessing's layout.

    Raises:
        InvalidData: it is not an image, is damaged, too large, or has too many bits per colour.
    """
    pixels = np.asarray(_resized(_decode(path, gray=preprocessing.channels == "GRAY"), preprocessing, size))
    if preprocessing.channels == "GRAY":
        pixels = pixels[:, :, np.newaxis]
    elif preprocessing.channels == "BGR":
        pixels = pixels[:, :, ::-1]
    row = _values(path, pixels, preprocessing, datatype)
    if preprocessing.layout == "NHW":
        return row[:, :, 0]
    return row.transpose(2, 0, 1) if preprocessing.layout == "NCHW" else row


def _decode(path: Path, *, gray: bool) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow only warns of what is a little too large, and of damaged metadata not even that is of use.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=IMAGE_FORMATS) as image:
                if image.mode in _DEEP_MODES:
                    raise InvalidData(
                        f"{path} has more than 8 bits a channel ({image.mode}), and how its values are scaled is not "
                        "declared: convert it to 8 bits, or give the data as .npz"
                    )
                return ImageOps.exif_transpose(image).convert("L" if gray else "RGB")
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


def _resized(image: Image.Image, preprocessing: Preprocessing, size: tuple[int, int]) -> Image.Image:
    height, width = size
    method = _FILTERS[preprocessing.interpolation]
    if preprocessing.fit == "stretch":
        return image.resize((width, height), method)
    if preprocessing.fit == "pad":
        fill = preprocessing.fill
        colour = fill if image.mode == "L" else (fill, fill, fill)
        return ImageOps.pad(image, (width, height), method=method, color=colour)
    if preprocessing.resize is None:
        factor = max(height / image.height, width / image.width)
        covering = (max(width, round(image.width * factor)), max(height, round(image.height * factor)))
    else:
        # As torchvision does it: the longer side is cut to a whole number, not rounded.
        short = min(image.size)
        covering = tuple(  # type: ignore[assignment]
            preprocessing.resize if side == short else int(preprocessing.resize * side / short) for side in image.size
        )
    if covering != image.size:
        image = image.resize(covering, method)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _values(
    path: Path, pixels: np.ndarray[Any, np.dtype[Any]], preprocessing: Preprocessing, datatype: str
) -> np.ndarray[Any, np.dtype[Any]]:
    dtype = numpy_dtype_from_datatype(datatype) if preprocessing.dtype == "input" else np.dtype(preprocessing.dtype)
    scale, mean, std = (
        np.array(values, np.float64) for values in (preprocessing.scale, preprocessing.mean, preprocessing.std)
    )
    if (scale == 1).all() and not mean.any() and (std == 1).all():
        return pixels.astype(dtype)
    if dtype.kind in "biuO":
        raise InvalidData(
            f"{path}: the preprocessing gives fractions, and the input takes {datatype}: "
            "declare the preset pixels, or scale=1 without mean and std"
        )
    # One multiplication and one addition instead of three passes over the image.
    values: np.ndarray[Any, np.dtype[Any]] = pixels * (scale / std) - mean / std
    return values.astype(dtype)
