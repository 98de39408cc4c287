"""An image as the row that a model was trained on: the same for the data of a build and for `plansmith infer`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

__all__ = ["MOST_PIXELS", "RECIPE_PARAMETER", "ImageRecipe", "row_from_image"]

RECIPE_PARAMETER = "plansmith_preprocessing"
"""The parameter of a model's configuration that holds the recipe as JSON, for clients: servers ignore it."""

MOST_PIXELS = 100_000_000
"""Larger images are refused: a small file can decompress to one that fills the memory, and a line of pixels, resized
before its middle is cut out, becomes a very long one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecipe:
    """How an image becomes a row: resize, then (pixel * scale - mean) / std for each channel.

    Attributes:
        size: height and width; None for those of the model's input.
        resize: length of the shorter side before the crop; None to just cover the size.
        fit: `crop`, `pad` or `stretch`.
        fill: the value of pixels that `pad` adds.
        interpolation: the name of one of Pillow's filters, in lower case.
        channels: `RGB`, `BGR` or `GRAY`.
        layout: `NCHW`, `NHWC` or `NHW`.
        scale: one number, or one for each channel.
        mean: likewise.
        std: likewise.
        dtype: of the row; `input` for that of the model's input.
    """

    size: Sequence[int] | None = None
    resize: int | None = None
    fit: str = "crop"
    fill: int = 0
    interpolation: str = "bilinear"
    channels: str = "RGB"
    layout: str = "NCHW"
    scale: Sequence[float] = (1 / 255,)
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    dtype: str = "input"


def row_from_image(
    image: Image, recipe: ImageRecipe, size: tuple[int, int], input_dtype: np.dtype[Any]
) -> np.ndarray[Any, np.dtype[Any]]:
    """The row of one decoded image.

    Args:
        image: upright, of any mode with 8 bits a channel.
        recipe: how.
        size: height and width of the result.
        input_dtype: of the model's input.

    Returns:
        [C, H, W], [H, W, C] or [H, W], by the recipe's layout.

    Raises:
        ValueError: the recipe gives fractions, which the dtype cannot hold, or resizes to more than 100 megapixels.
    """
    mode = "L" if recipe.channels == "GRAY" else "RGB"
    # Converted to what it is, a large image would be in memory twice.
    pixels = np.asarray(_resized(image if image.mode == mode else image.convert(mode), recipe, size))
    if recipe.channels == "GRAY":
        pixels = pixels[:, :, np.newaxis]
    elif recipe.channels == "BGR":
        pixels = pixels[:, :, ::-1]
    row = _scaled(pixels, recipe, input_dtype if recipe.dtype == "input" else np.dtype(recipe.dtype))
    if recipe.layout == "NHW":
        return row[:, :, 0]
    return row.transpose(2, 0, 1) if recipe.layout == "NCHW" else row


def _resized(image: Image, recipe: ImageRecipe, size: tuple[int, int]) -> Image:
    from PIL import Image as images  # noqa: N813, PLC0415
    from PIL import ImageOps  # noqa: PLC0415

    height, width = size
    if height * width > MOST_PIXELS:
        raise ValueError(f"{width} x {height} pixels are to be made of it, and {MOST_PIXELS} are allowed")
    method = images.Resampling[recipe.interpolation.upper()]
    if recipe.fit == "stretch":
        return image.resize((width, height), method)
    if recipe.fit == "pad":
        colour = recipe.fill if image.mode == "L" else (recipe.fill,) * 3
        return ImageOps.pad(image, (width, height), method=method, color=colour)
    if recipe.resize is None:
        factor = max(height / image.height, width / image.width)
        covering = (max(width, round(image.width * factor)), max(height, round(image.height * factor)))
    else:
        # As torchvision does it: the longer side is cut to a whole number, not rounded.
        short = min(image.size)
        wide, high = (recipe.resize if side == short else int(recipe.resize * side / short) for side in image.size)
        covering = (wide, high)
    if covering[0] * covering[1] > MOST_PIXELS:
        raise ValueError(
            f"{image.width} x {image.height} pixels would be resized to {covering[0]} x {covering[1]} before the crop, "
            f"and {MOST_PIXELS} pixels are allowed: use images of another shape, or fit=pad"
        )
    if covering != image.size:
        image = image.resize(covering, method)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


def _scaled(
    pixels: np.ndarray[Any, np.dtype[Any]], recipe: ImageRecipe, dtype: np.dtype[Any]
) -> np.ndarray[Any, np.dtype[Any]]:
    scale, mean, std = (np.array(values, np.float64) for values in (recipe.scale, recipe.mean, recipe.std))
    if (scale == 1).all() and not mean.any() and (std == 1).all():
        if dtype.kind in "bi" and not np.can_cast(np.uint8, dtype):
            raise ValueError(f"pixels reach 255, which {dtype.name} cannot hold: build with a scale or a mean")
        return pixels.astype(dtype)
    if dtype.kind in "biuO":
        raise ValueError(
            f"the preprocessing gives fractions, which {dtype.name} cannot hold: "
            "declare the preset pixels, or scale=1 without mean and std"
        )
    if not all(np.isfinite(values).all() for values in (scale, mean, std)) or not std.all():
        raise ValueError("the preprocessing has a number that is not finite, or a standard deviation of 0")
    # One multiplication and one addition instead of three passes over the image.
    values: np.ndarray[Any, np.dtype[Any]] = pixels * (scale / std) - mean / std
    return values.astype(dtype)
