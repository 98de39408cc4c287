"""The formats of images that are decoded, and what their decoders raise; once for all who open an image.

Pillow goes by a file's content and not by its name. Without a list of formats it would hand a PostScript file that is
called picture.png to Ghostscript, which runs it as a program.
"""

from __future__ import annotations

import struct

__all__ = ["DECODER_ERRORS", "IMAGE_FORMATS"]

IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""As Pillow names them: the `formats` of `PIL.Image.open`."""

DECODER_ERRORS = (
    *(ValueError, TypeError, SyntaxError, EOFError, OverflowError, MemoryError, RuntimeError),
    *(KeyError, IndexError, AttributeError, ZeroDivisionError, struct.error),
)
"""What the decoders raise, beside OSError, for files that are damaged, or made to look like images."""
