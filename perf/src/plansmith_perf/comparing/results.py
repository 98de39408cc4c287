"""The result of a comparison: one versioned JSON document, made of the measurements of every peer's rounds."""

from __future__ import annotations

import statistics
from typing import Annotated, Literal

from pydantic import Field

from plansmith_perf.load.latencies import settled_latency
from plansmith_perf.results.documents import Environment, Measurement, Part

__all__ = [
    "Comparison",
    "PeerKind",
    "PeerResult",
    "PeerStatus",
    "median_latency",
    "median_throughput",
    "paired_ratio",
]

PeerKind = Literal["plansmith", "server", "client", "in process"]
PeerStatus = Literal["measured", "wrong", "failed", "unavailable"]


class PeerResult(Part):
    """One peer: how it was set up, and its measurement in each round."""

    name: str
    kind: PeerKind
    setup: Annotated[str, Field(description="in one line")]
    source: Annotated[str, Field(description="address of the page that recommends this setup; may be empty")] = ""
    versions: Annotated[dict[str, str], Field(description="of its packages")]
    status: PeerStatus
    reason: Annotated[str | None, Field(description="why it is not 'measured'")] = None
    largest_difference: Annotated[
        float | None,
        Field(description="from the reference's answers, relative to an output's greatest value; None: never answered"),
    ] = None
    top1_agreement: Annotated[
        float | None,
        Field(description="share of the rows whose greatest value is at the reference's place; None: no such output"),
    ] = None
    rounds: Annotated[list[Measurement], Field(description="in order; a peer that failed has fewer than the others")]


class Comparison(Part):
    """Everything that one run of `plansmith bench compare` has measured."""

    schema_version: Literal[1] = 1
    kind: Literal["comparison"] = "comparison"
    created: Annotated[str, Field(description="UTC, ISO 8601")]
    model: str
    model_version: str
    batch_size: int
    concurrency: int
    seconds: Annotated[float, Field(description="length of each measurement")]
    environment: Environment
    complete: Annotated[bool, Field(description="False where it was interrupted: it holds the rounds until then")]
    baseline: Annotated[str, Field(description="name of the peer to which ratios are given")]
    peers: list[PeerResult]
    notes: Annotated[list[str], Field(default_factory=list, description="what there is no row for, and why")]


def median_throughput(peer: PeerResult) -> float | None:
    """Right answers per second, the median of the rounds; None without rounds or where the answers are wrong."""
    if peer.status == "wrong" or not peer.rounds:
        return None
    return statistics.median(measured.throughput for measured in peer.rounds)


def median_latency(peer: PeerResult, percentile: float) -> float | None:
    """A percentile of the latency in microseconds, the median of the rounds.

    None without rounds, or where the answers are wrong or a round had too few (see `settled_latency`).
    """
    if peer.status == "wrong" or not peer.rounds:
        return None
    found = [settled_latency(measured.latency, percentile) for measured in peer.rounds]
    return statistics.median(value for value in found if value is not None) if None not in found else None


def paired_ratio(comparison: Comparison, name: str, baseline: str | None = None) -> float | None:
    """How many times the throughput of the baseline a peer has: the median of the rounds' ratios.

    Each ratio is of two measurements of the same round, so that what disturbs the machine for longer than a round
    touches both.

    Returns:
        The ratio; None where one of the two is missing, was not measured, or answered wrongly.
    """
    by_name = {peer.name: peer for peer in comparison.peers}
    peer, other = by_name.get(name), by_name.get(baseline or comparison.baseline)
    if peer is None or other is None or "wrong" in (peer.status, other.status):
        return None
    # A peer that failed lacks its last rounds: the earlier ones are still pairs.
    pairs = zip(peer.rounds, other.rounds, strict=False)
    ratios = [mine.throughput / theirs.throughput for mine, theirs in pairs if theirs.throughput]
    return statistics.median(ratios) if ratios else None
