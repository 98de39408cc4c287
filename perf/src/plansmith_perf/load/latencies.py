"""Percentiles of a latency, from the HDR histogram that the result carries."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.load.analysis import samples_needed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from plansmith_perf.results.documents import Distribution

__all__ = ["check_histogram", "latency_at", "percentile_curve", "settled_latency", "too_few_answers"]

# Points on each way from a percentile to the one with half as much beyond it.
_TICKS = 6


def check_histogram(distribution: Distribution) -> None:
    """Whether the histogram can be read.

    Raises:
        LoadTestMisconfigured: it is damaged.
    """
    # Another tool's export has percentiles only.
    if distribution.histogram:
        _decode(distribution.histogram)


def latency_at(distribution: Distribution | None, percent: float) -> float | None:
    """The latency at a percentile in microseconds; None where the result does not tell.

    Raises:
        LoadTestMisconfigured: the histogram is damaged.
    """
    if distribution is None:
        return None
    known = distribution.percentiles.get(f"{percent:g}")
    if known is None and distribution.histogram:
        known = float(_decode(distribution.histogram).get_value_at_percentile(percent))
    return known


def settled_latency(distribution: Distribution | None, percent: float) -> float | None:
    """The same; None, too, where it is the luck of a few requests: too few came to tell that percentile."""
    if distribution is None or distribution.count < samples_needed(percent):
        return None
    return latency_at(distribution, percent)


def too_few_answers(distributions: Iterable[Distribution | None], percents: Sequence[float]) -> str:
    """A remark on the percentiles that have no figure because too few answers came; "" where all have one."""
    known = [distribution for distribution in distributions if distribution is not None]
    short = [percent for percent in percents if any(one.count < samples_needed(percent) for one in known)]
    if not short:
        return ""
    fewest = min(one.count for one in known)
    names = ", ".join(f"p{percent:g}" for percent in short)
    return f"{fewest:,} answers are too few for {names}"


def percentile_curve(distributions: Sequence[Distribution]) -> tuple[list[float], list[float]]:
    """The latency over all percentiles, of several measurements together.

    Args:
        distributions: of the same load; at least one.

    Returns:
        Shares of the answers in [0, 1), ascending, and the latency in microseconds that each kept. The last share
        leaves one answer beyond it.
    """
    if not all(distribution.histogram for distribution in distributions):
        known = sorted((float(percent), value) for percent, value in distributions[0].percentiles.items())
        return [percent / 100 for percent, _ in known], [value for _, value in known]
    histogram = HdrHistogram.decode(distributions[0].histogram)
    for other in distributions[1:]:
        histogram.add(_decode(other.histogram))
    most = 1 - 1 / max(2, histogram.get_total_count())
    shares: list[float] = []
    values: list[float] = []
    for item in histogram.get_percentile_iterator(_TICKS):
        share = min(item.percentile_level_iterated_to / 100, most)
        if not shares or share > shares[-1]:
            shares.append(share)
            values.append(float(item.value_iterated_to))
    return shares, values


@lru_cache(maxsize=256)
def _decode(text: str) -> HdrHistogram:
    try:
        return HdrHistogram.decode(text)
    except Exception as error:
        # Of hdrh, zlib and base64, each its own.
        raise LoadTestMisconfigured("a latency's histogram is damaged: it is not an HdrHistogram in base64") from error
