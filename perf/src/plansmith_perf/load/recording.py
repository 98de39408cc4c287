"""What happened to each request of a load: noted by the process that sends it, written to files, read by its parent.

Nothing of it goes through a pipe, which would stop the process when it is full and nobody reads.
"""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plansmith_perf.load.analysis import Records
from plansmith_perf.load.encoded_requests import RIGHT, WRONG_ANSWER

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

__all__ = [
    "MOST_OUTCOMES",
    "OTHER_ERROR",
    "OTHER_WRONG_ANSWER",
    "RequestLog",
    "keep_outcome",
    "read_log",
    "to_records",
    "write_logs",
]

MOST_OUTCOMES = 1000
"""How many different texts are kept; a server may put another number into every error."""
OTHER_ERROR = f"another error than the first {MOST_OUTCOMES} different ones"
OTHER_WRONG_ANSWER = f"{WRONG_ANSWER}: another one than the first {MOST_OUTCOMES} different outcomes"


class RequestLog:
    """What happened to each request; one for each thread, joined when they are written."""

    def __init__(self) -> None:
        self._times = array("q")
        # What went right has its place, however many errors come before it.
        self._outcomes: dict[str, int] = {RIGHT: 0}

    def add(self, due: int, sent: int, done: int, outcome: str) -> None:
        """Note one request.

        Args:
            due: when it was to be sent; all times in nanoseconds of `time.monotonic_ns`.
            sent: when it was.
            done: when its answer had come.
            outcome: RIGHT, or what went wrong in one line.
        """
        self._times.extend((due, sent, done, _number(outcome, self._outcomes)))

    def add_unsent(self, due: NDArray[np.int64], given_up: int, outcome: str) -> None:
        """Note requests that were given up before they were sent; times as for `add`."""
        table = np.full((due.size, 4), given_up, np.int64)
        table[:, 0], table[:, 3] = due, _number(outcome, self._outcomes)
        self._times.frombytes(table.tobytes())

    @property
    def outcomes(self) -> Sequence[str]:
        """The different ones."""
        return tuple(self._outcomes)

    @property
    def table(self) -> NDArray[np.int64]:
        """When each request was due, sent and answered, and the index of its outcome: [n, 4]."""
        return np.array(self._times, dtype=np.int64).reshape(-1, 4)


def write_logs(logs: Sequence[RequestLog], records: str) -> None:
    """Write what several logs have noted."""
    names: dict[str, int] = {RIGHT: 0}
    tables = []
    for log in logs:
        table = log.table
        numbers = np.array([_number(outcome, names) for outcome in log.outcomes], dtype=np.int64)
        table[:, 3] = numbers[table[:, 3]]
        tables.append(table)
    _outcomes_path(records).write_text(json.dumps(list(names)), encoding="utf-8")
    np.save(records, np.concatenate(tables), allow_pickle=False)


def read_log(records: str) -> tuple[NDArray[np.int64], list[str]]:
    """What `write_logs` has written.

    Returns:
        The table, int64 [n, 4], and the outcomes that its last column counts.

    Raises:
        OSError: a file is missing.
    """
    names: list[str] = json.loads(_outcomes_path(records).read_text(encoding="utf-8"))
    return np.load(records, allow_pickle=False), names


def to_records(table: NDArray[np.int64], names: Sequence[str], begin: int) -> tuple[Records, list[str]]:
    """The records of a log.

    Args:
        table: of a log, int64 [n, 4].
        names: the outcomes that its last column counts.
        begin: the moment that counts as 0 in the records.

    Returns:
        The records, and what went wrong with each: "" where nothing did.
    """
    due, sent, done = (table[:, :3] - begin).T
    outcomes = [names[outcome] for outcome in table[:, 3].tolist()]
    return Records(due, sent, done, np.array([not outcome for outcome in outcomes], dtype=np.bool_)), outcomes


def keep_outcome(outcome: str, kept: Collection[str]) -> str:
    """The outcome, or what stands for it where too many different ones are kept already."""
    if outcome in kept or len(kept) < MOST_OUTCOMES:
        return outcome
    return OTHER_WRONG_ANSWER if outcome.startswith(WRONG_ANSWER) else OTHER_ERROR


def _number(outcome: str, names: dict[str, int]) -> int:
    return names.setdefault(keep_outcome(outcome, names), len(names))


def _outcomes_path(records: str) -> Path:
    return Path(records).with_suffix(".json")
