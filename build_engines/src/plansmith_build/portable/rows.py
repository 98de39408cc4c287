"""Whether a row is a row: each row of a batch answered with one row, and as if it were alone."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.engines.onnxruntime import Arrays, RunFailed
from plansmith_build.portable.comparison import OutputComparison, compare, identical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

_ROUNDING = 1e-6
_FLOATING = "fV"
NOT_OF_ONE_SHAPE = "no two of the inputs have one shape, so none could be put together: give two samples of one shape"
NOT_TOLD_APART = "every input that was tried got the same answer, so rows could not be told apart"

__all__ = [
    "BatchRefuted",
    "Evidence",
    "alike",
    "batches_of",
    "concatenate",
    "evidence_of",
    "obstacle_in_answers",
    "obstacle_in_batches",
    "told_apart",
    "without_values",
]


class BatchRefuted(Exception):
    """A model that seemed to take batches does not on the user's data; the text says why."""


def concatenate(parts: Sequence[Arrays]) -> Arrays:
    """Join arrays along their first dimension, name by name."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def alike(samples: Sequence[Arrays]) -> list[list[int]]:
    """The indexes of the samples, those of one shape together, most samples first; only such can be put together."""
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(tuple(array.shape[1:] for array in sample.values()), []).append(index)
    return sorted(groups.values(), key=len, reverse=True)


def batches_of(samples: Sequence[Arrays], answers: Sequence[Arrays]) -> Iterator[tuple[Arrays, Arrays]]:
    """Samples put together, and what each got alone: all of one shape, then the last before the first."""
    for group in alike(samples):
        for chosen in _arrangements(group):
            yield concatenate([samples[index] for index in chosen]), concatenate([answers[index] for index in chosen])


def _arrangements(indexes: Sequence[int]) -> list[Sequence[int]]:
    return [indexes, (indexes[-1], indexes[0])] if len(indexes) > 2 else [indexes]  # noqa: PLR2004 - two are all


def obstacle_in_answers(answers: Sequence[Arrays], rows: int) -> str:
    """Why answers to single samples do not show that rows are answered with rows, or an empty string.

    Args:
        answers: to different inputs of one shape.
        rows: how many rows each of these inputs had.
    """
    for name in answers[0]:
        arrays = [answer[name] for answer in answers]
        if any(array.ndim == 0 for array in arrays):
            return f"output {name!r} is a single number for all rows"
        wrong = next((len(array) for array in arrays if len(array) != rows), None)
        if wrong is not None:
            return f"output {name!r} has {wrong} rows for {rows} in the input"
        if len({array.shape for array in arrays}) > 1:
            return f"output {name!r} has another shape for each row"
        if not arrays[0].size:
            return f"output {name!r} was empty for every input that was tried, so nothing was verified"
        if name in without_values(answers):
            return f"output {name!r} was NaN or infinite for every input that was tried, so nothing was verified"
    return ""


def told_apart(answers: Sequence[Arrays]) -> bool:
    """Whether some output tells the samples from each other."""
    first, *others = answers
    return any(not identical(first[name], answer[name]) for answer in others for name in first)


def without_values(answers: Sequence[Arrays]) -> frozenset[str]:
    """The outputs that are empty, or NaN or infinite everywhere, in every answer."""
    return frozenset(name for name in answers[0] if not any(_has_value(answer[name]) for answer in answers))


def _has_value(array: np.ndarray[Any, np.dtype[Any]]) -> bool:
    if array.dtype.kind not in _FLOATING:
        return array.size > 0
    return bool(np.isfinite(array.astype(np.float64)).any())


class Evidence(IntEnum):
    """How much answers can verify, from nothing to everything.

    EMPTY: one has no elements. WITHOUT_VALUES: an output is NaN or infinite everywhere. SOME_NAN: an output is NaN
    somewhere. ALIKE: every input got the same answer. DIFFERENT: they can be told apart.
    """

    EMPTY = 0
    WITHOUT_VALUES = 1
    SOME_NAN = 2
    ALIKE = 3
    DIFFERENT = 4


def evidence_of(answers: Sequence[Arrays]) -> Evidence:
    """How much answers can verify."""
    arrays = [array for answer in answers for array in answer.values()]
    if not all(array.size for array in arrays):
        return Evidence.EMPTY
    if without_values(answers):
        return Evidence.WITHOUT_VALUES
    if any(np.isnan(array.astype(np.float64)).any() for array in arrays if array.dtype.kind in _FLOATING):
        return Evidence.SOME_NAN
    return Evidence.DIFFERENT if told_apart(answers) else Evidence.ALIKE


def obstacle_in_batches(
    run: Callable[[Arrays], Arrays],
    samples: Sequence[Arrays],
    answers: Sequence[Arrays],
    *,
    ignore: frozenset[str] = frozenset(),
    noise: Mapping[str, float] | None = None,
) -> str:
    """Why samples cannot be asked together, or an empty string where each gets the answer that it got alone.

    Args:
        run: the model.
        samples: of one shape, but for the rows.
        answers: to each sample alone.
        ignore: outputs whose values are random; their shapes are compared.
        noise: how exact the answers are; see `comparison.compare`.
    """
    for chosen in _arrangements(range(len(samples))):
        batch = concatenate([samples[index] for index in chosen])
        rows = f"with {len(next(iter(batch.values())))} rows"
        try:
            together = run(batch)
        except RunFailed as error:
            return f"{rows} it does not run: {error}"
        parts = [answers[index] for index in chosen]
        for result in compare(concatenate(parts), together, ignore=ignore, noise=noise):
            if not result.passed:
                return f"{rows} {result.complaint()}"
        for result in _each(parts, together, ignore, noise):
            if not result.passed and result.max_absolute_error > _rounding(together[result.name]):
                return f"{rows} {result.complaint()}"
    return ""


def _each(
    parts: Sequence[Arrays], together: Arrays, ignore: frozenset[str], noise: Mapping[str, float] | None
) -> Iterator[OutputComparison]:
    """Each sample's part of the answer by itself: small values must not hide behind large ones."""
    start = 0
    for part in parts:
        stop = start + len(next(iter(part.values())))
        given = {name: array[start:stop] for name, array in together.items()}
        yield from compare(part, given, ignore=ignore, noise=noise)
        start = stop


def _rounding(array: np.ndarray[Any, np.dtype[Any]]) -> float:
    """How much rounding sums in another order may cause, whatever the size of one row."""
    if array.dtype.kind not in _FLOATING:
        return 0.0
    finite = np.nan_to_num(array.astype(np.float64), posinf=0.0, neginf=0.0)
    return max(1.0, float(np.abs(finite).max(initial=0.0))) * _ROUNDING
