"""From the options of a step to its files: an ONNX graph, or data for the backend `pipeline_step`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from plansmith_build.datasets import read_preprocessing
from plansmith_build.datasets.preprocessing import Preprocessing
from plansmith_build.errors import InvalidOption
from plansmith_build.pipelines.graphs import GRAPHS
from plansmith_build.pipelines.spec import (
    BoxesOptions,
    ClassesOptions,
    CtcOptions,
    EmbeddingOptions,
    ImageOptions,
    LinesOptions,
    TextOptions,
    UprightOptions,
)
from plansmith_build.reading.regular_files import read_regular
from plansmith_build.repository.labels import read_labels

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from plansmith_build.pipelines.spec import PipelineSpec, PreparedOptions, StepOptions
    from plansmith_client.tensors import TensorSpec

__all__ = ["prepared_step", "read_tokenizer", "result_step", "write_step"]

_DTYPES = {"UINT8": "uint8", "FP16": "float16", "FP32": "float32", "FP64": "float64"}
_TOKENS = 512
_COLOURS = 3


def prepared_step(
    options: PreparedOptions, recorded: dict[str, Any] | None, tokenizer: bytes | None, taken: TensorSpec
) -> dict[str, Any]:
    """The options of a step before a model.

    Args:
        options: as the pipeline's file has them.
        recorded: the preprocessing of the model's build, None where that had no images.
        tokenizer: the content of tokenizer.json, for a step `text`.
        taken: the model's input.

    Raises:
        InvalidOption: nobody says how images become pixels, the tokenizer is not JSON, or the model's input does not
            take what the step gives.
    """
    if isinstance(options, ImageOptions):
        return _image_step(options, recorded, taken)
    if isinstance(options, TextOptions):
        return _text_step(options, tokenizer or b"", taken)
    *outer, bands, frames = (1, *taken.shape[1:]) if len(taken.shape) > 2 else (0, 0, 0)  # noqa: PLR2004
    if taken.datatype != "FP32" or min(bands, frames) < 1 or any(size not in (1, -1) for size in outer):
        raise InvalidOption(
            f"the model's input {taken.name} {taken} does not take log-mel features: FP32, with fixed numbers of bands "
            "and frames as the last two dimensions, and 1 before them"
        )
    return {
        "shape": [*(1 for _ in outer[1:]), bands, frames],
        **options.model_dump(exclude={"kind", "inputs", "instances"}),
    }


def _image_step(options: ImageOptions, recorded: dict[str, Any] | None, pixels: TensorSpec) -> dict[str, Any]:
    if options.preprocess is not None:
        recipe = read_preprocessing(options.preprocess)
    elif recorded is not None:
        recipe = Preprocessing(**recorded)
    else:
        raise InvalidOption(
            "the image step does not say how images become pixels: write preprocess as --preprocess takes it, or build "
            "with --data FOLDER --preprocess, which is recorded"
        )
    height, width = (pixels.shape[-3:-1] if recipe.layout == "NHWC" else pixels.shape[-2:])[:2]
    size = recipe.size or (height, width)
    if options.sides is not None:
        if recipe.size is not None or max(size) > 0:
            raise InvalidOption(
                f"the image step has sides, for models that take any height and width, and the size is set, to "
                f"{size[0]}x{size[1]}, by the model's input {pixels.name} {pixels} or by preprocess: leave sides out"
            )
        recipe = recipe.model_copy(update={"fit": "stretch"})
    elif min(size) < 1:
        raise InvalidOption(
            f"the model's input {pixels.name} {pixels} takes images of any size: write one, as in "
            'preprocess = "zero-to-one,size=640", or sides = {longer = 2000} for about their own'
        )
    dtype = recipe.dtype if recipe.dtype != "input" else _DTYPES.get(pixels.datatype)
    if dtype is None:
        raise InvalidOption(f"the model's input {pixels.name} {pixels} does not take pixels: UINT8 or floating point")
    made = {
        "recipe": {**recipe.model_dump(mode="json"), "size": list(size), "dtype": dtype},
        **options.model_dump(include={"formats", "max_pixels"}),
    }
    return made if options.sides is None else {**made, "sides": options.sides.model_dump()}


def _text_step(options: TextOptions, tokenizer: bytes, ids: TensorSpec) -> dict[str, Any]:
    if ids.datatype not in ("INT64", "INT32"):
        raise InvalidOption(f"the model's input {ids.name} {ids} does not take token ids: INT64 or INT32")
    try:
        own = (json.loads(tokenizer).get("truncation") or {}).get("max_length", _TOKENS)
    except (ValueError, AttributeError, RecursionError) as error:
        raise InvalidOption(f"{options.tokenizer} is not a tokenizer of the library tokenizers: {error}") from error
    length, pad = options.max_length or own, options.pad
    if ids.shape[-1] > 0:
        # A graph of one length.
        length, pad = min(length, ids.shape[-1]), (ids.shape[-1],)
    if pad and max(pad) > length:
        raise InvalidOption(f"the text step pads to {max(pad)} tokens, and the longest text has {length}")
    return {
        "max_length": length,
        "pad": list(pad),
        "datatype": ids.datatype,
        **options.model_dump(include={"too_long", "max_bytes"}),
    }


def result_step(
    options: StepOptions, spec: PipelineSpec, labels: bytes | None, before: dict[str, TensorSpec], last: TensorSpec
) -> dict[str, Any]:
    """The options of a step after the model.

    Args:
        options: as the pipeline's file has them.
        spec: the pipeline.
        labels: of the model that is built.
        before: every tensor so far.
        last: the first output of the step before.

    Raises:
        InvalidOption: there are no labels, or not as many as the model has classes.
    """
    match options:
        case ClassesOptions():
            scores = before.get(options.inputs.get("scores", ""), last)
            names = _labels(options.labels, spec, labels, scores, scores.shape[-1])
            return {"labels": names, "top": options.top, "activation": options.activation}
        case BoxesOptions():
            named = "predictions" if options.head == "yolov8" else f"scores_{options.strides[0]}"
            found = before.get(options.inputs.get(named, ""), last)
            classes = (
                found.shape[-1] if options.head == "picodet" else found.shape[1] - 4 if len(found.shape) > 1 else -1
            )
            made = {
                "labels": _labels(options.labels, spec, labels, found, classes),
                **options.model_dump(include={"min_score", "max_overlap", "max_boxes"}),
            }
            return made if options.head == "yolov8" else {**made, **_picodet_head(options, before.get("pixels"))}
        case EmbeddingOptions():
            vectors = before.get(options.inputs.get("tokens", options.inputs.get("vector", "")), last)
            mask = before.get(options.inputs.get("attention_mask", "attention_mask"))
            return {
                "size": vectors.shape[-1],
                "datatype": mask.datatype if mask else "INT64",
                **options.model_dump(include={"pooling", "normalize"}),
            }
        case LinesOptions():
            first = spec.step[0]
            if not isinstance(first, ImageOptions):
                raise InvalidOption("a step of kind lines cuts them out of an image: begin with a step of kind image")
            return {
                "recipe": read_preprocessing(options.preprocess).model_dump(mode="json"),
                **first.model_dump(include={"formats", "max_pixels"}),
                **options.model_dump(include={"height", "min_score", "unclip", "max_lines", "max_total_width"}),
            }
        case UprightOptions() if spec.lines is not None:
            return {"height": spec.lines[1].height}
        case CtcOptions():
            scores = before.get(options.inputs.get("scores", ""), last)
            return {
                "characters": _characters(spec.path(options.characters), scores),
                "min_score": options.min_score,
                "lines": spec.lines is not None,
            }
    if isinstance(options, UprightOptions):
        raise InvalidOption("a step of kind upright turns what a step of kind lines finds: put one before it")
    raise InvalidOption(f"a step of kind {options.kind} cannot follow a model")


def write_step(folder: Path, kind: str, options: dict[str, Any], tokenizer: bytes | None) -> tuple[Path, ...]:
    """Write the files of a step's version, the graph or the options first."""
    folder.mkdir()
    if kind in GRAPHS:
        files = {"model.onnx": GRAPHS[kind](**options).SerializeToString()}
    else:
        document = json.dumps({"kind": kind, "options": options}, indent=2, ensure_ascii=False)
        files = {"step.json": f"{document}\n".encode()}
    if tokenizer is not None:
        files["tokenizer.json"] = tokenizer
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return tuple(folder / name for name in files)


