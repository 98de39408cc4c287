"""`plansmith infer`: one request to a served model."""

from __future__ import annotations

import itertools
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plansmith_client.commands.classes import classified, labelled_outputs, written
from plansmith_client.commands.image_files import ImagePreparation, recorded_preparation, served_preparation
from plansmith_client.commands.input_files import (
    has_images,
    names_of_rows,
    read_inputs,
    sources_of,
    texts_as_inputs,
)
from plansmith_client.commands.options import JsonOption, TimeoutOption, UrlOption  # noqa: TC001
from plansmith_client.commands.output_files import ARRAYS, PICTURES, check_output_file, write_output_file
from plansmith_client.commands.predictions import draw_boxes, prediction_lines
from plansmith_client.commands.tensor_json import json_from_result
from plansmith_client.errors import InvalidInput
from plansmith_client.faces.client import Client
from plansmith_client.sampling import random_inputs
from plansmith_client.tensors import datatype_from_numpy
from plansmith_client.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from plansmith_client.faces.model import Model
    from plansmith_client.protocol.classification import ClassScore
    from plansmith_client.protocol.results import InferResult

__all__ = ["infer"]

_PREVIEW_ELEMENTS = 6
_PREVIEW_TEXT = 24
_CLASSES = 3
_MOST_ROWS = 20


