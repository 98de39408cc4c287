"""Requests of a load test and the answers they must get.

What a server answers when idle is what it must answer under load: a mixed-up batch, a buffer that is reused too early
or a request answered with another's result shows as a difference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_perf.errors import WrongAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["CheckedRequest", "check_answer", "relative_difference"]


@dataclass(frozen=True)
class CheckedRequest:
    """One request of a load test.

    Attributes:
        inputs: arrays by input name, the batch dimension first where the model has one.
        expected: arrays by output name: what the idle server answered before the load began, or golden answers.
    """

    inputs: Mapping[str, NDArray[Any]]
    expected: Mapping[str, NDArray[Any]]


def check_answer(answer: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], *, tolerance: float) -> None:
    """Compare an answer with the expected one.

    Args:
        answer: arrays by output name.
        expected: arrays by output name.
        tolerance: the greatest difference of floating-point values, relative to the greatest finite magnitude that is
            expected of that output; batching changes the order of additions. Infinities, NaN and everything else must
            be equal.

    Raises:
        WrongAnswer: an output is missing, has another dtype or shape, or other values.
    """
    for name, reference in expected.items():
        given = answer.get(name)
        if given is None:
            raise WrongAnswer(f"output {name!r} is missing from the answer")
        if given.dtype != reference.dtype or given.shape != reference.shape:
            raise WrongAnswer(
                f"output {name!r} is {given.dtype} {list(given.shape)} where {reference.dtype} "
                f"{list(reference.shape)} was expected"
            )
        if reference.dtype.kind == "f":
            difference = relative_difference(given, reference)
            if not difference <= tolerance:
                raise WrongAnswer(f"output {name!r} is off by {difference:.2g} of its greatest value")
        elif not np.array_equal(given, reference):
            raise WrongAnswer(f"output {name!r} has other values than the same request got from the idle server")


def relative_difference(given: NDArray[Any], reference: NDArray[Any]) -> float:
    """The greatest difference of two arrays of one shape, relative to the greatest finite magnitude of the second.

    Returns:
        0 where they are equal, infinities and NaN included; infinite where only one of the two is a number.
    """
    given, reference = given.astype(np.float64), reference.astype(np.float64)
    same = (given == reference) | (np.isnan(given) & np.isnan(reference))
    if same.all():
        return 0.0
    scale = float(np.abs(reference).max(initial=0.0, where=np.isfinite(reference))) or 1.0
    difference = float(np.abs(given[~same] - reference[~same]).max()) / scale
    return math.inf if math.isnan(difference) else difference
