"""The report as Markdown for a pull request: the answer, one table, the rest folded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from plansmith_client.visible import markdown_text
from plansmith_perf.report.sections import sections_of
from plansmith_perf.report.summary import summarize
from plansmith_perf.results.tables import Cell, Link, Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plansmith_perf.report.documents import Document

__all__ = ["as_markdown"]

# What an address may hold in addition to letters and digits: no line breaks, angle brackets, bars or backticks.
_PLAIN_IN_ADDRESSES = "%:/?#[]@!&'()+,;=~"
# Sections whose tables stand open; the others are folded.
_OPEN = ("loads", "comparison", "tuning")


def as_markdown(documents: Mapping[str, Document]) -> str:
    """The report. Text of the documents stays text, and notifies nobody."""
    summary = summarize(documents)
    models = ", ".join(dict.fromkeys(document.model for document in documents.values()))
    lines = [f"## Performance of {markdown_text(models)}", ""]
    lines += [
        f"**{markdown_text(sentence)}**" if not number else markdown_text(sentence)
        for number, sentence in enumerate(summary.answers)
    ]
    lines = [part for line in lines for part in ((line, "") if line else ("",))]
    for sentence in summary.warnings:
        lines += [f"> **Mind:** {markdown_text(sentence)}", ""]
    for section in sections_of(documents):
        tables = [block for block in section.blocks if isinstance(block, Table)]
        is_open = section.name.startswith(_OPEN)
        for table in tables if is_open else ():
            lines += [f"{markdown_text(table.caption)}:", "", *_table(table), ""]
        hidden = [*(() if is_open else tables), *section.folded]
        if hidden:
            lines += ["<details>", f"<summary>{markdown_text(section.title)}</summary>", ""]
            for table in hidden:
                lines += [f"{markdown_text(table.caption)}:", "", *_table(table), ""]
            lines += ["</details>", ""]
        if section.name == "loads" and summary.notes:
            lines += ["<details>", "<summary>Notes on how far to trust the figures</summary>", ""]
            lines += [f"- {markdown_text(note)}" for note in summary.notes]
            lines += ["", "</details>", ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip("\n") + "\n"


def _table(table: Table) -> list[str]:
    marks = ["---:" if column.kind == "number" else ":---" for column in table.columns]
    rows = [
        _row(
            [
                f"**{_cell(cell)}**" if number in table.marked and not place else _cell(cell)
                for place, cell in enumerate(row)
            ]
        )
        for number, row in enumerate(table.rows)
    ]
    return [_row([markdown_text(column.heading) for column in table.columns]), _row(marks), *rows]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    if isinstance(cell, Link):
        address = quote(cell.address, safe=_PLAIN_IN_ADDRESSES, errors="replace")
        return f"[{markdown_text(cell.text)}](<{address}>)"
    return markdown_text(cell)