def infer(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="NAME=FILE or FILE, as --input.", show_default=False)
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="[NAME=]FILE",
            help="A .npy, .npz, .json, .txt, image or .wav file, or a folder of images or recordings; may be repeated.",
        ),
    ] = None,
    *,
    texts: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="TEXT", help="A row of the model's only input of text; may be repeated."),
    ] = None,
    random: Annotated[bool, typer.Option("--random", help="Send random values that fit the model.")] = False,
    batch: Annotated[int | None, typer.Option("--batch", help="Items in a random request; 1 by default.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed makes the same random values.")] = 0,
    image_scale: Annotated[
        float | None,
        typer.Option("--image-scale", help="Factor for pixels; by default what the build recorded."),
    ] = None,
    image_mean: Annotated[str, typer.Option("--image-mean", help="Then subtracted, as in 0.485,0.456,0.406.")] = "0",
    image_std: Annotated[str, typer.Option("--image-std", help="Then divided by, as in 0.229,0.224,0.225.")] = "1",
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            metavar="FILE",
            help="A version's manifest.json: prepare images as the build with them did, instead of the three above.",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the outputs to .npy, .npz or .json.")
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option("--draw", metavar="FILE", help="Write the image with the boxes that the model found on it."),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top", min=1, help="Classes to show for each row; 3 by default if the model has labels, else none."
        ),
    ] = None,
    model_version: Annotated[
        str, typer.Option("--model-version", help="A version; by default the server's choice.")
    ] = "",
    url: UrlOption = "localhost:8001",
    timeout: TimeoutOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Send one request to a served model.

    Images are prepared as the build that had --preprocess recorded, or else resized and scaled to 0 to 1.

    For example:

        plansmith infer digits three.png
        plansmith infer sentiment --text "great film"
        plansmith infer scenes photo.jpg --draw found.png
        plansmith infer bert ids=ids.npy mask=mask.npy --output answer.npz
        plansmith infer digits --random --batch 4 --json
    """
    words = [*(files or ()), *(inputs or ())]
    if [random, bool(words), bool(texts)].count(True) != 1:
        raise InvalidInput("Give either FILE (once for each input), --text or --random")
    if batch is not None and not random:
        raise InvalidInput("--batch is only for --random: the batch of --input is that of its files")
    sources = texts or sources_of(words)
    _check_what_is_shown(output, top, draw, as_json=as_json, sources=sources if words else ())
    preparation = _preparation(image_scale, image_mean, image_std, manifest)
    with Client(url, timeout=timeout, cast=True) as client:
        served = client.model(model, model_version)
        specs = served.metadata.inputs
        if random:
            arrays = random_inputs(specs, batch=batch, seed=seed)
        else:
            arrays = texts_as_inputs(texts, specs) if texts else _read(words, served, preparation)
        started = time.monotonic()
        result = served.infer(arrays)
        seconds = time.monotonic() - started
        classes = {} if as_json or output is not None else _classes(served, arrays, top)
    if output is not None:
        write_output_file(output, result)
    if draw is not None:
        draw_boxes(Path(sources[0]), result, draw)
    if as_json:
        written_to = {} if output is None else {"file": str(output)}
        document = {**json_from_result(result, data=output is None), "seconds": seconds, **written_to}
        typer.echo(json.dumps(document, allow_nan=False))
    elif output is None and (lines := prediction_lines(result, sources)):
        for line in lines:
            typer.echo(visible(line))
    else:
        _show(result, seconds, output, _lines(classes, names_of_rows(words) if words else [], whole=top is not None))


def _read(words: Sequence[str], model: Model, preparation: ImagePreparation) -> dict[str, Any]:
    if preparation == ImagePreparation() and has_images(words):
        preparation = served_preparation(model)
    return read_inputs(words, model.metadata.inputs, preparation)


def _preparation(scale: float | None, mean: str, std: str, manifest: Path | None) -> ImagePreparation:
    given = ImagePreparation(scale, _numbers("mean", mean), _numbers("std", std))
    if manifest is None:
        return given
    if given != ImagePreparation():
        raise InvalidInput("--manifest says how images are prepared: leave out --image-scale, -mean and -std")
    return recorded_preparation(manifest)


def _check_what_is_shown(
    output: Path | None, top: int | None, draw: Path | None, *, as_json: bool, sources: Sequence[str]
) -> None:
    """Refuse options that do not go together, before the server is asked."""
    if output is not None:
        check_output_file(output, ARRAYS)
    if top is not None and (as_json or output is not None):
        raise InvalidInput("--top is for the table: leave it out with --output and --json, which have all values")
    if draw is not None:
        if len(sources) != 1:
            raise InvalidInput(f"--draw is for one image file, and {len(sources)} are given")
        check_output_file(draw, PICTURES)


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise InvalidInput(f"--image-{name} {text!r} is not a number, or numbers with commas between") from error
    if not all(map(math.isfinite, values)) or (name == "std" and 0 in values):
        raise InvalidInput(f"--image-{name} {text!r} has a value that is not finite, or a standard deviation of 0")
    return values


def _classes(model: Model, arrays: dict[str, Any], top: int | None) -> dict[str, list[list[ClassScore]]]:
    outputs = labelled_outputs(model)
    if top is not None and not outputs:
        # Without labels the classes are places in the output, if it is clear in which one.
        outputs = tuple(spec.name for spec in model.metadata.outputs)
        if len(outputs) != 1:
            raise InvalidInput(f"--top needs a model with labels or with one output: {model.name!r} has neither")
    return classified(model, arrays, outputs, top or _CLASSES) if outputs else {}


def _lines(classes: dict[str, list[list[ClassScore]]], files: list[str], *, whole: bool) -> dict[str, list[str]]:
    """For each output, a line a row; without classes that are 0 % unless they were asked for."""
    lines: dict[str, list[str]] = {}
    for name, rows in classes.items():
        by_file = len(classes) == 1 and len(files) == len(rows)
        lines[name] = [
            f"{files[place] if by_file else f'{name}, row {place}'}: {written(row, whole=whole)}"
            for place, row in enumerate(rows[:_MOST_ROWS])
        ]
        if len(rows) > _MOST_ROWS:
            lines[name].append(f"{name}: {len(rows) - _MOST_ROWS} more rows; --output FILE writes them all")
    return lines


def _show(result: InferResult, seconds: float, output: Path | None, lines: dict[str, list[str]]) -> None:
    from rich.text import Text  # noqa: PLC0415 - not needed for --json

    from plansmith_client.terminal import Column, FittingTable, Terminal  # noqa: PLC0415

    headings = ("output", "type", "shape", "first values")
    arrays = [
        (name, datatype_from_numpy(array.dtype), " x ".join(map(str, array.shape)) or "one value", _preview(array))
        for name, array in result.items()
        if name not in lines
    ]
    console = Terminal()
    for line in itertools.chain(*lines.values()):
        console.print(Text(line), soft_wrap=True)
    title = f"{result.model_name} version {result.model_version}, {seconds * 1000:.1f} ms"
    console.print(FittingTable([Column(heading, "words") for heading in headings], arrays, title) if arrays else title)
    if output is not None:
        console.print(Text(f"written to {output}"), soft_wrap=True)


def _preview(array: np.ndarray[Any, Any]) -> str:
    flat = array.reshape(-1)
    shown = " ".join(map(_shown, flat[:_PREVIEW_ELEMENTS].tolist()))
    return f"{shown} ..." if flat.size > _PREVIEW_ELEMENTS else shown


def _shown(element: Any) -> str:
    if isinstance(element, bytes):
        text = element.decode(errors="replace")
        return repr(text if len(text) <= _PREVIEW_TEXT else text[:_PREVIEW_TEXT] + "...")
    return str(element) if isinstance(element, (bool, int)) else f"{float(element):.4g}"
