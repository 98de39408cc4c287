"""What a report consists of, beside tables, before it is HTML or Markdown: figures and sections."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plansmith_perf.results.tables import Table

__all__ = ["Figure", "Section"]


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
