"""What `plansmith bench compare` shows on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from plansmith_perf.comparing.results import median_latency, median_throughput, paired_ratio
from plansmith_perf.load.analysis import samples_needed
from plansmith_perf.results.terminal_tables import Column, print_table, visible

if TYPE_CHECKING:
    from plansmith_perf.comparing.results import Comparison, PeerResult

__all__ = ["PAIRS", "show_comparison"]

_OURS = "plansmith"
_PERCENTILES = (50.0, 99.0)
_TOO_SHORT = "too short for p"
PAIRS = (
    (_OURS, "Triton, default configuration"),
    (_OURS, "plansmith's engine in process"),
    *(
        (f"plansmith client, {how}", f"tritonclient, {how}")
        for how in ("gRPC, threads", "gRPC, asyncio", "HTTP, threads")
    ),
)
"""Peers that are best compared with each other, and not with the baseline."""


def show_comparison(comparison: Comparison) -> None:
    """A table on standard output, the reasons below it."""
    rows = comparison.batch_size
    title = (
        f"{comparison.model} version {comparison.model_version}, {comparison.concurrency} requests in flight, "
        f"{rows} {'row' if rows == 1 else 'rows'} each"
    )
    columns = [
        *(Column("peer", "words"), Column("requests/s")),
        *(Column(f"p{percentile:g}") for percentile in _PERCENTILES),
        *(Column("ratio"), Column("of", spare=3), Column("answers", spare=1), Column("top-1", spare=2)),
    ]
    console = Console()
    print_table(
        console,
        columns,
        [_cells(comparison, peer) for peer in comparison.peers],
        title=title,
        caption="medians of the rounds; latency in milliseconds; ratio: median of the rounds' ratios to "
        + comparison.baseline,
    )
    for line in _lines(comparison):
        console.print(visible(line), soft_wrap=True, markup=False, highlight=False)


def _lines(comparison: Comparison) -> list[str]:
    """The lines below the table: pairs that belong together, reasons and notes."""
    lines = [line] if (line := _too_few(comparison)) else []
    for one, other in PAIRS:
        ratio, rates = _ratio(comparison, one, other)
        if ratio != "-":
            lines.append(f"{one} to {other}: {ratio} ({rates})")
    for peer in comparison.peers:
        if peer.reason:
            lines.append(f"{peer.name}: {peer.status}: {peer.reason}")
        elif peer.rounds:
            # The line of `_too_few` says it once for all.
            notes = [note for note in peer.rounds[-1].notes if not note.startswith(_TOO_SHORT)]
            lines += [f"{peer.name}: {note}" for note in notes]
    return [*lines, *comparison.notes]


def _cells(comparison: Comparison, peer: PeerResult) -> list[str]:
    throughput = median_throughput(peer)
    return [
        peer.name,
        f"{throughput:,.1f}" if throughput is not None else peer.status,
        *(_latency(peer, percentile) for percentile in _PERCENTILES),
        *_ratio(comparison, peer.name, comparison.baseline),
        _answers(peer),
        f"{peer.top1_agreement:.1%}" if peer.top1_agreement is not None else "-",
    ]


def _ratio(comparison: Comparison, name: str, baseline: str) -> tuple[str, str]:
    """The ratio, and both of its figures."""
    ratio = paired_ratio(comparison, name, baseline)
    by_name = {peer.name: median_throughput(peer) for peer in comparison.peers}
    mine, theirs = by_name.get(name), by_name.get(baseline)
    if ratio is None or mine is None or theirs is None:
        return "-", "-"
    return f"{ratio:.2f}", f"{mine:,.1f} / {theirs:,.1f}"


def _answers(peer: PeerResult) -> str:
    if peer.status == "wrong":
        return "wrong"
    if peer.largest_difference is None:
        return "-"
    return "equal" if not peer.largest_difference else f"±{peer.largest_difference:.1e}"


def _latency(peer: PeerResult, percentile: float) -> str:
    found = median_latency(peer, percentile)
    return f"{found / 1000:.2f}" if found is not None else "-"


def _too_few(comparison: Comparison) -> str:
    """What a "-" means where answers were right, or ""."""
    short = [
        percentile
        for percentile in _PERCENTILES
        if any(
            median_latency(peer, percentile) is None and median_throughput(peer) is not None
            for peer in comparison.peers
        )
    ]
    if not short:
        return ""
    needed = " and ".join(f"{samples_needed(percentile):,} for p{percentile:g}" for percentile in short)
    return f"-: a round had too few answers to tell, it takes {needed}; measure for longer with --seconds"
