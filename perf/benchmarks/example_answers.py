"""What answers behind FastAPI: a framework, the engines that plansmith serves, or all steps of a pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Arrays = dict[str, np.ndarray[Any, Any]]
    Answer = Callable[[bytes, Mapping[str, str]], dict[str, Any]]

__all__ = [
    "SEQUENCE",
    "START",
    "ServedStep",
    "answer_by_hand",
    "answer_streams",
    "answer_with_all_steps",
    "compute_with_engine",
]

# The headers by which callers say whose chunk it is, and whether it is the first.
SEQUENCE, START = "x-sequence-id", "x-sequence-start"


@dataclass(frozen=True)
class ServedStep:
    """A step of a pipeline as plansmith serves it, or the one model.

    Attributes:
        run: from its inputs by name to its outputs.
        inputs: by its own names, those in the pipeline.
        outputs: likewise.
        states: by the input that takes it in a stream's next run, the output; zeros at first.
        is_engine: whether it is a model.
    """

    run: Callable[[Arrays], Arrays]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    states: Mapping[str, str]
    is_engine: bool


def answer_by_hand(
    prepare: Callable[[bytes], Arrays],
    compute: Callable[[Arrays], list[Any]],
    answer: Callable[[list[Any]], dict[str, Any]],
) -> Answer:
    """With steps that somebody has written around what computes."""
    return lambda body, _: answer(compute(prepare(body)))


def compute_with_engine(steps: Sequence[ServedStep]) -> Callable[[Arrays], list[Any]]:
    """By the first model among the steps; a single input is taken whatever its name."""
    engine = next(step for step in steps if step.is_engine)

    def compute(arrays: Arrays) -> list[Any]:
        single = len(engine.inputs) == 1
        return list(engine.run(dict(zip(engine.inputs, arrays.values(), strict=True)) if single else arrays).values())

    return compute


def answer_with_all_steps(first: str, steps: Sequence[ServedStep]) -> Answer:
    """With every step of a pipeline, one after the other in this process.

    Args:
        first: what the pipeline calls what callers send.
        steps: in order.
    """

    def answer(body: bytes, _: Mapping[str, str]) -> dict[str, Any]:
        known: Arrays = {first: np.array([[body]], object)}
        for step in steps:
            made = step.run({own: known[name] for own, name in step.inputs.items()})
            known.update((name, made[own]) for own, name in step.outputs.items())
        labels = known["label"].ravel()
        return {"label": [label.decode() if isinstance(label, bytes) else label for label in labels]}

    return answer


def answer_streams(compute: Callable[[np.ndarray[Any, Any], Any], tuple[Any, Any]], first: Any) -> Answer:
    """Chunk by chunk, each stream with a state of its own.

    Args:
        compute: from a chunk [1, samples] and the state after the chunk before to how probable a voice is, and the
            state after this one.
        first: the state before the first chunk.
    """
    states: dict[str, Any] = {}

    def answer(body: bytes, headers: Mapping[str, str]) -> dict[str, Any]:
        stream = headers[SEQUENCE]
        state = first if headers[START] == "True" else states[stream]
        probable, states[stream] = compute(np.frombuffer(body, np.float32)[np.newaxis], state)
        return {"output": np.ravel(probable).tolist()}

    return answer
