"""Options that several commands have, and what is checked of a command line before anything is measured."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn

from plansmith_client.terminal import Terminal
from plansmith_perf.errors import LoadTestMisconfigured

if TYPE_CHECKING:
    from collections.abc import Callable

Number = TypeVar("Number", int, float)

EXIT_FAILED, EXIT_MISSED, EXIT_INTERRUPTED = 1, 3, 130

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


def check_measuring(seconds: float, timeout: float, warmup: float, tolerance: float) -> None:
    """Refuse lengths of nothing, and what is below 0.

    Raises:
        LoadTestMisconfigured: names the option.
    """
    for option, number, fits, rule in (
        ("--seconds", seconds, seconds > 0, "above 0"),
        ("--timeout", timeout, timeout > 0, "above 0"),
        ("--warmup", warmup, warmup >= 0, "0 or more"),
        ("--tolerance", tolerance, tolerance >= 0, "0 or more"),
    ):
        if not fits:
            raise LoadTestMisconfigured(f"{option} must be {rule}, got {number:g}")


def positive_numbers(option: str, text: str, *, below: float = math.inf) -> list[float]:
    """Numbers above 0, separated by commas.

    Raises:
        LoadTestMisconfigured: names the option.
    """
    limit = "" if below == math.inf else f" and below {below:g}"
    return _numbers(option, text, float, lambda number: 0 < number < below, f"numbers above 0{limit}")


def whole_numbers(option: str, text: str, *, least: int = 1) -> list[int]:
    """Whole numbers, separated by commas.

    Raises:
        LoadTestMisconfigured: names the option.
    """
    return _numbers(option, text, int, lambda number: number >= least, f"whole numbers of {least} or more")


def _numbers(
    option: str, text: str, read: Callable[[str], Number], fits: Callable[[Number], bool], rule: str
) -> list[Number]:
    with suppress(ValueError):
        numbers = [read(word) for word in text.split(",")]
        if all(map(fits, numbers)):
            return numbers
    raise LoadTestMisconfigured(f"{option} must be {rule}, separated by commas, got {text!r}")


class ProgressBar(Progress):
    """A bar on standard error that goes when it is done, with what is being done before it and more behind it."""

    def __init__(self, *more: ProgressColumn) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), *more)
        console = Terminal(stderr=True)
        # Where no bar can go again, rich ends it with an empty line.
        super().__init__(*columns, console=console, transient=True, disable=not console.is_interactive)

    def tell(self, task: TaskID, doing: str, done: float) -> None:
        """Show how far a task is; in a pipe or a log, which show no bar, a line whenever something else is done."""
        if self.disable and doing != self.tasks[task].description:
            self.console.print(doing, soft_wrap=True, markup=False, highlight=False)
        self.update(task, description=doing, completed=done)
