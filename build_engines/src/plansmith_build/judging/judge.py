"""The rows that candidates are judged on, the FP32 model's answers to them, and whether it fits their labels at all."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from plansmith_build.datasets.ragged import ragged
from plansmith_build.errors import VerificationFailed
from plansmith_build.judging.accuracy import Accuracy, measure_accuracy
from plansmith_build.judging.losses import confidence_of
from plansmith_build.judging.measures import choose_measures, row_scores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from plansmith_build.engines import Runtime
    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.judging.measures import Measure

__all__ = ["Judge", "answers_of", "doubts"]


@dataclass(frozen=True)
class Judge:
    """Validation rows with the FP32 model's answers to them, which candidates are compared with.

    Attributes:
        requests: the inputs, as the model takes them.
        batched: whether the first dimension of each request is that of its rows; else each request is one row.
        answers: the FP32 model's, all rows stacked, by output name; see `datasets.ragged` where rows differ in shape.
        labels: INT64 [rows], or None.
        measures: the measure of each output.
        bounded: whether to compute upper bounds of the loss as well; see `losses.confidence_of`.
        accuracy: the FP32 model's own.
    """

    requests: Sequence[Arrays]
    batched: bool
    answers: Arrays
    labels: np.ndarray[Any, np.dtype[Any]] | None
    measures: Mapping[str, Measure]
    bounded: bool
    accuracy: Accuracy

    @classmethod
    def of(
        cls,
        reference: Runtime,
        requests: Sequence[Arrays],
        labels: np.ndarray[Any, np.dtype[Any]] | None,
        *,
        batched: bool,
        choose: Callable[[Arrays, np.ndarray[Any, np.dtype[Any]] | None], Mapping[str, Measure]] = choose_measures,
        bounded: bool = True,
    ) -> Judge:
        """Run the FP32 model on all requests.

        Raises:
            InvalidOption: no output has classes that the labels could be, or a metric does not fit.
            RunFailed: the model does not run on them.
        """
        answers = answers_of(reference, requests, batched=batched)
        measures = choose(answers, labels)
        accuracy = measure_accuracy(
            answers, answers, labels, measures, confidence=confidence_of(1) if bounded else None
        )
        return cls(requests, batched, answers, labels, measures, bounded, accuracy)

    def first(self, count: int) -> Judge:
        """The same for the first few requests only."""
        requests = self.requests[:count]
        rows = sum(len(next(iter(request.values()))) for request in requests) if self.batched else len(requests)
        answers = {name: array[:rows] for name, array in self.answers.items()}
        labels = self.labels[:rows] if self.labels is not None else None
        accuracy = measure_accuracy(answers, answers, labels, self.measures, confidence=self._confidence(1))
        return replace(self, requests=requests, answers=answers, labels=labels, accuracy=accuracy)

    def judge(self, runtime: Runtime, *, look: int = 1) -> Accuracy:
        """Run a candidate on all requests and compare.

        Args:
            runtime: the candidate.
            look: 1 where these rows have not judged it before; 2 after they have contradicted it once, and so on.

        Raises:
            RunFailed: it does not run.
            VerificationFailed: it gives other shapes or types, or overflows.
            DataFunctionFailed: a metric of the user's failed.
        """
        answers = answers_of(runtime, self.requests, batched=self.batched)
        return measure_accuracy(self.answers, answers, self.labels, self.measures, confidence=self._confidence(look))

    def _confidence(self, look: int) -> float | None:
        return confidence_of(look) if self.bounded else None


def answers_of(runtime: Runtime, requests: Sequence[Arrays], *, batched: bool) -> Arrays:
    """All rows' answers stacked, by output name; see `datasets.ragged` where rows differ in shape.

    Raises:
        RunFailed: a request fails.
        VerificationFailed: rows of one shape get answers of different shapes, as from a detector that gives what it has
            found.
    """
    parts: dict[str, list[np.ndarray[Any, np.dtype[Any]]]] = {}
    shapes: dict[tuple[Any, ...], tuple[int, ...]] = {}
    for request in requests:
        asked = tuple(array.shape[1:] if batched else array.shape for array in request.values())
        for name, array in runtime.run(request).items():
            answer = array if batched else array[np.newaxis]
            # Rows of other shapes may well have answers of other shapes.
            before = shapes.setdefault((name, asked), answer.shape[1:])
            if answer.shape[1:] != before:
                one, other = sorted([list(before), list(answer.shape[1:])])
                raise VerificationFailed(
                    f"output {name!r} changes its shape from row to row, such as {one} and {other}, so its rows cannot "
                    "be compared: export the model without the step that selects (non-maximum suppression, for "
                    "example), or build it without --data"
                )
            parts.setdefault(name, []).append(answer)
    return {name: _joined(arrays) for name, arrays in parts.items()}


def _joined(parts: list[np.ndarray[Any, np.dtype[Any]]]) -> np.ndarray[Any, np.dtype[Any]]:
    """The parts as one array; they are taken out of the list, so that memory holds them once."""
    if len({part.shape[1:] for part in parts}) > 1:
        return ragged(row for part in parts for row in part)
    end = sum(map(len, parts))
    whole = np.empty((end, *parts[0].shape[1:]), parts[0].dtype)
    while parts:
        part = parts.pop()
        whole[end - len(part) : end] = part
        end -= len(part)
    return whole


# A quarter of the way from the most frequent label to always right.
_BARELY_BETTER = 0.25
_FAR_BETTER = 0.25
# With fewer rows of each class some order fits by chance.
_ROWS_OF_A_CLASS = 8


def doubts(judge: Judge) -> Iterator[str]:
    """Warnings where the classes of the labels are in another order, or answers are hardly better than a guess."""
    labels, top1 = judge.labels, judge.accuracy.top1
    if labels is None or top1 is None:
        return
    fitting = _in_best_order(judge, labels)
    if fitting > top1 + _FAR_BETTER:
        yield (
            f"FP32 is right on {top1:.2%} of the rows, and would be on {fitting:.2%} with the classes in another order"
            ": are the labels in the order of the outputs? For folders of images, --labels gives the order"
        )
        return
    chance = float(np.bincount(labels).max()) / len(labels)
    doubtful = max(2 * math.sqrt(chance * (1 - chance) / len(labels)), _BARELY_BETTER * (1 - chance))
    if top1 <= chance + doubtful:
        yield (
            f"FP32 is right on {top1:.2%} of the rows, and always giving the most frequent label on {chance:.2%}: "
            "check the order of the labels and the preprocessing"
        )


def _in_best_order(judge: Judge, labels: np.ndarray[Any, np.dtype[Any]]) -> float:
    """The share of right answers if each class of the output stood for the label that it fits best; 0 if unknown."""
    name = next((name for name, measure in judge.measures.items() if measure.labelled), "")
    scores = row_scores(judge.answers[name]) if name else None
    if scores is None or len(labels) < _ROWS_OF_A_CLASS * scores.shape[1]:
        return 0.0
    counts = np.zeros((scores.shape[1], scores.shape[1]), np.int64)
    np.add.at(counts, (scores.argmax(axis=1), labels), 1)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum()) / len(labels)
