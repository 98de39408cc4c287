"""How good a candidate's answers are: against labels where there are any, else against the FP32 model's answers."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.errors import InvalidOption, VerificationFailed
from plansmith_client.tensors import datatype_from_numpy

if TYPE_CHECKING:
    from typing import Any

    from plansmith_build.sessions import Arrays

    Array = np.ndarray[Any, np.dtype[Any]]

__all__ = ["Accuracy", "OutputAgreement", "classifier_output", "measure_accuracy", "parse_drop"]

_FLOATING = {"FP16", "BF16", "FP32", "FP64"}


@dataclass(frozen=True)
class OutputAgreement:
    """One output beside the FP32 model's.

    Attributes:
        name: the output.
        top1_agreement: the fraction of the rows with the same greatest element; None for what is no [rows, classes].
        cosine: the mean cosine similarity of the rows; None for what is not floating point.
        signal_to_noise_db: the power of the reference to that of the difference; infinite where they are equal, None
            for what is not floating point.
        max_absolute_error: the greatest difference of two elements.
        differing: the fraction of the elements that differ, for whole numbers, truth values and text; else None.
    """

    name: str
    top1_agreement: float | None
    cosine: float | None
    signal_to_noise_db: float | None
    max_absolute_error: float
    differing: float | None

    @property
    def drop(self) -> float:
        """What is lost, from 0 to 1: of the agreement where there are classes, else of the cosine similarity."""
        if self.differing is not None:
            return self.differing
        if self.top1_agreement is not None:
            return 1 - self.top1_agreement
        return 1 - (self.cosine or 0.0)


@dataclass(frozen=True)
class Accuracy:
    """The answers of one candidate.

    Attributes:
        rows: on how many rows.
        top1: the fraction of the rows whose label has the highest score; None without labels.
        top5: the fraction of the rows whose label is among the five highest scores; None without labels or where the
            output has no scores.
        outputs: each output beside the FP32 model's.
    """

    rows: int
    top1: float | None
    top5: float | None
    outputs: tuple[OutputAgreement, ...]

    def drop_from(self, reference: Accuracy) -> float:
        """How much worse than the reference, from 0 (as good) to 1: of top-1 accuracy, or of the worst agreement."""
        if self.top1 is not None and reference.top1 is not None:
            return max(0.0, reference.top1 - self.top1)
        return max((output.drop for output in self.outputs), default=0.0)

    @property
    def noise(self) -> float:
        """Noise power relative to signal power, the worst of all outputs: finer than a count of flipped rows."""
        powers = [10 ** (-o.signal_to_noise_db / 10) for o in self.outputs if o.signal_to_noise_db is not None]
        return max(powers) if powers else max((o.differing or 0.0 for o in self.outputs), default=0.0)


def parse_drop(text: str) -> float:
    """The largest drop allowed: `0.5%` and `0.005` are the same.

    Raises:
        InvalidOption: it is neither a percentage nor a fraction below 1.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    value = float(match[1]) / (100 if match[2] else 1) if match else math.nan
    if not 0 <= value < 1:
        raise InvalidOption(f"--max-drop {text!r} is no drop of accuracy: write 0.5% or 0.005")
    return value


def classifier_output(answers: Arrays, labels: Array) -> str:
    """The output that labels belong to: scores [rows, classes] before class numbers [rows].

    Args:
        answers: the FP32 model's, all rows stacked.
        labels: INT64 [rows].

    Raises:
        InvalidOption: no output classifies, or a label is no class of it.
    """
    scores = {name: found for name, array in answers.items() if (found := _scores(array)) is not None}
    numbers = [name for name, array in answers.items() if array.dtype.kind in "iu" and array.size == len(labels)]
    if not scores and not numbers:
        shapes = ", ".join(f"{name} {array.dtype} {[-1, *array.shape[1:]]}" for name, array in answers.items())
        raise InvalidOption(
            f"the data has labels, and no output classifies: {shapes}. Leave the labels out, and agreement with the "
            "FP32 model is measured instead"
        )
    if not scores:
        return numbers[0]
    name, classes = next((name, found.shape[1]) for name, found in scores.items())
    if int(labels.max(initial=0)) >= classes:
        row = int(labels.argmax())
        raise InvalidOption(
            f"label {int(labels[row])} of row {row} is no class of output {name!r}, which has {classes}: "
            "labels are counted from 0"
        )
    return name


