"""What a candidate loses on one output, and the upper bound of that loss with some confidence.

Shares are counted row by row. Errors are the root mean square of the difference, relative to that of the reference
about its mean: a scale, an offset, a sign and an order all show. Outputs that hold different things side by side are
judged slice by slice (the columns of `[rows, columns]`; both the second and the last dimension of what has more), and
the worst slice counts.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import betaincinv, stdtrit

from plansmith_build.datasets.callables import call_user_function
from plansmith_build.datasets.errors import DataFunctionFailed
from plansmith_build.datasets.ragged import Array, is_ragged, row_shapes, stacked
from plansmith_build.judging.measures import Measure, Metric, class_scores, row_parts

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = [
    "confidence_of",
    "error_and_bound",
    "mean_cosine",
    "score_and_bound",
    "share_bound",
    "wrong_rows",
]

# What may be wrong with a bound, together 5 %: at the first look at the rows, and at all later ones.
_FIRST_LOOK, _LATER_LOOKS = 0.04, 0.01
# Rows are left out in this many groups in turn, to see how much the result depends on them.
_GROUPS = 20
# Up to this many slices may have scales of their own, such as a price and an age; more are features of one kind.
_NAMED_SLICES = 16
_LEAST_VALUES = 8
# What varies by less than this part of its size is a constant.
_CONSTANT = 1e-5
# A slice that hardly varies is scaled by its neighbours: a dead feature, a class that no row has.
_FEATURE_FLOOR, _PROBABILITY_FLOOR = 0.1, 0.3


def confidence_of(look: int) -> float:
    """The confidence of a bound at the first look at the same rows, the second and so on.

    However often a candidate is changed after the rows contradicted it, all its bounds hold together with 95 %: the
    first has 96 % and the later ones share the rest (Bonferroni).
    """
    return 1 - (_FIRST_LOOK if look == 1 else _LATER_LOOKS / 2 ** (look - 1))


def wrong_rows(measure: Measure, reference: Array, given: Array, labels: Array | None) -> Array:
    """The share of each row that is wrong, FP64 [rows]: by its label, or other than the FP32 model's.

    Args:
        measure: a share.
        reference: the FP32 model's answers.
        given: the candidate's, of the same shape.
        labels: INT64 [rows]; read where the measure is labelled.
    """
    parts = row_parts(reference) if is_ragged(reference) else [slice(None)]
    return np.concatenate(
        [
            _wrong_rows(
                measure, stacked(reference, part), stacked(given, part), labels[part] if labels is not None else None
            )
            for part in parts
        ]
    )


def _wrong_rows(measure: Measure, reference: Array, given: Array, labels: Array | None) -> Array:
    truth: Array
    match measure.metric:
        case Metric.TOP1 | Metric.TOP5:
            scores, others = class_scores(reference), class_scores(given)
            if scores is None or others is None:
                raise ValueError("only class scores have a best class")
            truth = labels if measure.labelled and labels is not None else _ordered(scores).argmax(axis=-1)
            count = 1 if measure.metric is Metric.TOP1 else 5
            # Ties go to the first class, as argmax has it.
            best = (
                np.argsort(-_ordered(others), axis=-1, kind="stable")[..., :count]
                if count > 1
                else (_ordered(others).argmax(axis=-1)[..., np.newaxis])
            )
            wrong = (best != truth[..., np.newaxis]).all(axis=-1)
        case Metric.DECISION:
            decided = given > measure.threshold
            truth = reference > measure.threshold
            if measure.labelled and labels is not None:
                truth = (labels > 0).reshape(decided.shape)
            wrong = decided != truth
        case _:
            truth = labels.reshape(given.shape) if measure.labelled and labels is not None else reference
            wrong = np.asarray(given != truth)
    rows = len(reference)
    return wrong.reshape(rows, -1).mean(axis=1, dtype=np.float64) if wrong.size else np.zeros(rows)


def share_bound(worse: float, better: float, rows: int, *, paired: bool, confidence: float) -> float:
    """The greatest loss that these rows leave possible with some confidence (Clopper and Pearson's exact interval).

    Args:
        worse: how many rows the candidate has wrong, and the FP32 model has not.
        better: the other way round.
        rows: how many there are.
        paired: whether labels decide, so that the candidate can be the better one: both counts then have an interval
            with half of the error, which together hold with the confidence.
        confidence: such as 0.95.
    """
    if not paired:
        return _at_most(worse, rows, confidence)
    each = (1 + confidence) / 2
    # The least share of rows on which it is better: what is at most not so, turned round.
    return _at_most(worse, rows, each) - (1 - _at_most(rows - better, rows, each))


def error_and_bound(
    metric: Metric, reference: Array, given: Array, *, confidence: float | None
) -> tuple[float, float | None]:
    """The error of a candidate and its upper bound; the bound is None where it is not asked for or one row.

    Args:
        metric: `relative-error` or `cosine`.
        reference: the FP32 model's answers; finite.
        given: the candidate's, of the same shape; finite.
        confidence: of the bound; None for no bound.
    """
    rows = len(reference)
    if not any(map(math.prod, row_shapes(reference))):
        return 0.0, 0.0
    if metric is Metric.COSINE:
        distances = 1 - _cosines(reference, given)

        def cosine_error(chosen: Array) -> float:
            return float(distances[chosen].mean())

        return _with_bound(cosine_error, rows, confidence=confidence)
    parts = [_SliceSums(reference, given, axis) for axis in _axes(reference)]

    def relative_error(chosen: Array) -> float:
        return max(part.worst(chosen) for part in parts)

    return _with_bound(relative_error, rows, confidence=confidence)


def score_and_bound(
    function: str, reference: Array, given: Array, labels: Array | None, *, confidence: float | None
) -> tuple[float, float | None]:
    """The score of a candidate by the user's function, and the greatest loss of score with some confidence.

    Args:
        function: `module:function`, called with answers, the FP32 model's answers and the labels or None; it returns a
            number, greater for better. Where rows differ in shape, the answers are arrays of one array a row.
        reference: the FP32 model's answers.
        given: the candidate's.
        labels: INT64 [rows], or None.
        confidence: of the bound, which takes forty more calls; None for no bound.

    Raises:
        DataFunctionFailed: the function is not there, fails, or returns something else.
    """

    def score(answers: Array, chosen: Array) -> float:
        result = call_user_function(
            function, answers[chosen], reference[chosen], labels[chosen] if labels is not None else None
        )
        try:
            return float(result)
        except (TypeError, ValueError) as error:
            raise DataFunctionFailed(f"{function} returned a {type(result).__name__}, wanted a number") from error

    everything = np.arange(len(reference))
    bound = None
    if confidence is not None:
        lost = _with_bound(
            lambda rows: score(reference, rows) - score(given, rows), len(reference), confidence=confidence
        )
        bound = lost[1]
    return score(given, everything), bound


def mean_cosine(reference: Array, given: Array) -> float:
    """The mean cosine similarity of the rows."""
    return float(_cosines(reference, given).mean()) if len(reference) else 1.0


class _SliceSums:
    """What the error of each slice is made of, row by row, so that any rows can be left out."""

    def __init__(self, reference: Array, given: Array, axis: int | None) -> None:
        rows = len(reference)
        slices = row_shapes(reference)[0][axis - 1] if axis is not None else 1
        self.values = np.zeros(rows, np.int64)
        self.low = np.full(slices, np.inf)
        self.high = np.full(slices, -np.inf)
        self.noise, self.sums, self.squares = (np.zeros((rows, slices)) for _ in range(3))
        self.offset = np.zeros(slices)
        for part in row_parts(reference):
            wide, other = _sliced(stacked(reference, part), axis), _sliced(stacked(given, part), axis)
            if not wide.size:
                continue
            if not self.values.any():
                # Numbers far from zero lose their spread in the difference of two sums of squares.
                self.offset = wide.mean(axis=(0, 2))
            self.values[part] = wide.shape[2]
            self.low = np.minimum(self.low, wide.min(axis=(0, 2)))
            self.high = np.maximum(self.high, wide.max(axis=(0, 2)))
            self.noise[part] = np.square(wide - other).sum(axis=2)
            wide = wide - self.offset[:, np.newaxis]
            self.sums[part] = wide.sum(axis=2)
            self.squares[part] = np.square(wide).sum(axis=2)

    def worst(self, chosen: Array) -> float:
        """The relative error of the worst slice, on some of the rows."""
        count = int(self.values[chosen].sum())
        if not count:
            return 0.0
        noise = np.sqrt(self.noise[chosen].sum(axis=0) / count)
        mean = self.sums[chosen].sum(axis=0) / count
        variance = np.maximum(self.squares[chosen].sum(axis=0) / count - mean**2, 0)
        size = np.sqrt(variance + (mean + self.offset) ** 2)
        spread = np.sqrt(variance)
        scale = self._floored(np.where(spread > _CONSTANT * size, spread, size), count)
        overall = math.sqrt(float(np.square(size).mean()))
        scale = np.where(scale > 0, scale, overall)
        errors = np.divide(noise, scale, out=np.where(noise > 0, np.inf, 0.0), where=scale > 0)
        return float(np.nan_to_num(errors, nan=np.inf, posinf=np.inf).max())

    def _floored(self, scale: Array, count: int) -> Array:
        probabilities = (self.low >= 0) & (self.high <= 1)
        floors = np.zeros_like(scale)
        if probabilities.any():
            floors[probabilities] = _PROBABILITY_FLOOR * scale[probabilities].max()
        others = ~probabilities
        if others.sum() > _NAMED_SLICES or count < _LEAST_VALUES:
            floors[others] = _FEATURE_FLOOR * np.median(scale[others]) if others.any() else 0.0
        return np.maximum(scale, floors)


def _with_bound(
    statistic: Callable[[Array], float], rows: int, *, confidence: float | None
) -> tuple[float, float | None]:
    """A statistic of all rows, and its upper bound by the jackknife over groups of rows."""
    everything = np.arange(rows)
    value = statistic(everything)
    groups = min(_GROUPS, rows)
    if confidence is None or groups < 2:  # noqa: PLR2004 - one row has no spread
        return value, None
    without = np.array([statistic(everything[everything % groups != group]) for group in range(groups)])
    if not np.isfinite(without).all() or not math.isfinite(value):
        return value, math.inf
    deviation = math.sqrt((groups - 1) / groups * float(np.square(without - without.mean()).sum()))
    return value, value + float(stdtrit(groups - 1, confidence)) * deviation


def _axes(array: Array) -> tuple[int | None, ...]:
    """The axes along which slices are judged: those of one size in all rows."""
    shapes = set(row_shapes(array))
    ranks = {len(shape) for shape in shapes}
    axes = {1, max(ranks)} if len(ranks) == 1 and ranks != {0} else set()
    sizes = {axis: {shape[axis - 1] for shape in shapes} for axis in sorted(axes)}
    return (None, *(axis for axis, found in sizes.items() if len(found) == 1 and max(found) > 1))


def _sliced(array: Array, axis: int | None) -> Array:
    """FP64 [rows, slices, values]."""
    wide = array.astype(np.float64)
    if axis is None:
        return wide.reshape(len(wide), 1, -1)
    return np.moveaxis(wide, axis, 1).reshape(len(wide), array.shape[axis], -1)


def _cosines(reference: Array, given: Array) -> Array:
    parts = row_parts(reference)
    return np.concatenate([_cosines_of(stacked(reference, part), stacked(given, part)) for part in parts])


def _cosines_of(reference: Array, given: Array) -> Array:
    one = reference.reshape(len(reference), -1).astype(np.float64)
    other = given.reshape(len(given), -1).astype(np.float64)
    lengths, others = np.sqrt(np.einsum("ij,ij->i", one, one)), np.sqrt(np.einsum("ij,ij->i", other, other))
    products = np.einsum("ij,ij->i", one, other) / np.where(lengths * others == 0, 1.0, lengths * others)
    return np.clip(np.where((lengths == 0) & (others == 0), 1.0, products), -1, 1)


def _ordered(scores: Array) -> Array:
    """Scores that numpy can order, with what is not a number last."""
    wide = scores if scores.dtype in {np.dtype(np.float32), np.dtype(np.float64)} else scores.astype(np.float64)
    missing = np.isnan(wide)
    return np.where(missing, wide.dtype.type(-np.inf), wide) if missing.any() else wide


def _at_most(count: float, rows: int, confidence: float) -> float:
    return 1.0 if count >= rows else float(betaincinv(count + 1, rows - count, confidence))
