"""How good a candidate's answers are: against labels where there are any, else against the FP32 model's answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.datasets.ragged import Array, is_ragged, ragged, row_shapes, stacked
from plansmith_build.errors import VerificationFailed
from plansmith_build.judging.losses import (
    confidence_of,
    error_and_bound,
    mean_cosine,
    score_and_bound,
    share_bound,
    wrong_rows,
)
from plansmith_build.judging.measures import (
    Measure,
    Metric,
    choose_measures,
    is_floating,
    row_parts,
    row_scores,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plansmith_build.engines.onnxruntime import Arrays


__all__ = ["Accuracy", "OutputAgreement", "measure_accuracy"]


@dataclass(frozen=True)
class OutputAgreement:
    """One output compared with the FP32 model's.

    Attributes:
        name: the output.
        measure: what judges it.
        value: by that measure, 0 for no fault: the share that is wrong or the error; of a user's function, minus its
            score.
        bound: upper bound of the loss with 95 % confidence; None where it was not asked for or there is one row.
        top1_agreement: the fraction with the same greatest element; None for outputs that are neither
            [rows, values] nor judged by classes.
        cosine: the mean cosine similarity of the rows; None for what is not floating point.
        signal_to_noise_db: the power of the reference to that of the difference; infinite where they are equal, None
            for what is not floating point.
        max_absolute_error: the greatest difference of two elements.
        differing: the fraction of the elements that differ, for whole numbers, truth values and text; else None.
    """

    name: str
    measure: Measure
    value: float
    bound: float | None
    top1_agreement: float | None
    cosine: float | None
    signal_to_noise_db: float | None
    max_absolute_error: float
    differing: float | None

    def loss_from(self, reference: OutputAgreement) -> float:
        """How much worse than the FP32 model's own, 0 for as good."""
        if not self.measure.is_score:
            return self.value
        # A score that is not a number cannot be accepted.
        loss = self.value - reference.value
        return math.inf if math.isnan(loss) else max(0.0, loss)


@dataclass(frozen=True)
class Accuracy:
    """The answers of one candidate.

    Attributes:
        rows: on how many rows.
        top1: the fraction of the rows whose label has the highest score, or whose decision is right; None without
            labels.
        top5: the fraction of the rows whose label is among the five highest scores; None without labels or where the
            output has no scores.
        outputs: each output compared with the FP32 model's.
    """

    rows: int
    top1: float | None
    top5: float | None
    outputs: tuple[OutputAgreement, ...]

    def losses_from(self, reference: Accuracy) -> tuple[tuple[OutputAgreement, float], ...]:
        """Each output with what it lost."""
        pairs = zip(self.outputs, reference.outputs, strict=True)
        return tuple((output, output.loss_from(other)) for output, other in pairs)

    def drop_from(self, reference: Accuracy) -> float:
        """What the output that lost most has lost, 0 for nothing: a share or an error, by the measure of the output.

        Args:
            reference: the FP32 model's answers measured against themselves; without labels any measurement will do.
        """
        return max(loss for _, loss in self.losses_from(reference))

    @property
    def noise(self) -> float:
        """Noise power relative to signal power, the worst of all outputs: finer than a count of flipped rows."""
        powers = [10 ** (-o.signal_to_noise_db / 10) for o in self.outputs if o.signal_to_noise_db is not None]
        return max(powers) if powers else max((o.differing or 0.0 for o in self.outputs), default=0.0)


def measure_accuracy(
    reference: Arrays,
    answers: Arrays,
    labels: Array | None = None,
    measures: Mapping[str, Measure] | None = None,
    *,
    confidence: float | None = confidence_of(1),
) -> Accuracy:
    """Compare a candidate's answers with the FP32 model's, and with labels.

    Args:
        reference: the FP32 model's answers, all rows stacked, by output name; see `datasets.ragged` where rows differ
            in shape.
        answers: the candidate's, likewise.
        labels: INT64 [rows].
        measures: what each output is measured by; None chooses by the reference.
        confidence: of the upper bounds of the loss; None for none.

    Raises:
        VerificationFailed: an output is missing, has another shape or dtype, or holds NaN or an infinity where the
            reference has a number.
        DataFunctionFailed: a function of the user's failed.
    """
    if measures is None:
        measures = choose_measures(reference, labels)
    outputs = tuple(
        _agreement(name, array, answers.get(name), labels, measures[name], confidence=confidence)
        for name, array in reference.items()
    )
    top1 = top5 = None
    labelled = next((output for output in outputs if output.measure.labelled), None)
    if labelled is not None:
        given, by = answers[labelled.name], labelled.measure
        if by.metric in {Metric.TOP1, Metric.TOP5}:
            top1, top5 = (
                1 - float(wrong_rows(Measure(metric, labelled=True), given, given, labels).mean())
                for metric in (Metric.TOP1, Metric.TOP5)
            )
        else:
            top1 = 1 - labelled.value
    return Accuracy(len(next(iter(reference.values()))), top1, top5, outputs)


