"""The console that all commands print on, and the tables that fit its width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from plansmith_client.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import ConsoleOptions, RenderableType, RenderResult

__all__ = ["Column", "FittingTable", "Terminal", "facts_table"]

_GAP = 2
_LEAST_WORDS = 8
# A longer one, such as a name, is folded rather than given all the room.
_LONG_WORD = 12


class Terminal(Console):
    """rich's console, which shows the control and direction characters of others' names and never sends them on."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich renders it, each text made visible; what rich itself does to the cursor stays."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text, keep="\n"), segment.style)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: above it.
        kind: numbers and names never wrap, words may, between words as long as those are short.
        spare: where a terminal is too narrow, the column with the highest goes first; 0 stays.
    """

    heading: str
    kind: Literal["number", "name", "words"] = "number"
    spare: int = 0


@dataclass(frozen=True)
class FittingTable:
    """A table no wider than the console: numbers never wrap, columns that can be spared go first and are named below.

    Attributes:
        columns: one for each cell of a row.
        rows: from top to bottom; cells are text of one or more lines, never markup.
        title: above it.
        notes: lines below it.
        styles: of the rows, or none.
    """

    columns: Sequence[Column]
    rows: Sequence[Sequence[str | Text]]
    title: str = ""
    notes: Sequence[str] = ()
    styles: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Called by rich."""
        cells = [
            [cell if isinstance(cell, Text) else Text(visible(cell, keep="\n")) for cell in row] for row in self.rows
        ]
        widths = [
            max([cell_len(column.heading), *(cell_len(line) for row in cells for line in row[place].plain.split("\n"))])
            for place, column in enumerate(self.columns)
        ]
        kept = list(range(len(self.columns)))
        least = [
            _least_width(column, [row[place] for row in cells], widths[place])
            for place, column in enumerate(self.columns)
        ]
        # The width of a table in which only words wrap.
        while sum(least[place] for place in kept) + _GAP * (len(kept) - 1) > options.max_width:
            spare = max(kept, key=lambda place: self.columns[place].spare)
            if not self.columns[spare].spare:
                break
            kept.remove(spare)
        if self.title:
            yield Text(visible(self.title), style="italic")
        yield self._shown(cells, _widened(least, widths, kept, options.max_width), kept)
        missing = [column.heading for place, column in enumerate(self.columns) if place not in kept]
        lost = f"No room for: {', '.join(missing)}. A wider terminal or --json shows them." if missing else ""
        for line in filter(None, (*self.notes, lost)):
            yield Text(visible(line), style="dim")

    def _shown(self, cells: Sequence[Sequence[Text]], widths: Sequence[int], kept: Sequence[int]) -> Table:
        shown = Table(box=SIMPLE_HEAD, padding=(0, _GAP - 1, 0, 0), pad_edge=False, show_edge=False)
        for place in kept:
            column = self.columns[place]
            wraps = column.kind == "words"
            shown.add_column(
                Text(visible(column.heading)),
                justify="right" if column.kind == "number" else "left",
                no_wrap=not wraps,
                overflow="fold",
                width=widths[place],
            )
        for number, row in enumerate(cells):
            shown.add_row(*(row[place] for place in kept), style=self.styles[number] if self.styles else None)
        return shown


def _widened(least: Sequence[int], natural: Sequence[int], kept: Sequence[int], room: int) -> list[int]:
    """Widths that fill the room, the narrowest column first: rich, left to it, cuts off what it cannot place."""
    widths = list(least)
    for _ in range(room - _GAP * (len(kept) - 1) - sum(least[place] for place in kept)):
        growing = [place for place in kept if widths[place] < natural[place]]
        if not growing:
            break
        widths[min(growing, key=widths.__getitem__)] += 1
    return widths


def _least_width(column: Column, cells: Sequence[Text], width: int) -> int:
    if column.kind != "words":
        return width
    longest = max((cell_len(word) for cell in cells for word in cell.plain.split()), default=0)
    return min(width, max(_LEAST_WORDS, cell_len(column.heading), min(longest, _LONG_WORD)))


def facts_table() -> Table:
    """Rows of a word and what there is to say of it, as `build`, `inspect`, `check` and `export` show them."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table
