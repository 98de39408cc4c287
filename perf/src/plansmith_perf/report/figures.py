"""Plots, and what they share: colours by name, scales, ticks, text that is only text."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plansmith_perf.results.formatting import as_given
from plansmith_perf.results.tables import visible

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "DASHES",
    "SYMBOLS",
    "Figure",
    "axis",
    "color_of_load",
    "color_of_series",
    "latency_axis",
    "layout",
    "plain",
]

# The page defines these colours for each theme, from Okabe and Ito's palette and from cividis.
_SERIES_COLORS, _LOAD_COLORS = 8, 10
# In addition to the colour, for those who do not see it.
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "pentagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
# From here on small values would lie on the axis.
_LOGARITHMIC_FROM = 25.0
_DECADE = (1, 2, 5)


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


def plain(text: str) -> str:
    """Text for plotly, which takes some tags for markup; see `visible`."""
    return html.escape(visible(text), quote=False)


def color_of_series(number: int) -> str:
    """The colour of a result."""
    return f"var(--series-{number % _SERIES_COLORS})"


def color_of_load(number: int, count: int) -> str:
    """The colour of a load of several, which are ordered."""
    return f"var(--load-{round(number * (_LOAD_COLORS - 1) / max(1, count - 1))})"


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis from zero."""
    return {"title": {"text": title}, "rangemode": "tozero", "automargin": True, **more}


def latency_axis(title: str, milliseconds: Iterable[float], **more: Any) -> dict[str, Any]:
    """An axis for latencies: logarithmic where they differ by more than a linear one can show."""
    shown = [value for value in milliseconds if value > 0 and math.isfinite(value)]
    if not shown or max(shown) / min(shown) < _LOGARITHMIC_FROM:
        return axis(title, **more)
    decades = range(math.floor(math.log10(min(shown))), math.ceil(math.log10(max(shown))) + 1)
    digits = _DECADE if len(decades) <= 4 else (1,)  # noqa: PLR2004 - more would not fit a phone
    ticks = [digit * 10.0**decade for decade in decades for digit in digits]
    return axis(title, type="log", tickvals=ticks, ticktext=[as_given(tick) for tick in ticks], **more)


def layout(height: int = 380, **more: Any) -> dict[str, Any]:
    """A layout without colours, margins and fonts, which are the page's."""
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
    return {"height": height, "legend": legend, "hovermode": "closest", **more}
