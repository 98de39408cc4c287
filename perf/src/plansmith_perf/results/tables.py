"""Tables, described once for all that shows them; and on a terminal, where they fit its width.

There numbers never wrap, columns that can be spared go first, and a note says which.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table as RichTable
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

__all__ = ["NOTHING", "Cell", "Column", "Link", "Table", "print_table", "visible"]

NOTHING = "-"

_GAP = 2
_LEAST_WORDS = 8
# What ends or reorders a line, or is no character at all: controls, formats such as right-to-left overrides, line and
# paragraph separators, surrogates.
_HIDDEN = frozenset(("Cc", "Cf", "Zl", "Zp", "Cs"))


@dataclass(frozen=True)
class Link:
    """An address with words of its own."""

    text: str
    address: str


Cell: TypeAlias = str | Link


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: above it.
        kind: numbers and names never wrap, words may.
        spare: where a terminal is too narrow, the column with the highest goes first; 0 stays.
    """

    heading: str
    kind: Literal["number", "name", "words"] = "number"
    spare: int = 0


@dataclass(frozen=True)
class Table:
    """Rows of cells; the first cell of a row is its name.

    Attributes:
        caption: what it shows, with units.
        columns: one for each cell of a row.
        rows: from top to bottom.
        marked: numbers of the rows that stand out; what makes them do so is also written in the row.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: frozenset[int] = frozenset()

    def without(self, *headings: str) -> Table:
        """The same without some columns."""
        kept = [place for place, column in enumerate(self.columns) if column.heading not in headings]
        rows = (tuple(row[place] for place in kept) for row in self.rows)
        return replace(self, columns=tuple(self.columns[place] for place in kept), rows=tuple(rows))


def visible(text: str) -> str:
    """Text with its control and direction characters written out, so that a terminal or a page cannot act on them."""
    return "".join(
        character.encode("unicode_escape", "surrogatepass").decode("ascii")
        if unicodedata.category(character) in _HIDDEN
        else character
        for character in text
    )


def print_table(console: Console, table: Table, *, caption: str = "", styles: Sequence[str] = ()) -> None:
    """Print a table no wider than the console, and below it which columns it has no room for.

    Args:
        console: where to.
        table: its cells are text, never markup.
        caption: below it.
        styles: of the rows, or none.
    """
    columns = table.columns
    cells = [[visible(cell if isinstance(cell, str) else cell.text) for cell in row] for row in table.rows]
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
    shown = RichTable(box=SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0), pad_edge=False, show_edge=False)
    for place in kept:
        column = columns[place]
        wraps = column.kind == "words"
        shown.add_column(
            Text(visible(column.heading)),
            justify="right" if column.kind == "number" else "left",
            no_wrap=not wraps,
            overflow="fold",
            min_width=min(widths[place], _LEAST_WORDS) if wraps else widths[place],
        )
    for number, row in enumerate(cells):
        shown.add_row(*(Text(row[place]) for place in kept), style=styles[number] if styles else None)
    console.print(visible(table.caption), style="italic", markup=False, highlight=False)
    console.print(shown)
    missing = [column.heading for place, column in enumerate(columns) if place not in kept]
    lost = f"No room for: {', '.join(missing)}. A wider terminal or --json shows them." if missing else ""
    for line in filter(None, (caption, lost)):
        console.print(visible(line), style="dim", markup=False, highlight=False)


def _least(columns: Sequence[Column], widths: Sequence[int], kept: Sequence[int]) -> int:
    """The width of a table in which only words wrap."""
    needed = (min(widths[place], _LEAST_WORDS) if columns[place].kind == "words" else widths[place] for place in kept)
    return sum(needed) + _GAP * (len(kept) - 1)
