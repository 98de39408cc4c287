"""Whether a trial computes the same as the portable configuration, on the same inputs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_perf.errors import WrongAnswer
from plansmith_perf.load.requests import CheckedRequest, check_answer, relative_difference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from plansmith_client import Model

__all__ = ["LEAST_SIMILARITY", "MOST_FROM_BATCHING", "LoadAnswers", "compared_answers"]

# Of an output of reduced precision to the portable one's: a cosine, or of whole numbers and text the fraction that is
# equal. The build has judged the precision, on real data and within the accuracy budget; this is to find what is not
# the same model.
LEAST_SIMILARITY = 0.9
# Of a greatest value: BF16 keeps eight bits, and what is off by more than this is another answer.
MOST_FROM_BATCHING = 0.1
# Other requests may come together under load than did here.
_MARGIN = 2.0
_MOST_TOGETHER = 16


@dataclass(frozen=True)
class LoadAnswers:
    """What a trial must answer under load.

    Attributes:
        requests: the inputs, and what the idle trial answered to them.
        tolerance: how far an answer under load may be off from that; reduced precision rounds a batch otherwise than
            its rows alone, and may be off by as much as that was seen to cost, `MOST_FROM_BATCHING` at most.
    """

    requests: tuple[CheckedRequest, ...]
    tolerance: float


def compared_answers(
    model: Model, reference: Sequence[CheckedRequest], *, reduced_precision: bool, tolerance: float
) -> LoadAnswers:
    """Ask the idle trial everything once and compare.

    Raises:
        WrongAnswer: it computes something else.
        plansmith_client.ClientError: it does not answer.
    """
    requests = []
    for request in reference:
        answer = dict(model.infer(request.inputs))
        if reduced_precision:
            _check_similar(answer, request.expected)
        else:
            check_answer(answer, request.expected, tolerance=tolerance)
        requests.append(CheckedRequest(request.inputs, answer))
    if reduced_precision:
        tolerance = max(tolerance, min(MOST_FROM_BATCHING, _MARGIN * _cost_of_batching(model, requests)))
    return LoadAnswers(tuple(requests), tolerance)


def _check_similar(answer: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> None:
    """Find what is not the same model.

    Raises:
        WrongAnswer: an output is missing, has another dtype or shape, or is not similar.
    """
    for name, reference in expected.items():
        given = answer.get(name)
        if given is None or given.dtype != reference.dtype or given.shape != reference.shape:
            found = "missing" if given is None else f"{given.dtype} {list(given.shape)}"
            raise WrongAnswer(f"output {name!r} is {found}, expected {reference.dtype} {list(reference.shape)}")
        if not reference.size:
            continue
        if reference.dtype.kind != "f":
            similarity = float(np.mean(given == reference))
        else:
            one, other = reference.astype(np.float64).ravel(), given.astype(np.float64).ravel()
            lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
            similarity = float(one @ other) / lengths if lengths else float(np.array_equal(one, other))
        if not similarity >= LEAST_SIMILARITY:
            raise WrongAnswer(f"output {name!r} agrees with the portable configuration's by {similarity:.2f} only")


def _cost_of_batching(model: Model, requests: Sequence[CheckedRequest]) -> float:
    """The greatest difference between answers to requests in one batch and alone, of an output's greatest value."""
    shapes = [{name: array.shape for name, array in request.inputs.items()} for request in requests]
    alike = [request for request, shape in zip(requests, shapes, strict=True) if shape == shapes[0]]
    furthest = 0.0
    if not alike or not model.metadata.max_batch_size:
        return furthest
    rows = len(next(iter(alike[0].inputs.values())))
    together = 2
    while together <= _MOST_TOGETHER and together * rows <= model.metadata.max_batch_size:
        chosen = list(itertools.islice(itertools.cycle(alike), together))
        batch = {name: np.concatenate([request.inputs[name] for request in chosen]) for name in alike[0].inputs}
        answer = model.infer(batch)
        for number, request in enumerate(chosen):
            for name, alone in request.expected.items():
                part = answer[name][number * rows : (number + 1) * rows]
                if alone.dtype.kind == "f" and part.shape == alone.shape:
                    furthest = max(furthest, relative_difference(part, alone))
        together *= 2
    return furthest
