"""Images and text as inputs of a model, in the layout that its metadata declares."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client.commands.file_limits import InputFile, check_file
from plansmith_client.errors import ClientError, InvalidInput, MissingDependency
from plansmith_client.image_formats import UnusableImage, upright_image
from plansmith_client.image_rows import MOST_PIXELS, RECIPE_PARAMETER, ImageRecipe, row_from_image

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from plansmith_client.faces.model import Model
    from plansmith_client.tensors import TensorSpec

__all__ = [
    "IMAGE_SUFFIXES",
    "ImagePreparation",
    "array_from_image",
    "array_from_text",
    "decoded_image",
    "recorded_preparation",
    "served_preparation",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True, slots=True)
class ImagePreparation:
    """How pixels are scaled: `(pixel * scale - mean) / std`, with one value for each channel or one for all.

    Attributes:
        scale: None for 1/255 where the model takes fractions, and 1 where it takes integers.
        recipe: what a build recorded, instead of the above; None for none.
    """

    scale: float | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    recipe: ImageRecipe | None = None


def array_from_image(path: InputFile, spec: TensorSpec, preparation: ImagePreparation) -> np.ndarray[Any, Any]:
    """An image as a batch of one, resized to what the model takes.

    Args:
        path: a file in one of `IMAGE_FORMATS`, whatever its name.
        spec: of the input: [batch, channels, height, width], [batch, height, width, channels] or
            [batch, height, width]; the batch may be missing. BYTES takes the file as it is.
        preparation: how pixels are scaled.

    Raises:
        InvalidInput: the file is not an image, Pillow is not installed, or the input does not have the shape of one.
    """
    if spec.datatype == "BYTES":
        return np.array([path.read_bytes()], object).reshape((1,) * len(spec.shape))
    if preparation.recipe is not None:
        return _row(path, spec, preparation.recipe)[np.newaxis]
    sizes, channels, first = _layout(path, spec)
    pixels = _pixels(path, sizes, channels).astype(np.float32)
    whole = np.issubdtype(spec.numpy_dtype, np.integer)
    scale = preparation.scale if preparation.scale is not None else 1.0 if whole else 1 / 255
    for name, values in (("mean", preparation.mean), ("std", preparation.std)):
        if len(values) not in (1, channels):
            raise InvalidInput(f"--image-{name} has {len(values)} values, expected 1 or one for each of {channels}")
    mean, std = (np.asarray(values, np.float32) for values in (preparation.mean, preparation.std))
    with np.errstate(all="ignore"):
        prepared = (pixels * np.float32(scale) - mean) / std
        wanted = np.rint(prepared) if whole else prepared
        converted: np.ndarray[Any, Any] = wanted.astype(spec.numpy_dtype)
        fits = converted == wanted if whole else np.isfinite(converted.astype(np.float32))
    if not fits.all():
        raise InvalidInput(
            f"{path}: scaled like this it has {wanted[~fits][0]:g}, which input {spec.name!r} ({spec.datatype}) cannot "
            "hold: choose other --image-scale, -mean and -std"
        )
    if channels == 1 and first is None:
        converted = converted[:, :, 0]
    elif first:
        converted = converted.transpose(2, 0, 1)
    return converted.reshape((1,) * (len(spec.shape) - converted.ndim) + converted.shape)


def _layout(path: InputFile, spec: TensorSpec) -> tuple[tuple[int, int], int, bool | None]:
    """(height, width), channels, and whether channels come first; None if there is no channel dimension."""
    inner = spec.shape[-3:] if len(spec.shape) > 2 else spec.shape  # noqa: PLR2004
    height_and_width: tuple[int, ...]
    if len(inner) == 3 and inner[0] in _MODES:  # noqa: PLR2004
        channels, height_and_width, first = inner[0], inner[1:], True
    elif len(inner) == 3 and inner[2] in _MODES:  # noqa: PLR2004
        channels, height_and_width, first = inner[2], inner[:2], False
    elif len(spec.shape) in (2, 3):
        channels, height_and_width, first = 1, spec.shape[-2:], None
    else:
        raise InvalidInput(f"{path} is an image, but input {spec.name!r} {spec} does not have the shape of one")
    height, width = height_and_width
    return (height, width), channels, first


def recorded_preparation(path: Path) -> ImagePreparation:
    """The preprocessing that a build wrote into its manifest.

    Raises:
        InvalidInput: the file is not a manifest, or its build had no images.
    """
    try:
        check_file(path)
        recorded = json.loads(path.read_bytes())["search"]["preprocessing"]
        if recorded is not None:
            return ImagePreparation(recipe=ImageRecipe(**recorded))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise InvalidInput(f"{path} is not a manifest with a preprocessing: name a version's manifest.json") from error
    raise InvalidInput(f"{path} records no preprocessing: its model was not built with images; use --image-scale")


def served_preparation(model: Model) -> ImagePreparation:
    """The preprocessing that a build wrote into the model's configuration; the usual one where there is none.

    Raises:
        InvalidInput: what is written there is not a preprocessing.
    """
    try:
        parameters = model.config().get("parameters")
    except ClientError:
        # The configuration is an extension of Triton, and access may be restricted.
        return ImagePreparation()
    if not isinstance(parameters, dict) or RECIPE_PARAMETER not in parameters:
        return ImagePreparation()
    try:
        recorded = json.loads(parameters[RECIPE_PARAMETER]["string_value"])
        return ImagePreparation(recipe=ImageRecipe(**recorded))
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise InvalidInput(
            f"the parameter {RECIPE_PARAMETER} of {model.name!r} is not a preprocessing: give --image-scale, -mean "
            "and -std, or a --manifest"
        ) from error


def _row(path: InputFile, spec: TensorSpec, recipe: ImageRecipe) -> np.ndarray[Any, Any]:
    image = decoded_image(path)
    try:
        height, width = recipe.size or (spec.shape[-3:-1] if recipe.layout == "NHWC" else spec.shape[-2:])
        if min(height, width) < 1:
            height, width = image.height, image.width
        return row_from_image(image, recipe, (height, width), spec.numpy_dtype)
    except (ValueError, KeyError, TypeError, AttributeError, MemoryError, ArithmeticError) as error:
        # What is recorded may be anything: a file is not trusted.
        raise InvalidInput(f"{path}: the recorded preprocessing cannot be applied to {spec}: {error}") from error


def _pixels(path: InputFile, sizes: tuple[int, int], channels: int) -> np.ndarray[Any, Any]:
    from PIL import Image  # noqa: PLC0415 - heavy, and only for images

    wanted = decoded_image(path).convert(_MODES[channels])
    height, width = (size if size > 0 else own for size, own in zip(sizes, (wanted.height, wanted.width), strict=True))
    if (wanted.width, wanted.height) != (width, height):
        wanted = wanted.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(wanted).reshape(height, width, channels)


def decoded_image(path: InputFile) -> Image.Image:
    """The image as it is to be seen: cameras store it as the sensor saw it, and how it is to be turned.

    Raises:
        InvalidInput: it is not a complete image of 8 bits a channel, or larger than 100 megapixels.
        MissingDependency: Pillow is not installed.
    """
    try:
        with path.open("rb") as file:
            return upright_image(file, MOST_PIXELS)
    except ImportError as error:
        raise MissingDependency(f"Reading {path} needs the package pillow: pip install pillow") from error
    except UnusableImage as error:
        raise InvalidInput(f"{path} {error}") from error


def array_from_text(path: InputFile, spec: TensorSpec) -> np.ndarray[Any, Any]:
    """The lines of a text file as rows of a BYTES input.

    Raises:
        InvalidInput: the input is not BYTES, or the file is empty.
    """
    if spec.datatype != "BYTES":
        raise InvalidInput(f"{path} is text, which only BYTES inputs take: input {spec.name!r} is {spec}")
    lines = path.read_bytes().splitlines()
    if not lines:
        raise InvalidInput(f"{path} is empty: write one line for each item")
    return np.array([*lines, None], object)[:-1].reshape((len(lines),) + (1,) * (len(spec.shape) - 1))
