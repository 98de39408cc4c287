"""`plansmith infer`: one request to a served model."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plansmith_client.commands.classes import classified, labelled_outputs, written
from plansmith_client.commands.image_files import ImagePreparation, recorded_preparation
from plansmith_client.commands.input_files import read_inputs
from plansmith_client.commands.options import JsonOption, TimeoutOption, UrlOption  # noqa: TC001
from plansmith_client.commands.output_files import check_output_file, write_output_file
from plansmith_client.commands.tensor_json import json_from_result
from plansmith_client.errors import InvalidInput
from plansmith_client.faces.client import Client
from plansmith_client.sampling import random_inputs
from plansmith_client.tensors import datatype_from_numpy

if TYPE_CHECKING:
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
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="[NAME=]FILE",
            help="A .npy, .npz, .json, image or .txt file, or a folder of images; again for more.",
        ),
    ] = None,
    *,
    random: Annotated[bool, typer.Option("--random", help="Send random values that fit the model.")] = False,
    batch: Annotated[int | None, typer.Option("--batch", help="Items in a random request; 1 by default.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed makes the same random values.")] = 0,
    image_scale: Annotated[
        float | None, typer.Option("--image-scale", help="Factor for pixels; by default 1/255 for inputs of fractions.")
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
    """Send one request to a served model."""
    if random == bool(inputs):
        raise InvalidInput("Give either --input FILE (once for each input) or --random")
    if batch is not None and not random:
        raise InvalidInput("--batch is only for --random: the batch of --input is that of its files")
    if output is not None:
        check_output_file(output)
    if top is not None and (as_json or output is not None):
        raise InvalidInput("--top is for the table: leave it out with --output and --json, which have all values")
    preparation = ImagePreparation(image_scale, _numbers("mean", image_mean), _numbers("std", image_std))
    if manifest is not None:
        if preparation != ImagePreparation():
            raise InvalidInput("--manifest says how images are prepared: leave out --image-scale, -mean and -std")
        preparation = recorded_preparation(manifest)
    with Client(url, timeout=timeout) as client:
        served = client.model(model, model_version)
        arrays = (
            _random(served, batch, seed) if random else read_inputs(inputs or (), served.metadata.inputs, preparation)
        )
        started = time.monotonic()
        result = served.infer(arrays)
        seconds = time.monotonic() - started
        classes = {} if as_json or output is not None else _classes(served, arrays, top)
    if output is not None:
        write_output_file(output, result)
    if as_json:
        document = {**json_from_result(result, data=output is None), "seconds": seconds}
        if output is not None:
            document["file"] = str(output)
        typer.echo(json.dumps(document, allow_nan=False))
    else:
        _show(result, seconds, output, classes)


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError as error:
        raise InvalidInput(f"--image-{name} {text!r} is not a number, or numbers with commas between") from error
    if not all(map(math.isfinite, values)) or (name == "std" and 0 in values):
        raise InvalidInput(f"--image-{name} {text!r} has a value that is not finite, or a standard deviation of 0")
    return values


def _random(model: Model, batch: int | None, seed: int) -> dict[str, np.ndarray[Any, Any]]:
    return random_inputs(model.metadata.inputs, batch=batch, seed=seed)


def _classes(model: Model, arrays: dict[str, Any], top: int | None) -> dict[str, list[list[ClassScore]]]:
    outputs = labelled_outputs(model)
    if top is not None and not outputs:
        # Without labels the classes are places in the output, if it is clear in which one.
        outputs = tuple(spec.name for spec in model.metadata.outputs)
        if len(outputs) != 1:
            raise InvalidInput(f"--top needs a model with labels or with one output: {model.name!r} has neither")
    return classified(model, arrays, outputs, top or _CLASSES) if outputs else {}


def _show(result: InferResult, seconds: float, output: Path | None, classes: dict[str, list[list[ClassScore]]]) -> None:
    from rich.table import Table  # noqa: PLC0415 - not needed for --json
    from rich.text import Text  # noqa: PLC0415

    from plansmith_client.terminal import Terminal  # noqa: PLC0415

    table = Table(
        title=Text(f"{result.model_name} version {result.model_version}, {seconds * 1000:.1f} ms"), title_justify="left"
    )
    for heading in ("output", "type", "shape", "first values"):
        table.add_column(heading, overflow="fold")
    for name, array in result.items():
        shape = " x ".join(map(str, array.shape)) or "one value"
        table.add_row(*map(Text, (name, datatype_from_numpy(array.dtype), shape, _preview(array))))
    console = Terminal()
    console.print(table)
    for name, rows in classes.items():
        for place, row in enumerate(rows[:_MOST_ROWS]):
            console.print(Text(f"{name}, row {place}: {written(row)}"), soft_wrap=True)
        if len(rows) > _MOST_ROWS:
            console.print(Text(f"{name}: {len(rows) - _MOST_ROWS} more rows; --output FILE writes them all"))
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
