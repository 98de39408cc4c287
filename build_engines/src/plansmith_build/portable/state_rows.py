"""The rows of states put in front, as a server joins requests, and proven to change nothing."""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import onnx

from plansmith_build.engines.onnxruntime import RunFailed, Session
from plansmith_build.errors import VerificationFailed
from plansmith_build.portable.comparison import compare
from plansmith_build.reading.graphs import free_name, rename_input
from plansmith_build.reading.loading import load_onnx
from plansmith_build.reading.networks import write_network
from plansmith_build.reading.signatures import signature_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from plansmith_build.portable.reference import Reference
    from plansmith_build.portable.sequence_states import State
    from plansmith_build.reading.loading import OnnxFile

__all__ = ["rows_in_front", "verify_rows_in_front"]


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
def rows_in_front(file: OnnxFile, states: Sequence[State], folder: Path) -> Iterator[OnnxFile]:
    """The file with the rows of each state in its first dimension, as a server joins requests.

    It is a file of its own, which is gone when the context ends; the same file where there is nothing to move.

    Raises:
        OSError: the disk did not take it.
    """
    moved = [state for state in states if state.moved]
    if not moved:
        yield file
        return
    model = deepcopy(file.network.model)
    for state in moved:
        _move(model, state)
    with TemporaryDirectory(prefix="rows-in-front-", dir=folder) as own:
        path = Path(own) / file.path.name
        write_network(file.network.with_model(model), path)
        yield load_onnx(path)


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
