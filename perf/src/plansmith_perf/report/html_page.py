"""The report as one HTML file that needs no network, and lets nothing in it use one."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from plansmith_perf.report.figures import Figure
from plansmith_perf.report.sections import sections_of
from plansmith_perf.report.summary import summarize
from plansmith_perf.results.formatting import as_time
from plansmith_perf.results.tables import Link, Table, visible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plansmith_perf.report.documents import Document

__all__ = ["as_html"]


def as_html(documents: Mapping[str, Document]) -> str:
    """The page. Whatever text the documents hold, it stays text."""
    environment = Environment(
        loader=PackageLoader("plansmith_perf.report"),
        autoescape=True,
        finalize=_visible,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests |= {
        "figure": lambda block: isinstance(block, Figure),
        "table": lambda block: isinstance(block, Table),
        "link": lambda cell: isinstance(cell, Link),
    }
    sections = sections_of(documents)
    figures = [block for section in sections for block in section.blocks if isinstance(block, Figure)]
    folder = files("plansmith_perf.report") / "templates"
    # Without a last line break: the scripts are hashed as they stand between their tags.
    scripts = [get_plotlyjs().strip(), (folder / "report.js").read_text(encoding="utf-8").strip()]
    return environment.get_template("report.html.jinja").render(
        title=_title(documents),
        summary=summarize(documents),
        created=", ".join(dict.fromkeys(as_time(document.created) for document in documents.values())),
        served=dict.fromkeys(filter(None, map(_served, documents.values()))),
        sections=sections,
        figures={figure.name: {"data": figure.data, "layout": figure.layout} for figure in figures},
        scripts=scripts,
        hashes=[_hash(script) for script in scripts],
        styles=(folder / "report.css").read_text(encoding="utf-8").strip(),
    )


def _visible(value: object) -> object:
    # What is marked as safe is the page's own.
    return visible(value) if type(value) is str else value


def _served(document: Document) -> str:
    """Engine, file, instances and batches, without the parameters, which stand with the configuration."""
    served = getattr(document, "served", "")
    return "; ".join(part for part in served.split("; ") if "=" not in part)


def _title(documents: Mapping[str, Document]) -> str:
    models = dict.fromkeys(document.model for document in documents.values())
    return f"{', '.join(models)}: performance report"


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
