"""Writes a report in the format that its name ends with: whole, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.report.csv_rows import as_csv
from plansmith_perf.report.markdown import as_markdown
from plansmith_perf.results.writing import check_writable, write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from plansmith_perf.report.documents import Document

__all__ = ["check_report_path", "write_report"]


def check_report_path(path: Path) -> None:
    """Whether a report can be written there, so that a long run does not end with the discovery that it cannot.

    Raises:
        LoadTestMisconfigured: the ending is unknown, the folder does not exist, or the path is a folder.
    """
    if path.suffix.lower() not in _FORMATS:
        raise LoadTestMisconfigured(
            f"The report {path} must end with {', '.join(list(_FORMATS)[:-1])} or {list(_FORMATS)[-1]}, which says its "
            "format"
        )
    check_writable(path, "The report")


def write_report(documents: Mapping[str, Document], path: Path) -> None:
    """Write one report of one or several results.

    Args:
        documents: by the name that each has in the report.
        path: ends with .html, .md or .csv; a file that is there is replaced.

    Raises:
        LoadTestMisconfigured: there are no documents, or nothing can be written there. Nothing is written.
    """
    check_report_path(path)
    if not documents:
        raise LoadTestMisconfigured("There is nothing to report: give at least one result")
    write_text(path, _FORMATS[path.suffix.lower()](documents), "The report")


def _as_html(documents: Mapping[str, Document]) -> str:
    # plotly takes a second to import.
    from plansmith_perf.report.html_page import as_html  # noqa: PLC0415

    return as_html(documents)


_FORMATS: dict[str, Callable[[Mapping[str, Document]], str]] = {
    ".html": _as_html,
    ".md": as_markdown,
    ".csv": as_csv,
}
