"""Results on a terminal: the tables of the reports, and below them what to know before trusting them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from plansmith_client.terminal import Terminal
from plansmith_perf.comparing.results import median_latency, median_throughput, paired_ratio
from plansmith_perf.load.analysis import samples_needed
from plansmith_perf.report.comparison_blocks import PERCENTS, peers_table
from plansmith_perf.report.load_tables import loads_table
from plansmith_perf.report.tuning_blocks import rounds_table, trials_table
from plansmith_perf.results.documents import by_load
from plansmith_perf.results.formatting import as_rate, as_ratio, load_name
from plansmith_perf.results.tables import print_table, visible

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plansmith_perf.comparing.results import Comparison
    from plansmith_perf.results.documents import LoadTestResult
    from plansmith_perf.tuning.options import TuningResult

__all__ = ["show_comparison", "show_load_test", "show_tuning"]

_TRIALS_SHOWN = 10
_OURS = "plansmith"
_TOO_SHORT = "too short for p"
# Peers that are best compared with each other, and not with the baseline.
_PAIRS = (
    (_OURS, "Triton, default configuration"),
    (_OURS, "plansmith's engine in process"),
    *(
        (f"plansmith client, {how}", f"tritonclient, {how}")
        for how in ("gRPC, threads", "gRPC, asyncio", "HTTP, threads")
    ),
)


def show_load_test(result: LoadTestResult) -> None:
    """A row for each load, with the medians of its rounds; what is doubtful of each, and what failed."""
    loads = by_load(result.measurements)
    rounds = max(map(len, loads.values()), default=1)
    medians = f"medians of {rounds} rounds" if rounds > 1 and result.slo is None else ""
    print_table(Terminal(), loads_table(result.tool, result, in_full=False), caption=medians)
    lines = []
    if result.slo is not None and result.slo.rate is not None:
        lines.append(f"{result.slo.slo} is kept up to {result.slo.rate:,.1f} requests/s")
    for load, measurements in loads.items():
        for number, measured in enumerate(measurements, 1):
            where = load_name(load) + (f", round {number}" if len(measurements) > 1 else "")
            messages = [f"{count} x {message}" for message, count in measured.error_messages.items()]
            lines += [f"{where}: {line}" for line in (*measured.notes, *messages)]
    _print(lines)


def show_comparison(comparison: Comparison) -> None:
    """The peers; below them the pairs that belong together, reasons and notes."""
    caption = f"medians of the rounds, ratios to {comparison.baseline}"
    print_table(Terminal(), peers_table(comparison).without("kind", "status"), caption=caption)
    lines = _too_few(comparison)
    rates = {peer.name: as_rate(median_throughput(peer)) for peer in comparison.peers}
    for one, other in _PAIRS:
        ratio = paired_ratio(comparison, one, other)
        if ratio is not None:
            lines.append(f"{one} to {other}: {as_ratio(ratio)} ({rates[one]} / {rates[other]})")
    for peer in comparison.peers:
        if peer.reason:
            lines.append(f"{peer.name}: {peer.status}: {peer.reason}")
        elif peer.rounds:
            # The line of `_too_few` says it once for all.
            lines += [f"{peer.name}: {note}" for note in peer.rounds[-1].notes if not note.startswith(_TOO_SHORT)]
    _print([*lines, *comparison.notes])


def _too_few(comparison: Comparison) -> list[str]:
    """What a "-" means where answers were right."""
    measured = [peer for peer in comparison.peers if median_throughput(peer) is not None]
    short = [percent for percent in PERCENTS if any(median_latency(peer, percent) is None for peer in measured)]
    if not short:
        return []
    needed = " and ".join(f"{samples_needed(percent):,} for p{percent:g}" for percent in short)
    return [f"-: a round had too few answers to tell, it takes {needed}; measure for longer with --seconds"]


def show_tuning(result: TuningResult) -> None:
    """The best trials, the rounds that decided, the change, and where the new version is."""
    record, published = result.record, result.published
    trials = trials_table(record)
    more = len(trials.rows) - 1 - _TRIALS_SHOWN
    caption = f"the best {_TRIALS_SHOWN} of {len(trials.rows) - 1}; --json shows all" if more > 0 else ""
    print_table(Terminal(), replace(trials, rows=trials.rows[: _TRIALS_SHOWN + 1]), caption=caption)
    rounds = rounds_table(record)
    if rounds is not None:
        print_table(Terminal(), rounds)
    _print([record.verdict])
    if result.diff:
        _print(["", *result.diff.splitlines()])
    if published is not None:
        _print(["", f"version {published.version} of {record.model} is published: {published.path}"])
        _print(f"note: {note}" for note in published.notes)
    elif record.winner is not None:
        _print(["", "Nothing was changed: this was a dry run."])


def _print(lines: Iterable[str]) -> None:
    console = Terminal()
    for line in lines:
        console.print(visible(line), soft_wrap=True, markup=False, highlight=False)
