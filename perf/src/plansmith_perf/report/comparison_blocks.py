"""A comparison of peers as a plot and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plansmith_perf.comparing.results import median_latency, median_throughput, paired_ratio
from plansmith_perf.load.latencies import too_few_answers
from plansmith_perf.report.figures import Figure, axis, color_of_series, layout, plain
from plansmith_perf.results.formatting import as_milliseconds, as_rate, as_ratio, as_share
from plansmith_perf.results.tables import NOTHING, Cell, Column, Link, Table

if TYPE_CHECKING:
    from plansmith_perf.comparing.results import Comparison, PeerResult

__all__ = ["PERCENTS", "peer_setups_table", "peers_figure", "peers_table"]

_COLORS = {"plansmith": 0, "server": 1, "client": 2, "in process": 3}
PERCENTS = (50.0, 99.0)
_SAFE_ADDRESSES = ("https://", "http://")


def peers_figure(name: str, comparison: Comparison) -> Figure | None:
    """The median throughput of each peer, and each round; None where nothing was measured."""
    peers = [peer for peer in _fastest_first(comparison) if median_throughput(peer) is not None]
    if not peers:
        return None
    data: list[dict[str, Any]] = []
    for kind, color in _COLORS.items():
        mine = [peer for peer in peers if peer.kind == kind]
        if mine:
            ratios = [as_ratio(paired_ratio(comparison, peer.name)) for peer in mine]
            data.append(
                {"type": "bar", "orientation": "h", "name": kind, "y": [plain(peer.name) for peer in mine]}
                | {"x": [median_throughput(peer) for peer in mine], "customdata": ratios, "opacity": 0.85}
                | {"marker": {"color": color_of_series(color)}}
                | {"hovertemplate": "%{x:,.1f} answers/s, %{customdata} the baseline<extra>%{y}</extra>"}
            )
    rounds = [(plain(peer.name), measured) for peer in peers for measured in peer.rounds]
    data.append(
        {"type": "scatter", "mode": "markers", "name": "each round", "y": [peer for peer, _ in rounds]}
        | {"x": [measured.throughput for _, measured in rounds]}
        | {"marker": {"color": "var(--text)", "symbol": "line-ns-open", "size": 12, "line": {"width": 2}}}
        | {"hovertemplate": "%{x:,.1f} answers/s<extra>%{y}, one round</extra>"}
    )
    return Figure(
        name=name,
        title="Throughput of the peers",
        description="Bars are the medians of the rounds, ticks the rounds themselves: where the ticks of two peers "
        "overlap, the rounds do not tell them apart.",
        data=tuple(data),
        layout=layout(
            150 + 40 * len(peers),
            barmode="overlay",
            xaxis=axis("answers per second"),
            yaxis={"type": "category", "automargin": True, "showgrid": False, "autorange": "reversed"}
            | {"categoryorder": "array", "categoryarray": [plain(peer.name) for peer in peers]},
        ),
    )


def peers_table(comparison: Comparison) -> Table:
    """Each peer's figures, and its ratio to the baseline."""
    peers = _fastest_first(comparison)
    baseline = next((peer for peer in peers if peer.name == comparison.baseline), None)
    theirs = median_throughput(baseline) if baseline is not None else None
    rows: list[tuple[Cell, ...]] = []
    for peer in peers:
        mine, ratio = median_throughput(peer), paired_ratio(comparison, peer.name)
        rows.append(
            (
                peer.name,
                as_rate(mine) if mine is not None else peer.status,
                *(as_milliseconds(median_latency(peer, percent)) for percent in PERCENTS),
                as_ratio(ratio),
                f"{as_rate(mine)} / {as_rate(theirs)}" if ratio is not None else NOTHING,
                _agreement(peer),
                peer.kind,
                _status(peer),
            )
        )
    rounds = max((len(peer.rounds) for peer in peers), default=0)
    return Table(
        caption=f"Peers on {comparison.model} version {comparison.model_version}, {comparison.concurrency} requests in "
        f"flight of {comparison.batch_size} rows, {rounds} rounds of {comparison.seconds:g} s: medians, latency in ms; "
        f"the ratio is the median of the rounds' ratios to the baseline, {comparison.baseline}",
        columns=(
            *(Column("peer", "words"), Column("answers/s")),
            *(Column(f"p{percent:g}") for percent in PERCENTS),
            *(Column("ratio"), Column("of", spare=2), Column("answers", "words", spare=1)),
            *(Column("kind", "words"), Column("status", "words")),
        ),
        rows=tuple(rows),
        marked=frozenset(number for number, peer in enumerate(peers) if peer.kind == "plansmith"),
    )


def peer_setups_table(comparison: Comparison) -> Table:
    """How each peer was set up, and after which page."""
    rows: list[tuple[Cell, ...]] = [
        (
            peer.name,
            peer.setup or NOTHING,
            ", ".join(f"{package} {version}" for package, version in peer.versions.items()) or NOTHING,
            _source(peer.source),
        )
        for peer in comparison.peers
    ]
    headings = ("peer", "set up", "versions", "after")
    columns = tuple(Column(heading, "words") for heading in headings)
    return Table("How the peers were set up", columns, tuple(rows))


def _fastest_first(comparison: Comparison) -> list[PeerResult]:
    return sorted(comparison.peers, key=lambda peer: -(median_throughput(peer) or 0.0))


def _status(peer: PeerResult) -> str:
    few = too_few_answers([measured.latency for measured in peer.rounds], PERCENTS) if peer.status != "wrong" else ""
    return peer.status + (f": {peer.reason}" if peer.reason else "") + (f"; in a round {few}" if few else "")


def _agreement(peer: PeerResult) -> str:
    words = []
    if peer.largest_difference is not None:
        words.append(f"off by {peer.largest_difference:.1g}" if peer.largest_difference else "equal")
    if peer.top1_agreement is not None:
        words.append(f"top-1 agrees {as_share(peer.top1_agreement)}")
    return ", ".join(words) or NOTHING


def _source(address: str) -> Cell:
    if address.startswith(_SAFE_ADDRESSES):
        return Link("documentation", address)
    return address or NOTHING
