"""Whether a model that a Triton serves answers as it was judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.portable.comparison import compare
from plansmith_build.search.targets import Precision
from plansmith_build.serving import as_served
from plansmith_client.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.search.candidates import Candidate
    from plansmith_build.serving import Entry
    from plansmith_client import Client

__all__ = ["Exchange", "problem_with_answers"]

# Threads and batches of another size change the order of sums, and what is computed in few bits then rounds otherwise.
_ROUNDING = {
    Precision.FP32: 0.0,
    Precision.FP16: 1e-2,
    Precision.BF16: 5e-2,
    Precision.INT8: 5e-2,
    Precision.INT8_FP16: 5e-2,
    Precision.W8A16: 1e-2,
    Precision.W4A16: 1e-2,
    Precision.FP8: 5e-2,
}


@dataclass(frozen=True)
class Exchange:
    """A request and the answer that is expected.

    Attributes:
        request: as the graph takes it.
        answer: as the graph gives it.
        random_outputs: the outputs whose values are not compared.
        noise: what each output may differ by, relative to its greatest magnitude, beside what its type allows.
    """

    request: Arrays
    answer: Arrays
    random_outputs: frozenset[str] = frozenset()
    noise: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_candidate(
        cls,
        candidate: Candidate,
        request: Arrays,
        random_outputs: frozenset[str] = frozenset(),
        rows: int | None = None,
    ) -> Exchange:
        """What a candidate answered in this process to the request that it was timed with.

        Args:
            candidate: one that has an answer.
            request: that request.
            random_outputs: as the attribute.
            rows: only the first few of a batch; None for all.
        """
        answer = {name: array[:rows] if rows else array for name, array in (candidate.answer or {}).items()}
        rounding = _ROUNDING[candidate.pairing.precision]
        # One whole number may fall the other way where two classes are nearly tied.
        noise = {
            name: max(rounding, 1 / max(array.size, 1)) if rounding and array.dtype.kind not in "fV" else rounding
            for name, array in answer.items()
        }
        request = {name: array[:rows] if rows else array for name, array in request.items()}
        return cls(request, answer, random_outputs, noise)


def problem_with_answers(client: Client, name: str, entry: Entry, exchanges: Sequence[Exchange]) -> str:
    """Why a model that is loaded does not answer as expected, or an empty string."""
    model = client.model(name)
    for exchange in exchanges:
        try:
            result = model.infer(as_served(exchange.request, entry.config.input))
        except ClientError as error:
            return f"it loads the model and does not answer: {error}"
        given = {output: _as_bytes(result[output]) for output in exchange.answer}
        expected = {output: _as_bytes(array) for output, array in exchange.answer.items()}
        compared = compare(
            as_served(expected, entry.config.output), given, ignore=exchange.random_outputs, noise=exchange.noise
        )
        wrong = next((comparison for comparison in compared if not comparison.passed), None)
        if wrong is not None:
            return f"it loads the model and answers otherwise: {wrong.complaint()}"
    return ""


def _as_bytes(array: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    """Text as the protocol has it."""
    if array.dtype.kind != "O":
        return array
    encoded = np.empty(array.shape, dtype=object)
    encoded.reshape(-1)[:] = [text.encode() if isinstance(text, str) else text for text in array.reshape(-1)]
    return encoded
