"""Recorded arrivals: a log of when requests came, to be replayed."""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_perf.errors import LoadTestMisconfigured

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["read_arrival_log"]

_LONGEST_SECONDS = 7 * 24 * 3600
_JSON_SUFFIXES = (".jsonl", ".ndjson")


def read_arrival_log(path: Path, *, column: str) -> NDArray[np.float64]:
    """Seconds after the first arrival at which each came, ascending.

    A time is a number of seconds, from any origin, or ISO 8601. Servers log a request when it has ended, so the order
    of the file does not count. Empty lines, and lines that begin with `#`, are passed over.

    Args:
        path: `.csv` with a header, `.jsonl` or `.ndjson` with an object a line, or else a time a line.
        column: the name of the times in the former two.

    Raises:
        LoadTestMisconfigured: the file cannot be read, or a line of it; the message names the line.
    """
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            times = [_seconds(value, f"{path} line {number}") for number, value in _values(path, lines, column)]
    except OSError as error:
        raise LoadTestMisconfigured(f"the arrival log {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise LoadTestMisconfigured(f"the arrival log {path} is not UTF-8 text: {error.reason}") from error
    if not times:
        raise LoadTestMisconfigured(f"the arrival log {path} has no arrivals: it needs a time a line")
    arrivals = np.sort(np.asarray(times, dtype=np.float64))
    arrivals -= arrivals[0]
    if arrivals[-1] > _LONGEST_SECONDS:
        raise LoadTestMisconfigured(
            f"the arrivals of {path} are spread over {arrivals[-1] / 86400:,.0f} days: times must be in seconds, "
            "so divide milliseconds by 1000; replay at most a week"
        )
    return arrivals


def _values(path: Path, lines: Iterable[str], column: str) -> Iterator[tuple[int, Any]]:
    if path.suffix.lower() == ".csv":
        yield from _csv_values(path, lines, column)
        return
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        yield number, _json_value(path, number, text, column) if path.suffix.lower() in _JSON_SUFFIXES else text


def _csv_values(path: Path, lines: Iterable[str], column: str) -> Iterator[tuple[int, Any]]:
    rows = csv.DictReader(lines)
    try:
        names = list(rows.fieldnames or ())
        if column not in names:
            raise LoadTestMisconfigured(
                f"{path} line 1 has no column {column!r}: name one of these with --arrival-column: "
                f"{', '.join(names) or 'none'}"
            )
        for row in rows:
            yield rows.line_num, row[column] or ""
    except csv.Error as error:
        raise LoadTestMisconfigured(f"{path} line {rows.line_num} is no CSV: {error}") from error


def _json_value(path: Path, number: int, text: str, column: str) -> Any:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise LoadTestMisconfigured(f"{path} line {number} is no JSON: {error}") from error
    if not isinstance(document, dict) or column not in document:
        raise LoadTestMisconfigured(
            f"{path} line {number} is not a JSON object with {column!r}: give its field of times with --arrival-column"
        )
    return document[column]


def _seconds(value: Any, where: str) -> float:
    if not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            seconds = float(value)
        except (ValueError, OverflowError):
            try:
                moment = dt.datetime.fromisoformat(str(value).strip())
            except ValueError:
                seconds = math.nan
            else:
                # Without a zone they are taken for UTC: only differences count.
                seconds = (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()
        if math.isfinite(seconds):
            return seconds
    raise LoadTestMisconfigured(
        f"{where}: {str(value)[:60]!r} is not a time: write seconds, such as 12.5, or ISO 8601, such as "
        "2026-01-31T12:00:00.250Z"
    )
