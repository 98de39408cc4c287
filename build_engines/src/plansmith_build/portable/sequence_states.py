"""What a model remembers of a sequence: pairs of an output and the input that takes it at the next step."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import onnx

from plansmith_build.engines.onnxruntime import RunFailed, Session
from plansmith_build.errors import InvalidOption, VerificationFailed
from plansmith_build.portable.comparison import compare
from plansmith_build.reading.graphs import free_name, rename_input
from plansmith_build.reading.loading import load_onnx
from plansmith_build.reading.networks import write_network
from plansmith_build.reading.signatures import signature_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.portable.reference import Reference
    from plansmith_build.reading.loading import OnnxFile
    from plansmith_build.reading.signatures import Signature
    from plansmith_client.tensors import TensorSpec

__all__ = ["AUTO", "State", "find_states", "initial_state", "rows_in_front", "verify_rows_in_front", "without_states"]

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
    if AUTO in wanted:
        pairs = [(name, found) for name in inputs if (found := _next_of(name, outputs))]
        if not pairs:
            raise InvalidOption(f"--state auto finds no pair by its names: name it with --state INPUT=OUTPUT; {there}")
    else:
        pairs = [(name, output) for name, _, output in (text.partition("=") for text in wanted)]
    for name, output in pairs:
        if name not in inputs or output not in outputs:
            raise InvalidOption(f"--state {name}={output} names no input and output of the model: {there}")
        _require_fit(inputs[name], outputs[output])
    if len(set(dict(pairs).values())) < len(pairs) or len(pairs) == len(inputs):
        raise InvalidOption(f"--state leaves no input for requests, or names one twice: {there}")
    others = [spec for spec in signature.inputs if spec.name not in {name for name, _ in pairs}]
    return tuple(replace(State(*pair), moved=_axis_of_rows(signature, pair[0], others)) for pair in pairs)


def without_states(signature: Signature, states: Sequence[State]) -> Signature:
    """What clients see: the inputs and outputs that are no states."""
    hidden = {name for state in states for name in (state.input, state.output)}
    inputs, outputs = (
        tuple(spec for spec in specs if spec.name not in hidden) for specs in (signature.inputs, signature.outputs)
    )
    return replace(signature, inputs=inputs, outputs=outputs)


def initial_state(sample: Arrays, states: Sequence[State]) -> Arrays:
    """Zeros in the shapes that the states have in a sample."""
    return {state.input: np.zeros_like(sample[state.input]) for state in states}


def verify_rows_in_front(original: OnnxFile, reference: Reference, states: Sequence[State]) -> None:
    """Ask the file as it came, its states as it has them, what the changed one was asked.

    Raises:
        VerificationFailed: it answers otherwise.
    """
    if not any(state.moved for state in states):
        return
    sample, moved = dict(reference.samples[0]), {}
    for state in states:
        sample[state.input] = np.moveaxis(sample[state.input], 0, state.moved)
        moved[state.output] = state.moved
    try:
        session = Session(original.path, signature_of(original.network.model), optimized=False)
        answer = session.run(sample)
    except RunFailed as error:
        raise VerificationFailed(f"the file does not run with its states as it has them: {error}") from error
    answer.update({name: np.moveaxis(answer[name], axis, 0) for name, axis in moved.items() if axis})
    for output in compare(reference.answers[0], answer, ignore=reference.random_outputs, noise=reference.noise):
        if not output.passed:
            raise VerificationFailed(
                f"with the rows of its states in front the model answers otherwise: {output.complaint()}"
            )


@contextmanager
def rows_in_front(file: OnnxFile, states: Sequence[State]) -> Iterator[OnnxFile]:
    """The file with the rows of each state in its first dimension, as a server joins requests.

    It is a file of its own, which is gone when the context ends; the same file where there is nothing to move.
    """
    moved = [state for state in states if state.moved]
    if not moved:
        yield file
        return
    model = onnx.ModelProto()
    model.CopyFrom(file.network.model)
    for state in moved:
        _move(model, state)
    with TemporaryDirectory(prefix="plansmith-") as folder:
        path = Path(folder) / file.path.name
        write_network(file.network.with_model(model), path)
        yield load_onnx(path)


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
    fits = len(taken.shape) == len(given.shape) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(taken.shape, given.shape, strict=True)
    )
    if taken.datatype != given.datatype or not fits:
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


def _move(model: onnx.ModelProto, state: State) -> None:
    """Have the graph take and give a state with dimension `moved` in front, in place."""
    graph = model.graph
    (value,) = (value for value in graph.input if value.name == state.input)
    order = list(range(len(value.type.tensor_type.shape.dim)))
    order.insert(0, order.pop(state.moved))
    inner = {name: free_name(model, f"{name}__as_exported") for name in (state.input, state.output)}
    for node in graph.node:
        node.output[:] = [inner.get(name, name) if name == state.output else name for name in node.output]
        for name, new in inner.items():
            rename_input(node, name, new)
    back = [order.index(axis) for axis in range(len(order))]
    before = onnx.helper.make_node("Transpose", [state.input], [inner[state.input]], perm=back)
    behind = onnx.helper.make_node("Transpose", [inner[state.output]], [state.output], perm=order)
    graph.node.insert(0, before)
    graph.node.append(behind)
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name in inner and len(dims) == len(order):
            sizes = [onnx.TensorShapeProto.Dimension() for _ in order]
            for size, axis in zip(sizes, order, strict=True):
                size.CopyFrom(dims[axis])
            del dims[:]
            dims.extend(sizes)