def measure_accuracy(reference: Arrays, answers: Arrays, labels: Array | None = None) -> Accuracy:
    """Compare a candidate's answers with the FP32 model's, and with labels.

    Args:
        reference: the FP32 model's answers, all rows stacked, by output name.
        answers: the candidate's, likewise.
        labels: INT64 [rows].

    Raises:
        VerificationFailed: an output is missing, has another shape or dtype, or holds what is no number where the
            reference has one.
    """
    outputs = tuple(_agreement(name, array, answers.get(name)) for name, array in reference.items())
    top1 = top5 = None
    rows = len(next(iter(reference.values())))
    if labels is not None:
        name = classifier_output(reference, labels)
        array = answers[name]
        scores = _scores(array)
        if scores is not None:
            scores = scores.astype(np.float64)
            top1 = float(np.mean(scores.argmax(axis=1) == labels))
            best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
            top5 = float(np.mean((best == labels[:, None]).any(axis=1)))
        else:
            top1 = float(np.mean(array.reshape(-1) == labels))
    return Accuracy(rows=rows, top1=top1, top5=top5, outputs=outputs)


def _scores(array: Array) -> Array | None:
    """[rows, classes] of what is that, or is [rows, classes, 1, 1]; else None."""
    classes = math.prod(array.shape[1:])
    is_list = array.ndim > 1 and classes > 1 and classes == max(array.shape[1:])
    return array.reshape(len(array), classes) if is_list and _is_floating(array) else None


def _is_floating(array: Array) -> bool:
    return datatype_from_numpy(array.dtype) in _FLOATING


def _agreement(name: str, reference: Array, given: Array | None) -> OutputAgreement:
    if given is None or given.shape != reference.shape or given.dtype != reference.dtype:
        found = "nothing" if given is None else f"{given.dtype} {list(given.shape)}"
        raise VerificationFailed(
            f"output {name!r} is {found} where the FP32 model gives {reference.dtype} {list(reference.shape)}"
        )
    if not _is_floating(reference):
        differing = float(np.mean(reference != given)) if reference.size else 0.0
        return OutputAgreement(name, None, None, None, differing, differing)
    wide, other = reference.astype(np.float64), given.astype(np.float64)
    finite = np.isfinite(wide)
    if not np.array_equal(wide[~finite], other[~finite], equal_nan=True) or not np.isfinite(other[finite]).all():
        raise VerificationFailed(f"output {name!r} overflows: it is infinite or not a number where FP32 has a number")
    wide, other = np.where(finite, wide, 0.0), np.where(finite, other, 0.0)
    signal, noise = float((wide**2).sum()), float(((wide - other) ** 2).sum())
    decibels = math.inf if not noise else 10 * math.log10(signal / noise) if signal else -math.inf
    top1 = None
    scores, other_scores = _scores(wide), _scores(other)
    if scores is not None and other_scores is not None:
        top1 = float(np.mean(scores.argmax(axis=1) == other_scores.argmax(axis=1)))
    return OutputAgreement(
        name=name,
        top1_agreement=top1,
        cosine=_cosine(wide, other) if noise else 1.0,
        signal_to_noise_db=decibels,
        max_absolute_error=float(np.abs(wide - other).max(initial=0.0)),
        differing=None,
    )


def _cosine(reference: Array, given: Array) -> float:
    one, other = reference.reshape(len(reference), -1), given.reshape(len(given), -1)
    products = (one * other).sum(axis=1)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    both_zero = (np.linalg.norm(one, axis=1) == 0) & (np.linalg.norm(other, axis=1) == 0)
    cosines = np.where(both_zero, 1.0, products / np.where(lengths == 0, 1.0, lengths))
    return float(np.clip(cosines, -1, 1).mean())
