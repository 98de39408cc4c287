"""Scoring inside Spark, Dask and Ray: what their adapters (`plansmith_client.spark`, `.dask`, `.ray`) share.

An engine pickles a `BulkScorer` and calls it in its workers. Each worker process keeps one client, which it opens at
its first batch. A batch is scored whole or fails, so an engine that runs it again elsewhere neither loses nor doubles
rows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client.calling.retries import RetryPolicy
from plansmith_client.errors import InvalidInput, ModelNotReady, ServerUnavailable
from plansmith_client.faces.client import Client
from plansmith_client.inputs.conversion import UnfitValueError, array_from_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeVar

    from plansmith_client.faces.model import Model
    from plansmith_client.protocol.metadata import ModelMetadata
    from plansmith_client.tensors import TensorSpec

    Answer = TypeVar("Answer")

__all__ = ["BulkScorer"]

_LOOK_AGAIN_SECONDS = 0.5
_SHORTEST_SECONDS = 0.001


@dataclass(frozen=True)
class BulkScorer:
    """Scores batches of columns with a model, in any process that it is sent to.

    Attributes:
        url: of the server, or of several, as `Client` takes it; the workers have to reach it.
        model: the model's name; its first dimension is the rows.
        columns: for an input by name, the column that it is read from, or the columns that are its features. An input
            that is not named here has a column of its own name.
        outputs: the outputs to add as columns; by default all.
        concurrency: requests in flight of each worker process.
        patience: seconds that a batch may wait for a server that is away or overloaded.
        options: other arguments of `Client`, such as `token` or `ca_file`. A function as `token` has to be one that
            the workers can import.

    Raises:
        InvalidInput: when it scores: a column is missing or holds a value that its input cannot hold, `columns` names
            what is not an input, an output has the name of a column, or a row is refused.
        ClientError: when it scores: the server was away for longer than `patience`.

    Example:
        ```python
        BulkScorer("triton:8001", "digits", columns={"image": "pixels"})
        ```
    """

    url: str | Sequence[str]
    model: str
    columns: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    outputs: Sequence[str] | None = None
    concurrency: int = 4
    patience: float = 300.0
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        """The model's outputs for a batch of columns, each with as many rows: a dict of arrays, or a data frame.

        An output with one number in a row, as the model declares it, has the shape [rows].
        """
        return {
            spec.name: _flat(spec, array) for spec, array in self._patiently(lambda model: self._scored(model, batch))
        }

    def with_outputs(self, frame: Any) -> Any:
        """A pandas data frame with the outputs as further columns: numbers, or a nested list for each row."""
        outputs = self(frame)
        return frame.assign(**{name: array if array.ndim == 1 else array.tolist() for name, array in outputs.items()})

    def output_specs(self) -> tuple[TensorSpec, ...]:
        """The outputs that become columns, asked of the server."""
        return self._patiently(lambda model: self._specs(model.metadata))

    def _patiently(self, ask: Callable[[Model], Answer]) -> Answer:
        """What the model answers within `patience`."""
        url = self.url if isinstance(self.url, str) else tuple(self.url)
        client = _client(url, self.patience, _Options(self.options))
        end = time.monotonic() + self.patience
        while True:
            left = max(end - time.monotonic(), _SHORTEST_SECONDS)
            try:
                return ask(client.with_options(timeout=min(left, self.options.get("timeout", left))).model(self.model))
            except (ModelNotReady, ServerUnavailable):
                # A server unloads its models before it closes its connections, and loads them after it opened them;
                # one that this process has not met yet may be about to start.
                if time.monotonic() + _LOOK_AGAIN_SECONDS >= end:
                    raise
                time.sleep(_LOOK_AGAIN_SECONDS)

    def _scored(self, model: Model, batch: Mapping[str, Any]) -> list[tuple[TensorSpec, np.ndarray[Any, Any]]]:
        metadata = model.metadata
        known = [spec.name for spec in metadata.inputs]
        if unknown := [name for name in self.columns if name not in known]:
            raise InvalidInput(f"columns: the model has no input {unknown[0]!r}: it has {', '.join(known)}")
        inputs = {spec.name: self._input(spec, batch) for spec in metadata.inputs if self._has(spec, batch)}
        wanted = self._specs(metadata)
        if taken := sorted(spec.name for spec in wanted if spec.name in batch):
            raise InvalidInput(f"{', '.join(taken)}: the model's output has the name of a column: rename the column")
        if {len(array) for array in inputs.values()} == {0}:
            return [
                (spec, np.empty((0, *(max(dim, 0) for dim in spec.shape[1:])), spec.numpy_dtype)) for spec in wanted
            ]
        result = model.map(inputs, concurrency=self.concurrency, outputs=[spec.name for spec in wanted]).collect()
        return [(spec, result[spec.name]) for spec in wanted]

    def _specs(self, metadata: ModelMetadata) -> tuple[TensorSpec, ...]:
        by_name = {spec.name: spec for spec in metadata.outputs}
        if unknown := [name for name in self.outputs or () if name not in by_name]:
            raise InvalidInput(f"the model has no output {unknown[0]!r}: it has {', '.join(by_name)}")
        return tuple(by_name[name] for name in self.outputs or by_name)

    def _has(self, spec: TensorSpec, batch: Mapping[str, Any]) -> bool:
        return not spec.optional or spec.name in self.columns or spec.name in batch

    def _input(self, spec: TensorSpec, batch: Mapping[str, Any]) -> np.ndarray[Any, Any]:
        source = self.columns.get(spec.name, spec.name)
        names = [source] if isinstance(source, str) else list(source)
        if missing := [name for name in names if name not in batch]:
            raise InvalidInput(
                f"there is no column {missing[0]!r} for the input {spec.name!r}: name its column, or those of its "
                f"features, as columns={{{spec.name!r}: ...}}; there are {', '.join(map(str, batch))}"
            )
        columns = [
            _column(name, batch[name], spec, len(spec.shape) if isinstance(source, str) else 1) for name in names
        ]
        if isinstance(source, str):
            return columns[0]
        try:
            return np.column_stack(columns)
        except ValueError as error:
            raise InvalidInput(f"the columns {', '.join(names)} for the input {spec.name!r}: {error}") from error


class _Options(dict[str, Any]):
    """Options of a client, told apart by what they hold, which is not shown."""

    __repr__ = object.__repr__

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(sorted((name, repr(value)) for name, value in self.items())))


@lru_cache(maxsize=8)
def _client(url: str | tuple[str, ...], patience: float, options: _Options) -> Client:
    """The one client of this process for a server."""
    retries = RetryPolicy(restart=patience)
    return Client(url if isinstance(url, str) else list(url), **{"timeout": patience, "retries": retries, **options})


def _column(name: str, values: Any, spec: TensorSpec, rank: int) -> np.ndarray[Any, Any]:
    """A column as the input, or a feature of it, without a change of any value but the rounding of floats."""
    try:
        array = np.asarray(values)
        if array.ndim == 0:
            raise UnfitValueError("is a single value, and no column")
        if array.ndim == 1 and rank > 1 and len(array):
            # Cells of a data frame: a single number each, or nested lists or arrays.
            is_single = spec.shape[1:] == (1,) and np.ndim(array[0]) == 0
            array = array[:, np.newaxis] if is_single else np.stack([_stacked(cell, rank - 1) for cell in array])
        return array_from_value(array, spec.datatype, cast=True)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the column {name!r} for the input {spec.name!r}: {error}") from error


def _stacked(cell: Any, rank: int) -> np.ndarray[Any, Any]:
    array = np.asarray(cell)
    return (
        array if array.ndim == rank or array.dtype != object else np.stack([_stacked(part, rank - 1) for part in cell])
    )


def _flat(spec: TensorSpec, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    # By what is declared, as the types of columns are: what one batch answers may happen to have one number a row.
    return array[:, 0] if spec.shape[1:] in ((), (1,)) and array.ndim > 1 else array
