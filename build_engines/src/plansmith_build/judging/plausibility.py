"""Whether the FP32 model fits the labels at all: a loss of 0 says nothing where it does not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from plansmith_build.judging.measures import row_scores

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from plansmith_build.judging.judge import Judge

__all__ = ["doubts"]

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
