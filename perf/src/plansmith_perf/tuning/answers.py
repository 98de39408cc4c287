"""Whether a trial computes the same as the portable configuration, on the same inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_perf.errors import WrongAnswer
from plansmith_perf.requests import CheckedRequest, check_answer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from plansmith_client import Model

__all__ = ["LEAST_SIMILARITY", "LoadAnswers", "compared_answers"]

# Of an output of reduced precision to the portable one's: a cosine, or of whole numbers and text the fraction that is
# equal. The build has judged the precision, on real
# data and within the accuracy budget; this is to find what is not the same model.
LEAST_SIMILARITY = 0.9


@dataclass(frozen=True)
class LoadAnswers:
    """What a trial must answer under load.

    Attributes:
        requests: the inputs, and what the idle trial answered to them.
        tolerance: how far an answer under load may be off; for reduced precision at most by what that costs anyway,
            since there a batch is rounded otherwise than its rows alone.
    """

    requests: tuple[CheckedRequest, ...]
    tolerance: float


def compared_answers(
    model: Model, reference: Sequence[CheckedRequest], *, reduced_precision: bool, tolerance: float
) -> LoadAnswers:
    """Ask the idle trial everything once and compare.

    Args:
        model: of the trial's server.
        reference: inputs, and the portable configuration's answers.
        reduced_precision: whether the build allowed the trial's variant to be less exact.
        tolerance: of all others; see `check_answer`.

    Raises:
        WrongAnswer: it computes something else.
        plansmith_client.ClientError: it does not answer.
    """
    requests, furthest = [], 0.0
    for request in reference:
        answer = dict(model.infer(request.inputs))
        if reduced_precision:
            furthest = max(furthest, _distance(answer, request.expected))
        else:
            check_answer(answer, request.expected, tolerance=tolerance)
        requests.append(CheckedRequest(request.inputs, answer))
    return LoadAnswers(tuple(requests), tolerance + furthest)


def _distance(answer: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> float:
    """The greatest difference, relative to an output's greatest value.

    Raises:
        WrongAnswer: an output is missing, has another dtype or shape, or is not similar.
    """
    furthest = 0.0
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
            furthest = max(furthest, float(np.abs(one - other).max()) / (float(np.abs(one).max()) or 1.0))
        if not similarity >= LEAST_SIMILARITY:
            raise WrongAnswer(f"output {name!r} agrees with the portable configuration's by {similarity:.2f} only")
    return furthest
