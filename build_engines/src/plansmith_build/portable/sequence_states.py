"""What a model remembers of a sequence: pairs of an output and the input that takes it at the next step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.errors import InvalidOption
from plansmith_build.reading.shapes import agree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.reading.signatures import Signature
    from plansmith_client.tensors import TensorSpec

__all__ = ["AUTO", "State", "find_states", "initial_state", "without_states"]

AUTO = "auto"


@dataclass(frozen=True)
class State:
    """What one run gives as `output`, the next run of the same sequence takes as `input`; zeros at first.

    Attributes:
        input: name of the input.
        output: name of the output.
        moved: the dimension of the file's state that counts rows, where it is not the first: it was put in front.
    """

    input: str
    output: str
    moved: int = 0

    def __str__(self) -> str:
        return f"{self.output} -> {self.input}" + (f", dimension {self.moved} put in front" if self.moved else "")


def find_states(signature: Signature, wanted: Sequence[str]) -> tuple[State, ...]:
    """The states that `--state` names.

    Args:
        signature: of the file.
        wanted: `INPUT=OUTPUT` each, or `auto` alone: the pairs whose names say so, such as `state` and `stateN`.

    Raises:
        InvalidOption: a name is not that of an input or output, a pair does not fit, or no pair was found.
    """
    inputs = {spec.name: spec for spec in signature.inputs}
    outputs = {spec.name: spec for spec in signature.outputs}
    there = f"inputs are {', '.join(inputs)}, outputs {', '.join(outputs)}"
    if AUTO in wanted and len(wanted) > 1:
        raise InvalidOption("--state auto stands alone: leave it out, or the pairs that are named beside it")
    if AUTO in wanted:
        pairs = [(name, found) for name in inputs if (found := _next_of(name, outputs))]
        if not pairs:
            raise InvalidOption(f"--state auto finds no pair by its names: name it with --state INPUT=OUTPUT; {there}")
    else:
        pairs = [(name, output) for name, _, output in (text.partition("=") for text in wanted)]
    for name, output in pairs:
        if name not in inputs or output not in outputs:
            raise InvalidOption(f"--state {name}={output} names no input and output of the model: {there}")
        if inputs[name].optional:
            raise InvalidOption(
                f"input {name!r} has a default in the file, so it cannot be a state, which begins as zeros"
            )
        _require_fit(inputs[name], outputs[output])
    if len(set(dict(pairs).values())) < len(pairs) or len(pairs) == len(inputs):
        raise InvalidOption(f"--state leaves no input for requests, or names one twice: {there}")
    if len(pairs) == len(outputs):
        raise InvalidOption(f"--state leaves no output for answers: {there}")
    others = [spec for spec in signature.inputs if spec.name not in {name for name, _ in pairs}]
    return tuple(replace(State(*pair), moved=_axis_of_rows(signature, pair[0], others)) for pair in pairs)


def without_states(signature: Signature, states: Sequence[State]) -> Signature:
    """What clients see: the inputs and outputs without the states."""
    hidden = {name for state in states for name in (state.input, state.output)}
    inputs, outputs = (
        tuple(spec for spec in specs if spec.name not in hidden) for specs in (signature.inputs, signature.outputs)
    )
    return replace(signature, inputs=inputs, outputs=outputs)


def initial_state(sample: Arrays, states: Sequence[State]) -> Arrays:
    """Zeros in the shapes that the states have in a sample."""
    return {state.input: np.zeros_like(sample[state.input]) for state in states}


def _next_of(name: str, outputs: dict[str, TensorSpec]) -> str:
    """The one output whose name says that it is the input at the next step, or an empty string."""
    stem = name.removesuffix("0").removesuffix("_in").removesuffix("_")
    names = {f"{stem}{end}" for end in ("N", "n", "_n", "_N", "_out", "_next", "_new", "1")}
    names |= {f"{start}{stem}" for start in ("next_", "new_", "out_")}
    found = [output for output in outputs if output in names]
    return found[0] if len(found) == 1 else ""


def _require_fit(taken: TensorSpec, given: TensorSpec) -> None:
    if taken.datatype == "BYTES":
        raise InvalidOption(f"{taken.name!r} is text, which cannot be a state")
    if taken.datatype != given.datatype or not agree(taken.shape, given.shape):
        raise InvalidOption(
            f"output {given.name!r} ({given}) cannot be the next state of input {taken.name!r} ({taken}): types or "
            "shapes differ"
        )


def _axis_of_rows(signature: Signature, name: str, others: Sequence[TensorSpec]) -> int:
    """The dimension of a state that counts what the first one of other inputs counts; 0 where that is not certain."""
    first = next((spec for spec in others if spec.shape), None)
    if first is None:
        return 0
    shape = next(spec.shape for spec in signature.inputs if spec.name == name)
    named, symbol = signature.symbols.get(name, ()), signature.symbols.get(first.name, ("",))[0]
    axes = [axis for axis, own in enumerate(named) if symbol and own == symbol] or [
        axis for axis, size in enumerate(shape) if size == first.shape[0]
    ]
    return axes[0] if len(axes) == 1 else 0
