"""Options that several commands have, and what is checked of a command line before anything is measured."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated

import typer

from plansmith_client.whole_files import write_whole
from plansmith_perf.errors import LoadTestMisconfigured

EXIT_FAILED, EXIT_MISSED, EXIT_INTERRUPTED = 1, 3, 130

RepositoryOption = Annotated[Path, typer.Option("--repository", "-r", help="The model repository.")]
SecondsOption = Annotated[float, typer.Option("--seconds", help="Length of each measurement.")]
WarmupOption = Annotated[float, typer.Option("--warmup", help="Seconds of load before each that do not count.")]
SamplesOption = Annotated[
    Path | None, typer.Option("--samples", metavar="FILE", help="Real inputs: .npz, .npy or .json, samples first.")
]
BatchSizeOption = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Rows a request.")]
DistinctInputsOption = Annotated[int, typer.Option("--distinct-inputs", min=1, help="Different requests to send.")]
ToleranceOption = Annotated[
    float, typer.Option("--tolerance", help="Greatest difference, relative to an output's greatest value.")
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes that send; one for two cores if not given.")
]
TimeoutOption = Annotated[float, typer.Option("--timeout", help="Seconds that a request may take.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the result to this JSON file.")
]


def check_positive(**options: float) -> None:
    """Refuse what is not above 0 and finite.

    Args:
        options: by the option's name, without its dashes.

    Raises:
        LoadTestMisconfigured: names the option.
    """
    for name, number in options.items():
        if not 0 < number < math.inf:
            raise LoadTestMisconfigured(f"{_option(name)} must be above 0 and finite, got {number:g}")


def check_not_negative(**options: float) -> None:
    """Refuse what is below 0 or not finite; see `check_positive`."""
    for name, number in options.items():
        if not 0 <= number < math.inf:
            raise LoadTestMisconfigured(f"{_option(name)} must be 0 or more and finite, got {number:g}")


def positive_numbers(option: str, text: str, *, below: float = math.inf) -> list[float]:
    """Numbers above 0, separated by commas.

    Raises:
        LoadTestMisconfigured: names the option.
    """
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < below for number in numbers):
        limit = "" if below == math.inf else f" and below {below:g}"
        raise LoadTestMisconfigured(f"{option} must be numbers above 0{limit}, separated by commas, got {text!r}")
    return numbers


def whole_numbers(option: str, text: str, *, least: int = 1) -> list[int]:
    """Whole numbers, separated by commas.

    Raises:
        LoadTestMisconfigured: names the option.
    """
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        raise LoadTestMisconfigured(
            f"{option} must be whole numbers of {least} or more, separated by commas, got {text!r}"
        )
    return numbers


def check_output(path: Path | None) -> None:
    """Check that a file can be written there; None means that no file is asked for.

    Raises:
        LoadTestMisconfigured: it cannot be written; the message says why.
    """
    if path is None:
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise LoadTestMisconfigured(f"--output {path}: the folder {folder} does not exist")
    if path.is_dir():
        raise LoadTestMisconfigured(f"--output {path}: this is a folder; name a file in it")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise LoadTestMisconfigured(f"--output {path}: you do not have permission to write there")


def write_output(path: Path | None, text: str) -> None:
    """Write a text and a line end; nothing where the path is None.

    Raises:
        LoadTestMisconfigured: it cannot be written after all.
    """
    if path is None:
        return
    try:
        write_whole(path, lambda file: file.write(f"{text}\n".encode()))
    except OSError as error:
        raise LoadTestMisconfigured(f"--output {path} cannot be written: {error.strerror}") from error


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
