"""Tables that fit a terminal: numbers never wrap, columns that can be spared go first, and a note says which."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

__all__ = ["Column", "print_table", "visible"]

_GAP = 2
_LEAST_WORDS = 8
# What ends or reorders a line, or is no character at all: controls, formats such as right-to-left overrides, line and
# paragraph separators, surrogates.
_HIDDEN = frozenset(("Cc", "Cf", "Zl", "Zp", "Cs"))


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: above it.
        kind: numbers and names never wrap, words may.
        spare: where the table is too wide, the column with the highest goes first; 0 stays.
    """

    heading: str
    kind: Literal["number", "name", "words"] = "number"
    spare: int = 0


def visible(text: str) -> str:
    """Text with its control and direction characters written out, so that a terminal or a page cannot act on them."""
    return "".join(
        character.encode("unicode_escape", "surrogatepass").decode("ascii")
        if unicodedata.category(character) in _HIDDEN
        else character
        for character in text
    )


def print_table(
    console: Console,
    columns: Sequence[Column],
    rows: Iterable[Sequence[str]],
    *,
    title: str,
    caption: str = "",
    styles: Sequence[str] = (),
) -> None:
    """Print a table no wider than the console, and below it which columns it has no room for.

    Args:
        console: where to.
        columns: from left to right.
        rows: a cell for each column; cells are text, never markup.
        title: above the table.
        caption: below it.
        styles: of the rows, or none.
    """
    cells = [[visible(cell) for cell in row] for row in rows]
    widths = [
        max([cell_len(column.heading), *(cell_len(row[place]) for row in cells)])
        for place, column in enumerate(columns)
    ]
    kept = list(range(len(columns)))
    while _least(columns, widths, kept) > console.width:
        spare = max(kept, key=lambda place: columns[place].spare)
        if not columns[spare].spare:
            break
        kept.remove(spare)
    table = Table(box=SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0), pad_edge=False, show_edge=False)
    for place in kept:
        column = columns[place]
        if column.kind == "words":
            table.add_column(Text(column.heading), overflow="fold", min_width=min(widths[place], _LEAST_WORDS))
        else:
            table.add_column(
                Text(column.heading),
                justify="right" if column.kind == "number" else "left",
                no_wrap=True,
                min_width=widths[place],
            )
    for number, row in enumerate(cells):
        table.add_row(*(Text(row[place]) for place in kept), style=styles[number] if styles else None)
    if title:
        console.print(visible(title), style="italic", markup=False, highlight=False)
    console.print(table)
    if caption:
        console.print(visible(caption), style="dim", markup=False, highlight=False)
    if missing := [column.heading for place, column in enumerate(columns) if place not in kept]:
        console.print(
            f"No room for: {visible(', '.join(missing))}. A wider terminal or --json shows them.",
            style="dim",
            markup=False,
            highlight=False,
        )


def _least(columns: Sequence[Column], widths: Sequence[int], kept: Sequence[int]) -> int:
    """The width of a table in which only words wrap."""
    needed = (min(widths[place], _LEAST_WORDS) if columns[place].kind == "words" else widths[place] for place in kept)
    return sum(needed) + _GAP * (len(kept) - 1)
