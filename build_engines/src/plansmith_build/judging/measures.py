"""The measure of each output: chosen by what the output is, unless the user names one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.datasets.callables import is_callable_source
from plansmith_build.datasets.ragged import Array, is_ragged, row_shapes, stacked
from plansmith_build.errors import InvalidOption
from plansmith_client.tensors import datatype_from_numpy

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from plansmith_build.engines.onnxruntime import Arrays


__all__ = [
    "Measure",
    "Metric",
    "choose_measures",
    "class_scores",
    "classifier_output",
    "is_floating",
    "parse_metrics",
    "row_parts",
    "row_scores",
]

_FLOATING = {"FP16", "BF16", "FP32", "FP64"}
# Elements that are widened to FP64 at once.
_CHUNK = 2**20
# How far the probabilities of a row may be from a sum of 1: FP16 and BF16 round.
_SUM_TOLERANCE = 1e-2
# Where nearly every row has one class, agreement on it says nothing about the other classes.
_LEAST_OTHERS = 0.05


class Metric(StrEnum):
    """How an output is compared."""

    TOP1 = "top1"
    TOP5 = "top5"
    DECISION = "decision"
    EQUAL = "equal"
    RELATIVE_ERROR = "relative-error"
    COSINE = "cosine"
    FUNCTION = "function"


@dataclass(frozen=True)
class Measure:
    """The measure that judges one output.

    Attributes:
        metric: the kind.
        labelled: whether answers are compared with labels; else with the FP32 model's.
        function: the user's, as `module:function`; empty for other metrics.
        threshold: of a decision: what is above counts as yes.
    """

    metric: Metric
    labelled: bool = False
    function: str = ""
    threshold: float = 0.5

    @property
    def is_share(self) -> bool:
        """Whether it is a share or a score, under `--max-drop`; else an error, under `--max-error`."""
        return self.metric not in {Metric.RELATIVE_ERROR, Metric.COSINE}

    @property
    def is_score(self) -> bool:
        """Whether the FP32 model has a value of its own, and the difference of the two is what is lost."""
        return self.labelled or self.metric is Metric.FUNCTION

    def __str__(self) -> str:
        return self.function or f"{self.metric}{' by labels' if self.labelled else ''}"


def parse_metrics(texts: Sequence[str]) -> dict[str, str]:
    """`[OUTPUT=]METRIC` as metric by output, `""` for all outputs.

    Raises:
        InvalidOption: a metric is unknown, or an output is named twice.
    """
    chosen: dict[str, str] = {}
    known = [metric.value for metric in Metric if metric not in {Metric.EQUAL, Metric.FUNCTION}]
    for text in texts:
        output, _, metric = text.rpartition("=")
        if metric not in known and not is_callable_source(metric):
            raise InvalidOption(
                f"--metric {text!r}: {metric!r} is not a metric: write one of {', '.join(known)} or module:function"
            )
        if output in chosen:
            raise InvalidOption(f"--metric was given twice for {output or 'all outputs'!r}")
        chosen[output] = metric
    return chosen


def choose_measures(
    answers: Arrays,
    labels: Array | None = None,
    *,
    given: Mapping[str, str] | None = None,
    sigmoids: Collection[str] = (),
    classes: int | None = None,
) -> dict[str, Measure]:
    """Choose the measure of each output.

    Args:
        answers: the FP32 model's, all rows stacked, by output name; see `datasets.ragged` where rows differ in shape.
        labels: INT64 [rows], or None.
        given: from `parse_metrics`.
        sigmoids: the outputs that come from a sigmoid.
        classes: how many class names the user gave, if any.

    Raises:
        InvalidOption: the metric given for an output, or the labels, do not fit.
    """
    given = given or {}
    unknown = [name for name in given if name and name not in answers]
    if unknown:
        raise InvalidOption(f"--metric {unknown[0]}=...: the model has no such output, only {', '.join(answers)}")
    labelled = classifier_output(answers, labels, sigmoids=sigmoids) if labels is not None else None
    measures = {}
    fitted = False
    for name, array in answers.items():
        is_labelled = name == labelled
        wanted = given.get(name, given.get("", ""))
        measure = _wanted(wanted, array, labelled=is_labelled) if wanted else None
        if measure is None and name in given:
            raise InvalidOption(
                f"--metric {name}={wanted} does not fit output {name!r}, {array.dtype} {[-1, *array.shape[1:]]}"
            )
        fitted = fitted or measure is not None
        measures[name] = measure or _natural(array, labelled=is_labelled, sigmoid=name in sigmoids, classes=classes)
    if given.get("") and not fitted:
        raise InvalidOption(f"--metric {given['']} fits no output: name a metric for each with --metric OUTPUT=METRIC")
    return measures


def classifier_output(answers: Arrays, labels: Array, *, sigmoids: Collection[str] = ()) -> str:
    """The output that labels belong to: scores [rows, classes], class numbers [rows], or decisions [rows] or [rows, 1].

    Args:
        answers: the FP32 model's, all rows stacked.
        labels: INT64 [rows].
        sigmoids: the outputs that come from a sigmoid.

    Raises:
        InvalidOption: no output classifies, or a label is not a class of it.
    """
    scores = {name: found for name, array in answers.items() if (found := row_scores(array)) is not None}
    numbers = [name for name, array in answers.items() if array.dtype.kind in "iub" and _is_one_number(array)]
    decisions = [name for name, array in answers.items() if is_floating(array) and _is_one_number(array)]
    binary = bool(len(labels)) and int(labels.min()) >= 0 and int(labels.max()) <= 1
    likely = [name for name, found in scores.items() if _are_probabilities(found)]
    if not likely and binary and (sure := [name for name in decisions if name in sigmoids]):
        return sure[0]
    if not scores:
        if numbers:
            return numbers[0]
        if binary and decisions:
            return decisions[0]
        shapes = ", ".join(
            f"{name} of several shapes" if is_ragged(array) else f"{name} {array.dtype} {[-1, *array.shape[1:]]}"
            for name, array in answers.items()
        )
        raise InvalidOption(
            f"the data has labels, and no output classifies: {shapes}. One number a row takes labels of 0 and 1; else "
            "leave the labels out, and answers are compared with the FP32 model's instead"
        )
    name = next(iter([*likely, *scores]))
    classes = scores[name].shape[1]
    if int(labels.max(initial=0)) >= classes:
        row = int(labels.argmax())
        raise InvalidOption(
            f"label {int(labels[row])} of row {row} is not a class of output {name!r}, which has {classes}: "
            "labels are counted from 0"
        )
    return name


def class_scores(array: Array) -> Array | None:
    """[rows, ..., classes] of floating point with more than one class, without dimensions of 1; else None."""
    if not is_floating(array) or array.ndim < 2:  # noqa: PLR2004 - a number a row
        return None
    shape = (len(array), *(size for size in array.shape[1:] if size != 1))
    return array.reshape(shape) if len(shape) > 1 and array.size else None


def row_scores(array: Array) -> Array | None:
    """[rows, classes] of floating point, without dimensions of 1; else None."""
    scores = None if is_ragged(array) else class_scores(array)
    return scores if scores is not None and scores.ndim == 2 else None  # noqa: PLR2004


def is_floating(array: Array) -> bool:
    """Whether the values are floating point."""
    return datatype_from_numpy((array[0] if is_ragged(array) else array).dtype) in _FLOATING


def row_parts(array: Array) -> list[slice]:
    """The rows in parts of one shape that are small enough to be widened to FP64."""
    shapes = row_shapes(array)
    ends = [row for row in range(1, len(shapes)) if shapes[row] != shapes[row - 1]] if is_ragged(array) else []
    parts = []
    for start, stop in pairwise([0, *ends, len(shapes)]):
        step = max(1, _CHUNK // max(math.prod(shapes[start]), 1)) if stop else 1
        parts += [slice(begin, min(begin + step, stop)) for begin in range(start, stop, step)]
    return parts


def _blocks(array: Array) -> Iterator[Array]:
    return (stacked(array, part) for part in row_parts(array))


def _is_one_number(array: Array) -> bool:
    """Whether each row has one element."""
    return not is_ragged(array) and array.size == len(array)


def _wanted(text: str, array: Array, *, labelled: bool) -> Measure | None:
    """The measure that the user named, None where the output cannot be measured so."""
    if is_callable_source(text):
        return Measure(Metric.FUNCTION, function=text)
    metric = Metric(text)
    if not is_floating(array):
        return None
    if metric in {Metric.TOP1, Metric.TOP5}:
        return Measure(metric, labelled) if _classes_of(array) else None
    if metric is Metric.DECISION:
        return Measure(metric, labelled and _is_one_number(array), threshold=_threshold(array))
    return Measure(metric)


def _natural(array: Array, *, labelled: bool, sigmoid: bool, classes: int | None) -> Measure:
    if not is_floating(array):
        return Measure(Metric.EQUAL, labelled)
    scored = _classes_of(array)
    if labelled:
        return Measure(Metric.TOP1, labelled=True) if scored else _decision(array, labelled=True)
    if scored:
        blocks = [scores for scores in map(class_scores, _blocks(array)) if scores is not None]
        if scored == classes or all(map(_are_probabilities, blocks)):
            best = np.concatenate([scores.argmax(axis=-1).reshape(-1) for scores in blocks])
            return Measure(Metric.TOP1 if _varies(best) else Metric.RELATIVE_ERROR)
    if sigmoid and _is_one_number(array):
        decision = _decision(array, labelled=False)
        return decision if _varies(array.reshape(-1) > decision.threshold) else Measure(Metric.RELATIVE_ERROR)
    return Measure(Metric.RELATIVE_ERROR)


def _decision(array: Array, *, labelled: bool) -> Measure:
    return Measure(Metric.DECISION, labelled, threshold=_threshold(array))


def _threshold(array: Array) -> float:
    """Half for probabilities, 0 for what a sigmoid was left off."""
    return 0.5 if all(bool(((block >= 0) & (block <= 1)).all()) for block in _blocks(array)) else 0.0


def _classes_of(array: Array) -> int:
    """How many classes each row, or each position of it, has scores for; 0 where it has none."""
    found = {scores.shape[-1] if scores is not None else 0 for scores in map(class_scores, _blocks(array))}
    return found.pop() if len(found) == 1 else 0


def _are_probabilities(scores: Array) -> bool:
    """Whether each row adds up to 1, itself or as logarithms."""
    logarithms = bool((scores < 0).any())
    for part in row_parts(scores):
        values = scores[part].astype(np.float64)
        if logarithms:
            # A logarithm of a probability is never positive: cap the others, so that exp does not overflow.
            values = np.exp(np.minimum(values, 1))
        sums_to_one = (np.abs(values.sum(axis=-1) - 1) < _SUM_TOLERANCE).all()
        if not (sums_to_one and (values <= 1 + _SUM_TOLERANCE).all()):
            return False
    return True


def _varies(classes: Array) -> bool:
    counts = np.unique(classes, return_counts=True)[1]
    return bool(counts.max() <= (1 - _LEAST_OTHERS) * classes.size)
