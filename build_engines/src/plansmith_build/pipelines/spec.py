"""The file that describes a pipeline: TOML, a table for each step, in the order in which they run."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator

from plansmith_build.errors import InvalidOption
from plansmith_build.reading.regular_files import read_regular
from plansmith_client.image_formats import IMAGE_FORMATS

__all__ = [
    "AudioOptions",
    "BoxesOptions",
    "ClassesOptions",
    "CtcOptions",
    "EmbeddingOptions",
    "ImageOptions",
    "LinesOptions",
    "ModelOptions",
    "PipelineSpec",
    "PreparedOptions",
    "StepOptions",
    "TextOptions",
    "UprightOptions",
    "read_pipeline",
]

_Share = Annotated[float, Field(ge=0, le=1)]


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: dict[str, str] = Field(default={}, description="tensor by the step's input, where names do not say it")


class PreparedOptions(_Options):
    """What comes before a model: `PRODUCED` is the tensor that the model takes."""

    PRODUCED: ClassVar[str]

    instances: PositiveInt = Field(default=1, description="processes that prepare requests at the same time")


class _Sides(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    shorter: PositiveInt = Field(default=1, description="the least of the shorter side: smaller images are enlarged")
    longer: int = Field(default=2000, ge=1, le=8192, description="the most of the longer side")
    multiple: PositiveInt = Field(default=32, le=1024, description="what both sides are a multiple of")


class ImageOptions(PreparedOptions):
    """Image files to pixels."""

    PRODUCED = "pixels"

    kind: Literal["image"]
    preprocess: str | None = Field(
        default=None, description="as --preprocess takes it; by default what the build with images recorded"
    )
    formats: tuple[str, ...] = Field(default=IMAGE_FORMATS, min_length=1, description="that are decoded")
    max_pixels: PositiveInt = Field(default=50_000_000, le=150_000_000, description="of the largest image")
    sides: _Sides | None = Field(
        default=None, description="for models that take any height and width: images keep about their own size"
    )

    @field_validator("formats")
    @classmethod
    def _known(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in formats if name not in IMAGE_FORMATS]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not one of {', '.join(IMAGE_FORMATS)}")
        return formats


class TextOptions(PreparedOptions):
    """Text to token ids."""

    PRODUCED = "input_ids"

    kind: Literal["text"]
    tokenizer: Path = Field(default=Path("tokenizer.json"), description="of the library tokenizers")
    max_length: PositiveInt | None = Field(
        default=None, description="tokens of the longest text; by default the tokenizer's own limit, or 512"
    )
    too_long: Literal["truncate", "refuse"] = Field(default="truncate", description="what becomes of a longer text")
    max_bytes: PositiveInt = Field(default=100_000, description="of the longest text; a longer one is refused")
    pad: tuple[PositiveInt, ...] = Field(default=(), description="lengths to fill up to; by default the longest's")


class AudioOptions(PreparedOptions):
    """Recordings to log-mel features."""

    PRODUCED = "features"

    kind: Literal["audio"]
    rate: int = Field(default=16_000, ge=1000, le=192_000, description="samples a second, of every recording")
    window: int = Field(default=400, ge=16, le=65_536, description="samples of a frame")
    hop: PositiveInt = Field(default=160, le=65_536, description="samples from one frame to the next")
    min_level: _Share = Field(default=0.001, description="of the loudest sample; a quieter recording is refused")


class ModelOptions(_Options):
    """A model: the one that is built, or another ONNX file."""

    kind: Literal["model"]
    file: Path | None = Field(default=None, description="an ONNX file; by default the one that is built")


class ClassesOptions(_Options):
    """Scores to the names of classes."""

    kind: Literal["classes"]
    labels: Path | None = Field(default=None, description="a class a line; by default the labels of the build")
    top: PositiveInt = Field(default=1, description="how many classes are given")
    activation: Literal["softmax", "sigmoid", "none"] = Field(
        default="softmax", description="what makes probabilities of the scores; none where they are some"
    )


class EmbeddingOptions(_Options):
    """Vectors of tokens to one of the text."""

    kind: Literal["embedding"]
    pooling: Literal["mean", "max", "first", "none"] = "mean"
    normalize: bool = True


class BoxesOptions(_Options):
    """A detector's predictions to boxes."""

    kind: Literal["boxes"]
    labels: Path | None = Field(default=None, description="a class a line; by default the labels of the build")
    min_score: _Share = 0.25
    max_overlap: _Share = 0.45
    max_boxes: PositiveInt = 100
    head: Literal["yolov8", "picodet"] = Field(default="yolov8", description="what the detector's outputs are")
    strides: tuple[PositiveInt, ...] = Field(default=(8, 16, 32, 64), min_length=1, description="of a picodet")


