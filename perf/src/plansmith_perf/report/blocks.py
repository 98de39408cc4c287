"""What a report consists of, before it is HTML or Markdown: tables, figures, and the sections that hold them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = ["Cell", "Column", "Figure", "Link", "Section", "Table"]


@dataclass(frozen=True)
class Link:
    """An address with words of its own."""

    text: str
    address: str


Cell: TypeAlias = str | Link


@dataclass(frozen=True)
class Column:
    """A heading, and whether numbers or words stand below it."""

    heading: str
    kind: Literal["number", "words"] = "number"


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


@dataclass(frozen=True)
class Figure:
    """A plot.

    Attributes:
        name: of its element, unique in a report.
        title: above it.
        description: what it shows, for those who do not see it, and how to read it.
        data: plotly's traces. Colours are names of the page's CSS variables, `var(--name)`.
        layout: plotly's layout, without what the page adds for its theme.
    """

    name: str
    title: str
    description: str
    data: tuple[dict[str, Any], ...]
    layout: dict[str, Any]


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own."""

    name: str
    title: str
    blocks: tuple[Figure | Table, ...]
    text: str = ""
    folded: tuple[Table, ...] = field(default=())
