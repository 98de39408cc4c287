"""Whether a peer gives the reference's answers to every request before the load, and what it must answer under load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plansmith_perf.comparing.stacking import batch_sizes
from plansmith_perf.errors import WrongAnswer
from plansmith_perf.load.requests import CheckedRequest, check_answer, relative_difference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["LEAST_AGREEMENT", "Agreement", "compare_answers"]

LEAST_AGREEMENT = 0.99
"""Of a configuration with reduced precision: the share of the rows whose greatest value is at the same place."""

# The same without such an output: the build has judged the precision, this is to find what is another model.
_LARGEST_REDUCED_DIFFERENCE = 0.1
_MATRIX = 2

# A batch is rounded otherwise than its rows alone. What was seen of it before the load is not the most there can be;
# but what is further off than this is the answer to something else, however a batch is rounded.
_BATCHING_MARGIN = 2.0
_LARGEST_BATCHING_DIFFERENCE = 0.05

Arrays = dict[str, "NDArray[Any]"]


@dataclass(frozen=True)
class Agreement:
    """What the comparison has found.

    Attributes:
        requests: the inputs, and what the peer must answer under load: with reduced precision what it answered itself
            while it was idle, which has been judged, else the reference.
        tolerance: of its answers under load; with reduced precision more by what batching was seen to change.
        largest_difference: from the reference, relative to an output's greatest value.
        top1: share of the rows whose greatest value is at the reference's place; None where no output has a row of
            numbers for each sample.
        problem: why the answers are wrong, or "".
    """

    requests: tuple[CheckedRequest, ...]
    tolerance: float
    largest_difference: float
    top1: float | None
    problem: str


def compare_answers(
    ask: Callable[[Mapping[str, NDArray[Any]]], Arrays],
    ask_together: Callable[[Sequence[Mapping[str, NDArray[Any]]]], Sequence[Arrays]],
    reference: Sequence[CheckedRequest],
    *,
    at_once: int,
    reduced_precision: bool,
    tolerance: float,
) -> Agreement:
    """Ask everything once, one at a time; with reduced precision then several at a time, to see what that changes.

    Args:
        ask: the idle peer.
        ask_together: the same, requests that it may compute as one batch.
        reference: inputs and right answers.
        at_once: requests in flight under load.
        reduced_precision: whether the build allowed it to be less exact: then at least 99 % of the rows must have
            their greatest value where the reference has it.
        tolerance: otherwise; see `plansmith_perf.load.requests.check_answer`.

    Raises:
        Exception: what `ask` raises.
    """
    requests: list[CheckedRequest] = []
    problem = ""
    furthest, same, rows = 0.0, 0, 0
    for request in reference:
        answer = ask(request.inputs)
        try:
            # Shapes and dtypes first: what follows needs them.
            check_answer(answer, request.expected, tolerance=float("inf"))
            if not reduced_precision:
                check_answer(answer, request.expected, tolerance=tolerance)
        except WrongAnswer as error:
            problem = problem or str(error)
            if any(name not in answer or answer[name].shape != e.shape for name, e in request.expected.items()):
                return Agreement((), tolerance, float("inf"), None, problem)
        furthest = max(furthest, _distance(answer, request.expected))
        agreeing, counted = _top1(answer, request.expected)
        same, rows = same + agreeing, rows + counted
        requests.append(CheckedRequest(request.inputs, answer if reduced_precision else request.expected))
    top1 = same / rows if rows else None
    if reduced_precision and top1 is not None and top1 < LEAST_AGREEMENT:
        problem = problem or f"only {top1:.1%} of the rows have their greatest value where the reference has it"
    if reduced_precision and top1 is None and not furthest <= _LARGEST_REDUCED_DIFFERENCE:
        problem = problem or f"its answers are off by {furthest:.2g} of the greatest value"
    if reduced_precision and not problem:
        seen = _change_by_batching(ask_together, requests, at_once)
        tolerance += min(_BATCHING_MARGIN * seen, _LARGEST_BATCHING_DIFFERENCE)
    return Agreement(tuple(requests), tolerance, furthest, top1, problem)


def _change_by_batching(
    ask_together: Callable[[Sequence[Mapping[str, NDArray[Any]]]], Sequence[Arrays]],
    alone: Sequence[CheckedRequest],
    at_once: int,
) -> float:
    """The furthest that an answer moves, relative to an output's greatest value; infinite for another shape."""
    furthest = 0.0
    for size in batch_sizes(at_once)[1:]:
        for first in range(0, max(size, len(alone)), size):
            chosen = [alone[(first + number) % len(alone)] for number in range(size)]
            answers = ask_together([request.inputs for request in chosen])
            for request, answer in zip(chosen, answers, strict=True):
                try:
                    check_answer(answer, request.expected, tolerance=float("inf"))
                except WrongAnswer:
                    return float("inf")
                furthest = max(furthest, _distance(answer, request.expected))
    return furthest


def _distance(answer: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> float:
    return max((relative_difference(answer[name], reference) for name, reference in expected.items()), default=0.0)


def _top1(answer: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> tuple[int, int]:
    for name, reference in expected.items():
        if reference.ndim == _MATRIX and reference.shape[1] > 1 and reference.dtype.kind == "f":
            agree = answer[name].argmax(axis=1) == reference.argmax(axis=1)
            return int(agree.sum()), agree.size
    return 0, 0
