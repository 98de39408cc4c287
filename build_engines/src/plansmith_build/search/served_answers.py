"""Whether a model that a Triton serves answers as it was judged."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.portable.comparison import compare
from plansmith_build.search.targets import Precision
from plansmith_build.serving import as_served
from plansmith_client.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.search.candidates import Candidate
    from plansmith_build.serving import Entry
    from plansmith_client import Client, InferResult

__all__ = ["Exchange", "as_bytes", "problem_with_answers", "problem_with_sequences"]

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
    Precision.W4: 5e-2,
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
        requests: Sequence[Arrays],
        random_outputs: frozenset[str] = frozenset(),
        rows: int | None = None,
    ) -> tuple[Exchange, ...]:
        """What a candidate answered in this process to each of the requests that it was timed with."""
        rounding = _ROUNDING[candidate.pairing.precision]
        exchanges = []
        for pair in zip(requests, candidate.answers, strict=True):
            request, answer = ({name: array[:rows] if rows else array for name, array in each.items()} for each in pair)
            # One whole number may fall the other way where two classes are nearly tied.
            noise = {
                name: max(rounding, 1 / max(array.size, 1)) if rounding and array.dtype.kind not in "fV" else rounding
                for name, array in answer.items()
            }
            exchanges.append(cls(request, answer, random_outputs, noise))
        return tuple(exchanges)


def problem_with_answers(client: Client, name: str, entry: Entry, exchanges: Sequence[Exchange]) -> str:
    """Why a model that is loaded does not answer as expected, or an empty string."""
    return _problem(client.model(name).infer, entry, exchanges)


def problem_with_sequences(client: Client, name: str, entry: Entry, sequences: Sequence[Sequence[Exchange]]) -> str:
    """The same for a model that keeps state: all sequences are open at once, and ask in turn."""
    model = client.model(name)
    with ExitStack() as stack:
        opened = [stack.enter_context(model.sequence()) for _ in sequences]
        problem = ""
        for number, exchanges in enumerate(zip(*sequences, strict=True), start=1):
            for sequence, exchange in zip(opened, exchanges, strict=True):
                ask = sequence.end if number == len(sequences[0]) else sequence
                found = _problem(partial(_step, ask), entry, [exchange])
                problem = problem or found
    return problem


def _step(ask: Callable[..., InferResult], arrays: Arrays) -> InferResult:
    return ask(**arrays)


def _problem(ask: Callable[[Arrays], InferResult], entry: Entry, exchanges: Sequence[Exchange]) -> str:
    for exchange in exchanges:
        try:
            result = ask(as_served(exchange.request, entry.config.input))
        except ClientError as error:
            return f"it loads the model and does not answer: {error}"
        given = {output: as_bytes(result[output]) for output in exchange.answer}
        expected = {output: as_bytes(array) for output, array in exchange.answer.items()}
        compared = compare(
            as_served(expected, entry.config.output), given, ignore=exchange.random_outputs, noise=exchange.noise
        )
        wrong = next((comparison for comparison in compared if not comparison.passed), None)
        if wrong is not None:
            return f"it loads the model and answers otherwise: {wrong.complaint()}"
    return ""


def as_bytes(array: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    """Text as the protocol has it."""
    if array.dtype.kind != "O":
        return array
    encoded = np.empty(array.shape, dtype=object)
    encoded.reshape(-1)[:] = [text.encode() if isinstance(text, str) else text for text in array.reshape(-1)]
    return encoded