class LinesOptions(_Options):
    """A text detector's map to the lines on the image."""

    kind: Literal["lines"]
    preprocess: str = Field(
        default="minus-one-to-one,channels=BGR", description="how the lines' pixels become numbers, as --preprocess"
    )
    height: PositiveInt = Field(default=48, le=512, description="of the rows that the recogniser takes")
    min_score: _Share = 0.5
    unclip: float = Field(default=1.6, ge=0, le=10, description="how much larger lines are than the map shows them")
    max_lines: PositiveInt = Field(default=100, le=1000, description="of an image; one with more is refused")
    max_total_width: PositiveInt = Field(
        default=100_000, description="of all lines, each filled up to the widest; memory after the step goes by it"
    )


class UprightOptions(_Options):
    """Lines that stand on their heads to upright ones."""

    kind: Literal["upright"]


class CtcOptions(_Options):
    """Scores of characters at each place to text."""

    kind: Literal["ctc"]
    characters: Path = Field(description="a character a line, without the blank, which is the first score")
    min_score: _Share = Field(default=0.5, description="of a line that is given")


StepOptions = (
    ImageOptions
    | TextOptions
    | AudioOptions
    | ModelOptions
    | ClassesOptions
    | EmbeddingOptions
    | BoxesOptions
    | LinesOptions
    | UprightOptions
    | CtcOptions
)


class PipelineSpec(BaseModel):
    """A pipeline.

    Attributes:
        folder: of the file; its paths are relative to it.
        text: of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    text: str
    samples: tuple[str, ...] = Field(
        default=(), description="what it is verified on: texts, or paths of images or WAV files; by default made up"
    )
    step: tuple[Annotated[StepOptions, Field(discriminator="kind")], ...] = Field(min_length=2)

    @property
    def lines(self) -> tuple[int, LinesOptions] | None:
        """The place and the options of the step after which rows are lines of one image, None where there is none."""
        return next(((place, step) for place, step in enumerate(self.step) if isinstance(step, LinesOptions)), None)

    def path(self, relative: Path) -> Path:
        """A path of the file, relative to the folder that it stands in."""
        return self.folder / relative


def read_pipeline(path: Path) -> PipelineSpec:
    """Read the description of a pipeline.

    Raises:
        InvalidOption: it cannot be read, is not TOML, or says what no pipeline can.
    """
    try:
        text = read_regular(path).decode()
        fields = tomllib.loads(text)
        spec = PipelineSpec.model_validate({**fields, "folder": path.parent, "text": text})
    except OSError as error:
        raise InvalidOption(f"the pipeline {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"]]
        if len(place) > 1:
            place[1] = str(int(place[1]) + 1)
        raise InvalidOption(f"the pipeline {path}: {' '.join(place)}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidOption(f"the pipeline {path} is not TOML: {error}") from error
    built = [step for step in spec.step if isinstance(step, ModelOptions) and step.file is None]
    if len(built) != 1:
        raise InvalidOption(
            f"the pipeline {path} has {len(built)} steps for the model that is built: write one step with "
            'kind = "model", and file = "other.onnx" in each further one'
        )
    return spec
