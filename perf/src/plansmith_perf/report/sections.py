"""From documents to the sections of a page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from plansmith_perf.comparing.results import Comparison
from plansmith_perf.report.comparison_blocks import peer_setups_table, peers_figure, peers_table
from plansmith_perf.report.environment_tables import configuration_table, environment_table, packages_table
from plansmith_perf.report.figures import Figure
from plansmith_perf.report.load_figures import percentile_figure, throughput_figure
from plansmith_perf.report.load_tables import errors_table, loads_table, parts_table
from plansmith_perf.report.run_figures import breakdown_figure, timeline_figure
from plansmith_perf.report.tuning_blocks import rounds_table, trials_figure, trials_table
from plansmith_perf.results.documents import LoadTestResult
from plansmith_perf.results.tables import Table
from plansmith_perf.tuning.records import TuningRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plansmith_perf.report.documents import Document

__all__ = ["Section", "sections_of"]

Block = TypeVar("Block", bound=Figure | Table)


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own."""

    name: str
    title: str
    blocks: tuple[Figure | Table, ...]
    folded: tuple[Table, ...] = ()


def sections_of(documents: Mapping[str, Document]) -> list[Section]:
    """The sections, each with its plots and tables; those with nothing in them are left out."""
    tests = {name: found for name, found in documents.items() if isinstance(found, LoadTestResult)}
    sections = [*_load_sections(tests)] if tests else []
    for number, (name, document) in enumerate(documents.items()):
        after = f": {name}" if len(documents) > 1 else ""
        if isinstance(document, Comparison):
            blocks = _present(peers_figure(f"peers-{number}", document), peers_table(document))
            folded = (peer_setups_table(document),)
            sections.append(Section(f"comparison-{number}", f"Peers{after}", blocks, folded=folded))
        elif isinstance(document, TuningRecord):
            blocks = _present(trials_figure(f"trials-{number}", document), rounds_table(document))
            sections.append(
                Section(f"tuning-{number}", f"Tuning{after}", blocks, folded=_present(trials_table(document)))
            )
    environment = (environment_table(documents), configuration_table(documents))
    packages = (packages_table(documents),)
    sections.append(Section("environment", "Environment and configuration", environment, folded=packages))
    return sections


def _load_sections(tests: Mapping[str, LoadTestResult]) -> list[Section]:
    several = len(tests) > 1
    titles = {name: name if several else "" for name in tests}
    measured = {name: result for name, result in tests.items() if any(one.latency for one in result.measurements)}
    timelines = [
        timeline_figure(f"timeline-{number}", titles[name] or "Second by second", result)
        for number, (name, result) in enumerate(tests.items())
    ]
    breakdowns = [
        breakdown_figure(f"breakdown-{number}", titles[name] or "Parts of the mean latency", result)
        for number, (name, result) in enumerate(tests.items())
    ]
    errors = [errors_table(name, result) for name, result in tests.items()]
    parts = [parts_table(name, result) for name, result in tests.items()]
    curves = _present(throughput_figure(measured), percentile_figure(measured)) if measured else ()
    sections = [
        Section("latency", "Latency and throughput", curves),
        Section("loads", "Loads", _present(*(loads_table(name, result) for name, result in tests.items()), *errors)),
        Section("breakdown", "Where the time goes", _present(*breakdowns), folded=_present(*parts)),
        Section("timeline", "Timeline", _present(*timelines)),
    ]
    return [section for section in sections if section.blocks or section.folded]


def _present(*blocks: Block | None) -> tuple[Block, ...]:
    return tuple(block for block in blocks if block is not None)
