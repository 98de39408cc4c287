"""Figures as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_perf.results.documents import ClosedLoop
from plansmith_perf.results.tables import NOTHING

if TYPE_CHECKING:
    from plansmith_perf.results.documents import OpenLoop

__all__ = [
    "as_cpu",
    "as_given",
    "as_memory",
    "as_milliseconds",
    "as_rate",
    "as_ratio",
    "as_seconds",
    "as_share",
    "as_time",
    "load_name",
]

_GIBIBYTE, _MEBIBYTE = 2**30, 2**20
# From here on what comes after the point says nothing.
_WHOLE_FROM = 1e5


def as_milliseconds(microseconds: float | None) -> str:
    """About three significant digits, which is what the histograms have."""
    return NOTHING if microseconds is None else _three_digits(microseconds / 1000)


def as_rate(per_second: float | None) -> str:
    """A number of requests, answers or rows per second."""
    return NOTHING if per_second is None else _three_digits(per_second)


def as_seconds(seconds: float | None) -> str:
    """A time that was measured."""
    return NOTHING if seconds is None else _three_digits(seconds)


def as_given(number: float) -> str:
    """A number that somebody chose, such as a rate, to about six digits, and with no exponent however large it is."""
    return f"{number:,.0f}" if number % 1 == 0 or number >= _WHOLE_FROM else f"{number:,.6g}"


def as_ratio(ratio: float | None) -> str:
    """How many times as much."""
    return NOTHING if ratio is None else f"{ratio:.2f}x"


def as_share(share: float) -> str:
    """Per cent; never "0 %" for what has happened."""
    return "0 %" if not share else f"{share:.2%}".replace("%", " %") if share >= 0.0001 else "< 0.01 %"  # noqa: PLR2004


def as_cpu(percent: float | None) -> str:
    """CPU: 100 % is one core."""
    return NOTHING if percent is None else f"{percent:,.0f} %"


def as_memory(size: int | None) -> str:
    """Bytes in binary units."""
    if size is None:
        return NOTHING
    return f"{size / _GIBIBYTE:,.1f} GiB" if size >= _GIBIBYTE else f"{size / _MEBIBYTE:,.0f} MiB"


def load_name(load: ClosedLoop | OpenLoop) -> str:
    """A load in a few words."""
    if isinstance(load, ClosedLoop):
        return f"{load.concurrency} in flight"
    return f"{as_given(load.rate)}/s, {load.arrivals}"


def _three_digits(number: float) -> str:
    digits = next((digits for limit, digits in ((99.95, 0), (9.995, 1), (0.0995, 2)) if number >= limit), 3)
    return f"{number:,.{digits}f}"


def as_time(created: str) -> str:
    """When a document was made, to the minute; as it stands where it is not ISO 8601 in UTC."""
    day, _, time = created.partition("T")
    return f"{day} {time[:5]} UTC" if time.endswith("+00:00") else created
