"""Progress of a long job."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from plansmith_client.errors import MissingDependency

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["progress_of"]


@contextlib.contextmanager
def progress_of(
    progress: bool | Callable[[int, int | None], None],  # noqa: FBT001 - what a caller of `map` passes
    total: int | None,
    name: str,
) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of items done.

    Args:
        progress: True for a bar on standard error, a function of (items done, total or None), or False for neither.
        total: the number of items, where it is known.
        name: what the bar is called.

    Raises:
        InvalidInput: a bar is wanted and rich is not installed.
    """
    done = 0
    if progress is False:
        yield lambda _: None
    elif callable(progress):
        report = progress

        def advance(items: int) -> None:
            nonlocal done
            done += items
            report(done, total)

        yield advance
    else:
        try:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

            from plansmith_client.terminal import Terminal  # noqa: PLC0415
        except ImportError as error:
            raise MissingDependency("progress=True needs the package rich: pip install rich") from error
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Terminal(stderr=True)) as bar:
            task = bar.add_task(name, total=total)
            yield lambda items: bar.advance(task, items)
