"""From an image file to the array that a model was trained on, declared once.

Written as text, `size=224,resize=256,mean=0.485:0.456:0.406,std=0.229:0.224:0.225`, as the name of a preset,
`imagenet`, as a preset with changes, `imagenet,size=299`, or as a small TOML or JSON file with the same fields.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from plansmith_build.datasets.errors import InvalidPreprocessing
from plansmith_build.reading.regular_files import read_regular

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PRESETS", "Preprocessing", "read_preprocessing"]

_FILE_SUFFIXES = (".toml", ".json")


def _pair(value: Any) -> Any:
    """`224`, `"224"`, `"224x320"` or `[224, 320]` as height and width."""
    if isinstance(value, str):
        value = value.lower().split("x")
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return (value[0], value[0])
    return value


def _numbers(value: Any) -> Any:
    """`0.5`, `"0.5"`, `"0.485:0.456:0.406"` or a list as a number for each channel; fractions as `"1/255"`."""
    parts = value.split(":") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    return tuple(_number(part) for part in parts)


def _number(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    above, slash, below = value.partition("/")
    try:
        return float(above) / (float(below) if slash else 1)
    except (ValueError, ZeroDivisionError):
        return value


_Side = Annotated[int, Field(ge=1, le=2**16)]
_Size = Annotated[tuple[_Side, _Side], BeforeValidator(_pair)]
_PerChannel = Annotated[
    tuple[Annotated[float, Field(allow_inf_nan=False)], ...], BeforeValidator(_numbers), Field(min_length=1)
]


class Preprocessing(BaseModel):
    """How an image file becomes a row: decode, turn upright, resize, then (pixel * scale - mean) / std per channel.

    Example:
        ```python
        Preprocessing(size=224, resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        ```
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: _Size | None = Field(
        default=None, description="height and width that the model takes; by default those of its input"
    )
    resize: _Side | None = Field(
        default=None,
        description="length of the shorter side before the crop; by default the image just covers `size`",
    )
    fit: Literal["crop", "pad", "stretch"] = Field(
        default="crop",
        description="crop: keep the aspect ratio and cut the middle out; pad: keep it and fill the rest with "
        "`fill`; stretch: resize each side by itself",
    )
    fill: Annotated[int, Field(ge=0, le=255)] = Field(default=0, description="pixel value of what `pad` adds")
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = Field(
        default="bilinear", description="how it is resized; Pillow's filters, antialiased when an image shrinks"
    )
    channels: Literal["RGB", "BGR", "GRAY"] = Field(default="RGB", description="order of the colour channels")
    layout: Literal["NCHW", "NHWC", "NHW"] = Field(
        default="NCHW", description="order of the dimensions; NHW has none for the channels, and takes GRAY"
    )
    scale: _PerChannel = Field(default=(1 / 255,), description="what pixels of 0 to 255 are multiplied with")
    mean: _PerChannel = Field(default=(0.0,), description="what is subtracted then, one number or one per channel")
    std: _PerChannel = Field(default=(1.0,), description="what is divided by then, one number or one per channel")
    dtype: Literal["input", "uint8", "float16", "float32", "float64"] = Field(
        default="input", description="of the result, before the usual rule for arrays; by default the input's own"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Preprocessing:
        count = 1 if self.channels == "GRAY" else 3
        for name in ("scale", "mean", "std"):
            if len(getattr(self, name)) not in (1, count):
                raise ValueError(f"{name} has {len(getattr(self, name))} numbers for {count} channels")
        if 0.0 in self.std:
            raise ValueError("std has a 0 to divide by")
        if self.layout == "NHW" and self.channels != "GRAY":
            raise ValueError(f"the layout NHW has no place for the channels {self.channels}: write channels=GRAY")
        if self.resize is not None and self.fit != "crop":
            raise ValueError(f"resize is for fit=crop, and fit is {self.fit}")
        if self.resize is not None and self.size is not None and self.resize < min(self.size):
            raise ValueError(f"resize={self.resize} leaves too little to cut {self.size[0]}x{self.size[1]} out of")
        return self

    @property
    def channel_count(self) -> int:
        """How many channels the result has."""
        return 1 if self.channels == "GRAY" else 3


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "imagenet": {
        "size": 224,
        "resize": 256,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    },
    "zero-to-one": {},
    "minus-one-to-one": {"scale": 1 / 127.5, "mean": 1.0},
    "pixels": {"scale": 1.0},
}
"""What a name stands for: torchvision's for ImageNet classifiers (shorter side 256, middle 224, the means and
deviations of ImageNet); pixels between 0 and 1; between -1 and 1, as TensorFlow's MobileNet and Inception; as they
are."""


def read_preprocessing(text: str) -> Preprocessing:
    """The preprocessing that a text or a file declares.

    Args:
        text: a preset, `field=value` pairs with commas between them, a preset and then pairs, or the path of a .toml
            or .json file whose fields may include `preset`.

    Raises:
        InvalidPreprocessing: it cannot be read, or it has an unknown field or a value outside the field's range.
    """
    if text.lower().endswith(_FILE_SUFFIXES):
        fields = _read_file(Path(text))
        where = text
    else:
        fields = _read_text(text)
        where = f"the preprocessing {text!r}"
    preset = fields.pop("preset", None)
    if preset is not None and (not isinstance(preset, str) or preset not in PRESETS):
        raise InvalidPreprocessing(f"{where}: there is no preset {preset!r}: one of {', '.join(PRESETS)}")
    base = dict(PRESETS[preset]) if preset is not None else {}
    if "size" in fields and "resize" not in fields and "resize" in base:
        # The margin around the crop keeps its proportion: 299 of 342 as 224 of 256.
        base["resize"] = _resize_for(fields["size"], base)
    try:
        return Preprocessing.model_validate({**base, **fields})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        if first["type"] == "extra_forbidden":
            known = ", ".join(["preset", *Preprocessing.model_fields])
            raise InvalidPreprocessing(f"{where}: there is no field {name!r}: one of {known}") from error
        said = first["msg"].removeprefix("Value error, ")
        given = f"{name}={fields[name]!r}: " if name in fields else ""
        raise InvalidPreprocessing(f"{where}: {given}{said}") from error


def _resize_for(size: Any, base: Mapping[str, Any]) -> int | None:
    try:
        height, width = (int(side) for side in _pair(size))
    except (TypeError, ValueError):
        return None
    return round(min(height, width) * int(base["resize"]) / int(base["size"]))


def _read_text(text: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for number, part in enumerate(part.strip() for part in text.split(",")):
        key, separator, value = part.partition("=")
        if not separator and number == 0:
            key, value = "preset", part
        elif not separator or not key:
            raise InvalidPreprocessing(
                f"the preprocessing {text!r}: {part!r} is not a field=value pair; write size=224,resize=256,... or "
                f"begin with a preset: {', '.join(PRESETS)}"
            )
        if key.strip() in fields:
            raise InvalidPreprocessing(f"the preprocessing {text!r}: {key.strip()!r} is given twice")
        fields[key.strip()] = value.strip()
    return fields


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = read_regular(path).decode()
        fields = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except OSError as error:
        raise InvalidPreprocessing(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidPreprocessing(f"{path} cannot be used as {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidPreprocessing(f"{path} does not hold an object with the fields of a preprocessing")
    return fields
