"""How far a candidate's answers are from the FP32 model's, measured and judged as a build does.

For candidates of your own, such as a network that was trained with quantization or pruned elsewhere: run both models on
the same rows, and hand over the answers. `plansmith build --data` does all of that for the candidates that it makes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.errors import InvalidOption, VerificationFailed
from plansmith_build.judging import accuracy as judging
from plansmith_build.judging.accuracy import Accuracy, OutputAgreement
from plansmith_build.judging.budget import Budget
from plansmith_build.judging.measures import Measure, Metric, choose_measures, parse_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike

__all__ = ["Accuracy", "Budget", "Measure", "Metric", "OutputAgreement", "measure_accuracy"]


def measure_accuracy(
    reference: Mapping[str, ArrayLike],
    answers: Mapping[str, ArrayLike],
    labels: ArrayLike | None = None,
    *,
    metrics: Sequence[str] = (),
) -> Accuracy:
    """Measure every output of a candidate by what it is: class scores, decisions, whole numbers or anything else.

    Args:
        reference: the FP32 model's answers, [rows, ...] by output name, all with the same number of rows; of any dtype
            that ONNX has. Rows of several shapes are an array of objects, one array for each row.
        answers: the candidate's answers to the same inputs, of the same names, shapes and dtypes.
        labels: whole numbers [rows], the true class of each row; None to compare with the FP32 model alone. What is
            lost is then the difference of two accuracies: `drop_from` takes the measure of the FP32 model's answers
            against themselves.
        metrics: `METRIC` or `OUTPUT=METRIC`, as `--metric` of `plansmith build` takes them, such as `"top1"` or
            `"embedding=cosine"`; outputs without one get the measure that suits them.

    Returns:
        each output's measure, value, upper bound with 95 % confidence, cosine similarity, signal-to-noise ratio in dB
        and largest error; `drop_from` makes one number of it, and `Budget.accepts` says whether a build would take it.

    Raises:
        InvalidOption: there are no rows, outputs or labels have different numbers of them, a metric is unknown, or
            labels or a metric fit no output.
        VerificationFailed: an output is missing, has another shape or dtype, or is NaN or infinite where the reference
            has a number.
        DataFunctionFailed: a metric that is a function of yours failed.
    """
    arrays = {name: np.asarray(array) for name, array in reference.items()}
    classes = np.asarray(labels) if labels is not None else None
    if classes is not None and (classes.dtype.kind not in "iub" or classes.ndim != 1):
        raise InvalidOption(f"labels must be whole numbers [rows], got {classes.dtype} {list(classes.shape)}")
    if classes is not None and classes.size and classes.min() < 0:
        raise InvalidOption(f"labels must be 0 or more, got {classes.min()}")
    rows = {f"output {name!r}": len(array) if array.ndim else 0 for name, array in arrays.items()}
    if classes is not None:
        rows["labels"] = len(classes)
    if not rows or len({*rows.values()}) > 1 or not min(rows.values()):
        counts = ", ".join(f"{what} has {count}" for what, count in rows.items()) or "there is no output"
        raise InvalidOption(
            f"every output must have the same number of rows, at least one, and so must labels: {counts}"
        )
    measures = choose_measures(arrays, classes, given=parse_metrics(metrics))
    given = {name: np.asarray(array) for name, array in answers.items()}
    scalars = [name for name, array in given.items() if not array.ndim]
    if scalars:
        raise VerificationFailed(f"output {scalars[0]!r} is a single number, and not a row for each input")
    return judging.measure_accuracy(arrays, given, classes, measures)
