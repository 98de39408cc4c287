"""Decoding images: the formats that are decoded, and the limits that hold before anything is; once for all who do it.

Pillow goes by a file's content and not by its name. Without a list of formats it would hand a PostScript file that is
called picture.png to Ghostscript, which runs it as a program.
"""

from __future__ import annotations

import struct
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from PIL.Image import Image

__all__ = ["IMAGE_FORMATS", "UnusableImage", "upright_image"]

IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""As Pillow names them: the `formats` of `PIL.Image.open`."""

# What the decoders raise for files that are damaged, or made to look like images.
_DECODER_ERRORS = (
    *(OSError, ValueError, TypeError, SyntaxError, EOFError, OverflowError, MemoryError, RuntimeError),
    *(KeyError, IndexError, AttributeError, ZeroDivisionError, struct.error),
)
# Modes with more than 8 bits a channel: converted, everything above 255 would be cut off without a word.
_DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
# As in JPEG. Each line takes some memory of its own, however narrow it is.
_LONGEST_SIDE = 65_535
# Of TIFF: the width and the height of a tile, each of which is decoded as a whole, however small the image is.
_TILE_SIDES = (322, 323)


class UnusableImage(ValueError):
    """A file cannot be used as an image; the text says why, and follows the file's name."""


def upright_image(file: BinaryIO, most_pixels: int, formats: Sequence[str] = IMAGE_FORMATS) -> Image:
    """Decode an image, of several frames the first, and turn it as its metadata says.

    Args:
        file: opened; it may be closed afterwards.
        most_pixels: that are decoded; what has more is refused by its header.
        formats: those that are decoded, some of `IMAGE_FORMATS`.

    Returns:
        The image in any mode with 8 bits a channel.

    Raises:
        UnusableImage: it is not an image, is damaged, too large, or has too many bits a channel.
        ImportError: Pillow is not installed.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError  # noqa: PLC0415 - heavy, and only for images

    try:
        with warnings.catch_warnings():
            # The limit is the caller's, and of damaged metadata nothing is used but the orientation.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=list(formats)) as image:
                _check(image, most_pixels)
                ImageOps.exif_transpose(image, in_place=True)
                return image
    except UnusableImage:
        raise
    except UnidentifiedImageError as error:
        raise UnusableImage(f"is not an image that can be read: save it as one of {', '.join(formats)}") from error
    except Image.DecompressionBombError as error:
        # Pillow's own limit, which is above that of every caller.
        raise UnusableImage(f"has too many pixels: {error}") from error
    except _DECODER_ERRORS as error:
        raise UnusableImage(f"is damaged: {' '.join(str(error).split())[:200]}") from error


def _check(image: Image, most_pixels: int) -> None:
    width, height = image.size
    if width * height > most_pixels or max(image.size) > _LONGEST_SIDE:
        raise UnusableImage(
            f"has {width} x {height} pixels, and {most_pixels:,} are allowed, {_LONGEST_SIDE:,} on a side: make it "
            "smaller"
        )
    tags = getattr(image, "tag_v2", {})
    across, down = (tags.get(tag, 0) for tag in _TILE_SIDES)
    if across * down > most_pixels:
        raise UnusableImage(
            f"has tiles of {across} x {down} pixels, and {most_pixels:,} are allowed: save it without tiles"
        )
    if image.mode in _DEEP_MODES:
        raise UnusableImage(f"has more than 8 bits a channel ({image.mode}): convert it to 8 bits")