def _agreement(
    name: str,
    reference: Array,
    given: Array | None,
    labels: Array | None,
    measure: Measure,
    *,
    confidence: float | None,
) -> OutputAgreement:
    if given is None:
        raise VerificationFailed(f"output {name!r} is missing")
    _check_form(name, reference, given)
    if not is_floating(reference):
        counts = [(stacked(reference, part) != stacked(given, part)) for part in row_parts(reference)]
        differing = sum(int(found.sum()) for found in counts) / max(sum(found.size for found in counts), 1)
        value, bound = _judged(measure, reference, given, labels, confidence=confidence)
        return OutputAgreement(name, measure, value, bound, None, None, None, differing, differing)
    signal = noise = greatest = 0.0
    for part in row_parts(reference):
        wide, other = stacked(reference, part).astype(np.float64), stacked(given, part).astype(np.float64)
        finite = np.isfinite(wide)
        if not np.array_equal(wide[~finite], other[~finite], equal_nan=True) or not np.isfinite(other[finite]).all():
            raise VerificationFailed(
                f"output {name!r} overflows: it is infinite or not a number where FP32 has a number"
            )
        wide, other = wide[finite], other[finite]
        signal += float(np.square(wide).sum())
        other -= wide
        noise += float(np.square(other).sum())
        greatest = max(greatest, float(np.abs(other).max(initial=0.0)))
    decibels = math.inf if not noise else 10 * math.log10(signal / noise) if signal else -math.inf
    numbers, others = _without_infinities(reference), _without_infinities(given)
    if measure.is_share:
        value, bound = _judged(measure, reference, given, labels, confidence=confidence)
    else:
        value, bound = error_and_bound(measure.metric, numbers, others, confidence=confidence)
    top1 = None
    if measure == Measure(Metric.TOP1):
        top1 = 1 - value
    elif row_scores(reference) is not None or measure.metric in {Metric.TOP1, Metric.TOP5}:
        top1 = 1 - float(wrong_rows(Measure(Metric.TOP1), reference, given, None).mean())
    return OutputAgreement(
        name=name,
        measure=measure,
        value=value,
        bound=bound,
        top1_agreement=top1,
        cosine=mean_cosine(numbers, others) if noise else 1.0,
        signal_to_noise_db=decibels,
        max_absolute_error=greatest,
        differing=None,
    )


def _check_form(name: str, reference: Array, given: Array) -> None:
    """Refuse answers of another type or shape."""
    pairs = zip(row_shapes(given), row_shapes(reference), strict=False)
    row = next((row for row, (one, other) in enumerate(pairs) if one != other), 0)
    apart = is_ragged(reference) or is_ragged(given)
    one, other = (given[row], reference[row]) if apart else (given, reference)
    if one.shape != other.shape or one.dtype != other.dtype or len(given) != len(reference):
        where = f" for row {row}" if apart else ""
        raise VerificationFailed(
            f"output {name!r} is {one.dtype} {list(one.shape)}{where} where the FP32 model gives {other.dtype} "
            f"{list(other.shape)}"
        )


def _without_infinities(array: Array) -> Array:
    """The same with 0 for what is not a number or infinite."""
    if is_ragged(array):
        return ragged(map(_without_infinities, array))
    finite = np.isfinite(array)
    return array if finite.all() else np.where(finite, array, array.dtype.type(0))


def _judged(
    measure: Measure, reference: Array, given: Array, labels: Array | None, *, confidence: float | None
) -> tuple[float, float | None]:
    """Value and bound by a share or by the user's function."""
    if measure.metric is Metric.FUNCTION:
        score, bound = score_and_bound(measure.function, reference, given, labels, confidence=confidence)
        return -score, bound
    wrong = wrong_rows(measure, reference, given, labels)
    # Without labels, the FP32 model is what is right.
    before = wrong_rows(measure, reference, reference, labels) if measure.labelled else np.zeros_like(wrong)
    worse, better = np.maximum(wrong - before, 0).sum(), np.maximum(before - wrong, 0).sum()
    if confidence is None:
        return float(wrong.mean()), None
    bound = share_bound(float(worse), float(better), len(wrong), paired=measure.labelled, confidence=confidence)
    return float(wrong.mean()), bound
