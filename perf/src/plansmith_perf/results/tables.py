"""Tables, described once for all that shows them; and on a terminal, where they fit its width.

There numbers never wrap, columns that can be spared go first, and a note says which.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from plansmith_client.terminal import Column, FittingTable
from plansmith_client.visible import visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

__all__ = ["NOTHING", "Cell", "Column", "Link", "Table", "print_table", "visible"]

NOTHING = "-"


@dataclass(frozen=True)
class Link:
    """An address with words of its own."""

    text: str
    address: str


Cell: TypeAlias = str | Link


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


def print_table(console: Console, table: Table, *, caption: str = "", styles: Sequence[str] = ()) -> None:
    """Print a table no wider than the console, and below it which columns it has no room for."""
    rows = [[visible(cell if isinstance(cell, str) else cell.text) for cell in row] for row in table.rows]
    console.print(FittingTable(table.columns, rows, table.caption, (caption,), styles))