def read_tokenizer(options: TextOptions, spec: PipelineSpec) -> bytes:
    """The content of tokenizer.json.

    Raises:
        InvalidOption: it cannot be read.
    """
    path = spec.path(options.tokenizer)
    try:
        return read_regular(path)
    except OSError as error:
        raise InvalidOption(f"the tokenizer {path} cannot be read: {error.strerror}") from error


def _picodet_head(options: BoxesOptions, pixels: TensorSpec | None) -> dict[str, Any]:
    """What its places are: the rows' height and width, and the strides."""
    sides = () if pixels is None else pixels.shape[2:] if pixels.shape[1] == _COLOURS else pixels.shape[1:3]
    if not sides or min(sides) < 1:
        raise InvalidOption(
            "the places of a picodet are those of images of one size: begin with a step of kind image, without sides"
        )
    return {"head": options.head, "strides": list(options.strides), "size": list(sides)}


def _characters(path: Path, scores: TensorSpec) -> str:
    """The characters that a recogniser tells apart, without the blank.

    Raises:
        InvalidOption: the file cannot be read, has anything but a character in a line, or not as many as the model.
    """
    try:
        lines = read_regular(path).decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    except OSError as error:
        raise InvalidOption(f"the characters {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidOption(f"the characters {path} are not UTF-8 text: save them as one character a line") from error
    odd = next((number for number, line in enumerate(lines, start=1) if len(line) != 1), None)
    if odd is not None:
        raise InvalidOption(f"line {odd} of the characters {path} is {lines[odd - 1]!r}: write one character a line")
    classes = scores.shape[-1]
    if classes not in (-1, len(lines) + 1):
        raise InvalidOption(
            f"there are {len(lines)} characters in {path}, and the tensor {scores.name} {scores} has {classes} scores "
            f"at each place: one for the blank, and {classes - 1} characters"
        )
    return "".join(lines)


def _labels(path: Path | None, spec: PipelineSpec, built: bytes | None, tensor: TensorSpec, classes: int) -> list[str]:
    labels = read_labels(spec.path(path)) if path is not None else built
    if labels is None:
        raise InvalidOption(
            'the pipeline has no labels: write labels = "labels.txt" in the step, or build with --labels'
        )
    names = labels.decode().removesuffix("\n").split("\n")
    if classes not in (-1, len(names)):
        raise InvalidOption(
            f"there are {len(names)} labels, and the tensor {tensor.name} {tensor} has {classes} classes"
        )
    return names
