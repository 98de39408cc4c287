"""What a process of a load says to its parent, and the arrays that it works on: for those that do without asyncio."""

from __future__ import annotations

import json
import sys
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from plansmith_perf.requests import CheckedRequest

__all__ = ["Log", "read_arrays", "wait_for_start", "write_arrays"]

_MARK = "tensor "


class Log:
    """What happened to each request; one for each thread, joined at the end."""

    def __init__(self) -> None:
        self.times = array("q")
        self.outcomes: dict[str, int] = {}

    def add(self, sent: int, done: int, outcome: str) -> None:
        """Note one request: nanoseconds of `time.monotonic_ns`, and "" for a right answer."""
        number = self.outcomes.setdefault(outcome, len(self.outcomes))
        self.times.extend((sent, sent, done, number))

    @staticmethod
    def write(logs: Sequence[Log], records: str) -> None:
        """Write the records of all and say their outcomes, as `plansmith_perf.load.worker` does."""
        names: dict[str, int] = {}
        tables = []
        for log in logs:
            table = np.frombuffer(log.times, dtype=np.int64).reshape(-1, 4).copy()
            numbers = [names.setdefault(outcome, len(names)) for outcome in log.outcomes]
            if len(table):
                table[:, 3] = np.array(numbers, dtype=np.int64)[table[:, 3]]
            tables.append(table)
        np.save(records, np.concatenate(tables), allow_pickle=False)
        print(json.dumps(list(names)), flush=True)  # noqa: T201 - the conversation with the parent


def wait_for_start() -> int:
    """Say that everything is loaded, and wait for the moment to begin; exits where there is to be none.

    Raises:
        SystemExit: the parent wants no load.
    """
    print("ready", flush=True)  # noqa: T201
    word = sys.stdin.readline().strip()
    if not word:
        sys.exit(0)
    return int(word)


def write_arrays(folder: Path, requests: Sequence[CheckedRequest]) -> None:
    """Write the arrays of each request to `<i>.inputs.npz` and `<i>.expected.npz`."""
    for number, request in enumerate(requests):
        for part, arrays in (("inputs", request.inputs), ("expected", request.expected)):
            # The mark keeps a tensor called `file` from being taken for savez's own argument.
            np.savez(folder / f"{number:06}.{part}.npz", **{_MARK + name: array for name, array in arrays.items()})


def read_arrays(folder: Path) -> list[tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]]:
    """Inputs and expected outputs of each request, in order."""
    inputs = sorted(folder.glob("*.inputs.npz"))
    return [(_load(path), _load(path.with_name(path.name.replace("inputs", "expected")))) for path in inputs]


def _load(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name.removeprefix(_MARK): array for name, array in arrays.items()}
