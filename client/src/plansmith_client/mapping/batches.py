"""The requests of `map`: the items of a source, in batches."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client.calling.model_core import InferOptions, ModelCore
from plansmith_client.errors import ClientError, InvalidInput
from plansmith_client.inputs.conversion import UnfitValueError, host_array
from plansmith_client.inputs.validation import bind_inputs, check_flag, has_free_rows, is_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from plansmith_client.protocol.metadata import ModelMetadata
    from plansmith_client.protocol.operations import Infer

__all__ = ["Batch", "MapOptions", "items_are_rows", "make_batcher"]

# Larger requests are no faster and take memory at both ends.
_LARGEST_REQUEST = 8 * 2**20
# Rows in a request to a model that takes any number and names no largest batch.
_UNDECLARED_BATCH = 32
# An item waits for others of its shape while so many batches of items come after it.
_WAITING_BATCHES = 4

_RowShapes = tuple[tuple[str, str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class MapOptions:
    """How `Model.map` works; its arguments."""

    batch_size: int | str
    concurrency: int
    ordered: bool
    progress: bool | Callable[[int, int | None], None]
    outputs: tuple[str, ...] | None
    timeout: float
    skip: int | Collection[int]

    def __post_init__(self) -> None:
        is_auto = isinstance(self.batch_size, str) and self.batch_size == "auto"
        if not is_auto and not _is_count(self.batch_size):
            raise InvalidInput(f"batch_size={self.batch_size!r} is neither 'auto' nor a number of items from 1")
        if not _is_count(self.concurrency):
            raise InvalidInput(f"concurrency={self.concurrency!r} is not a number of requests from 1")
        check_flag("ordered", self.ordered)
        if not callable(self.progress):
            check_flag("progress, unless it is a function,", self.progress)
        if is_whole(self.skip) and self.skip >= 0:  # type: ignore[operator]
            return
        if isinstance(self.skip, (bool, int, float, str, bytes)) or not isinstance(self.skip, Collection):
            raise InvalidInput(
                f"skip must be a number of items from 0, or a collection of their indices, got {self.skip!r}"
            )
        if getattr(self.skip, "shape", None) == () or not all(is_whole(index) for index in self.skip):
            raise InvalidInput("skip must hold the indices of items, and holds something that is not a whole number")
        # Asked once for each item: of a list that would take the square of its length.
        object.__setattr__(self, "skip", frozenset(self.skip))

    def skips(self, index: int) -> bool:
        """Whether an item has been done by an earlier run."""
        return index < self.skip if isinstance(self.skip, int) else index in self.skip


def _is_count(value: object) -> bool:
    return isinstance(value, int) and is_whole(value) and value >= 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Items of one request.

    Attributes:
        indices: of the items.
        request: of them, or the error of an item that is not valid.
        check: makes the request that was refused by other metadata.
    """

    indices: tuple[int, ...] | range
    request: Infer | ClientError
    check: Callable[[ModelMetadata], Infer] | None = None


def make_batcher(
    core: ModelCore, metadata: ModelMetadata, source: Any, options: MapOptions
) -> tuple[Callable[..., Iterator[Batch]], Iterable[Any], int | None]:
    """A function that makes batches of parts of the source, those parts, and the number of items if known.

    An array, or arrays by name, is cut into slices. Anything else is gone through item by item, and items of one shape
    share batches; with `more=True` the function keeps those that are waiting for the next call.

    Raises:
        InvalidInput: arrays of different lengths, or a batch size that the model does not take.
    """
    largest = metadata.max_batch_size or 0
    if not largest and options.batch_size not in ("auto", 1) and not has_free_rows(metadata):
        raise InvalidInput(
            f"Model {core.name!r}: the model does not batch and has inputs with a fixed first dimension: each item "
            "is one request, leave out batch_size="
        )
    if largest and isinstance(options.batch_size, int) and options.batch_size > largest:
        raise InvalidInput(f"Model {core.name!r}: batch_size={options.batch_size} is above max_batch_size {largest}")
    rows = items_are_rows(metadata, source, options)
    arrays = _arrays(metadata, source) if rows or isinstance(source, Mapping) else None
    if arrays is not None and rows:
        count = _rows(core, arrays)
        row_bytes = sum(array.nbytes for array in arrays.values()) // max(count, 1)
        runs = _runs(count, _batch_size(options, largest or _UNDECLARED_BATCH, row_bytes), options)
        return (lambda parts: _from_arrays(core, metadata, arrays, parts, options)), runs, count
    if arrays is not None:
        source = [{name: array[row] for name, array in arrays.items()} for row in range(_rows(core, arrays))]
    if not hasattr(source, "__iter__") or getattr(source, "shape", None) == ():
        raise InvalidInput(f"Model {core.name!r}: map needs an array or an iterable of items, got {source!r}")
    return _Gathering(core, metadata, options, rows=rows), enumerate(source), _length(source)


def _length(source: Any) -> int | None:
    try:
        return len(source)
    except (TypeError, NotImplementedError, OverflowError):
        # Also of a loader over a data set that has none.
        return None


def _rows(core: ModelCore, arrays: Mapping[str, np.ndarray[Any, Any]]) -> int:
    lengths = {name: len(array) if array.ndim else None for name, array in arrays.items()}
    rows = next(iter(lengths.values()), None)
    if rows is None or len(set(lengths.values())) != 1:
        raise InvalidInput(f"Model {core.name!r}: the arrays have different numbers of rows: {lengths}")
    return rows


def items_are_rows(metadata: ModelMetadata, source: Any, options: MapOptions) -> bool:
    """Whether items are rows that may share a request, rather than whole requests.

    Of a model that does not say that it batches, they are where the first dimension is free and `batch_size` or an
    array with the dimensions of the input says so.
    """
    if metadata.max_batch_size:
        return True
    if not has_free_rows(metadata):
        return False
    if isinstance(options.batch_size, int):
        return True
    if not metadata.inputs:
        # Arrays by name are cut, as those of any model.
        return isinstance(source, Mapping)
    arrays = _arrays(metadata, source) or {}
    ranks = {spec.name: len(spec.shape) for spec in metadata.inputs}
    return bool(arrays) and all(array.ndim == ranks.get(name) for name, array in arrays.items())


def _arrays(metadata: ModelMetadata, source: Any) -> dict[str, np.ndarray[Any, Any]] | None:
    ranks = {spec.name: len(spec.shape) for spec in metadata.inputs}
    if ranks and _column_names(source) == sorted(ranks):
        # A data frame with a column for each input.
        columns = {name: _host_array(metadata, source[name]) for name in ranks}
        return {name: column.reshape(len(column), *[1] * (ranks[name] - 1)) for name, column in columns.items()}
    if isinstance(source, Mapping):
        return {name: _host_array(metadata, value) for name, value in source.items()}
    if not isinstance(source, np.ndarray) and (hasattr(source, "__array__") or hasattr(source, "__dlpack__")):
        # Tensors and other data frames: iterating over a frame would give the names of its columns.
        source = _host_array(metadata, source)
    if isinstance(source, np.ndarray) and source.ndim:
        bound = bind_inputs(metadata, (source,), {})
        return {name: np.asarray(value) for name, value in bound.items()}
    return None


def _column_names(source: Any) -> list[str]:
    columns = getattr(source, "columns", ())
    # Others have a method of that name, or the columns themselves.
    names = list(columns) if isinstance(columns, Iterable) else []
    return sorted(names) if all(isinstance(name, str) for name in names) else []


def _host_array(metadata: ModelMetadata, value: Any) -> np.ndarray[Any, Any]:
    try:
        return host_array(value)
    except UnfitValueError as error:
        raise InvalidInput(f"Model {metadata.name!r}: the source of map {error}") from error


def _batch_size(options: MapOptions, largest: int, row_bytes: int) -> int:
    if isinstance(options.batch_size, int):
        return options.batch_size
    return max(1, min(largest, _LARGEST_REQUEST // max(row_bytes, 1)))


def _runs(total: int, size: int, options: MapOptions) -> Iterator[range]:
    """The rows to do, in runs of at most `size` rows, without those to skip."""
    first = min(options.skip, total) if isinstance(options.skip, int) else 0
    while first < total:
        last = min(first + size, total)
        if not isinstance(options.skip, int) and options.skip:
            done = next((index for index in range(first, last) if options.skips(index)), last)
            if done > first:
                yield range(first, done)
            first = done + (done < last)
            continue
        yield range(first, last)
        first = last


def _from_arrays(
    core: ModelCore,
    metadata: ModelMetadata,
    arrays: Mapping[str, np.ndarray[Any, Any]],
    runs: Iterable[range],
    options: MapOptions,
) -> Iterator[Batch]:
    wanted = InferOptions(outputs=options.outputs)
    for run in runs:
        inputs = {name: array[run.start : run.stop] for name, array in arrays.items()}
        check = partial(core.request, inputs=inputs, options=wanted)
        try:
            request = check(metadata)
        except InvalidInput as error:
            if _are_wrong_alike(core, metadata, inputs):
                yield Batch(run, error, check)
            else:
                yield from _one_by_one(core, metadata, run, inputs, wanted)
        else:
            yield Batch(run, request)


def _are_wrong_alike(core: ModelCore, metadata: ModelMetadata, inputs: Mapping[str, np.ndarray[Any, Any]]) -> bool:
    """Whether rows are refused for their shape or dtype; of objects, strings and rounded floats single ones may be."""
    rounds = core.cast or any(spec.datatype == "BF16" for spec in metadata.inputs)
    return not rounds and all(array.dtype.kind in "biufc" for array in inputs.values())


def _one_by_one(
    core: ModelCore,
    metadata: ModelMetadata,
    run: range,
    inputs: Mapping[str, np.ndarray[Any, Any]],
    wanted: InferOptions,
) -> Iterator[Batch]:
    for row, index in enumerate(run):
        alone = {name: array[row : row + 1] for name, array in inputs.items()}
        check = partial(core.request, inputs=alone, options=wanted)
        try:
            request: Infer | ClientError = check(metadata)
        except InvalidInput as error:
            request = error
        yield Batch((index,), request, check)


class _Gathering:
    """Items in batches of one shape."""

    def __init__(self, core: ModelCore, metadata: ModelMetadata, options: MapOptions, *, rows: bool) -> None:
        self._core = core
        self._metadata = metadata
        self._options = options
        self._rows = rows
        # By the datatypes and shapes of a row; the longest waiting first.
        self._waiting: dict[_RowShapes, list[tuple[int, Infer]]] = {}
        self._bytes = 0

    def __call__(self, items: Iterable[tuple[int, Any]], *, more: bool = False) -> Iterator[Batch]:
        for index, item in items:
            if not self._options.skips(index):
                yield from self._add(index, item)
            yield from self._overdue(index)
        while self._waiting and not more:
            yield self._taken(next(iter(self._waiting)))

    def _add(self, index: int, item: Any) -> Iterator[Batch]:
        check = partial(_item_request, self._core, item, InferOptions(outputs=self._options.outputs), self._rows)
        try:
            request = check(self._metadata)
        except InvalidInput as error:
            yield Batch((index,), error, check)
            return
        if not self._rows:
            yield Batch((index,), request)
            return
        shapes = tuple((tensor.name, tensor.datatype, tensor.array.shape[1:]) for tensor in request.inputs)
        alike = self._waiting.setdefault(shapes, [])
        alike.append((index, request))
        self._bytes += _bytes_of(request)
        if len(alike) >= self._size(request):
            yield self._taken(shapes)

    def _overdue(self, index: int) -> Iterator[Batch]:
        """What has waited for long enough, whatever the items since were, and what would take too much memory."""
        most = _WAITING_BATCHES * _LARGEST_REQUEST if self._options.batch_size == "auto" else math.inf
        while self._waiting:
            shapes, alike = next(iter(self._waiting.items()))
            first, request = alike[0]
            if index - first < self._size(request) * _WAITING_BATCHES and self._bytes <= most:
                return
            yield self._taken(shapes)

    def _size(self, request: Infer) -> int:
        return _batch_size(self._options, self._metadata.max_batch_size or _UNDECLARED_BATCH, _bytes_of(request))

    def _taken(self, shapes: _RowShapes) -> Batch:
        alike = self._waiting.pop(shapes)
        self._bytes -= sum(_bytes_of(request) for _, request in alike)
        return _joined(alike)


def _bytes_of(request: Infer) -> int:
    return sum(tensor.array.nbytes for tensor in request.inputs)


def _item_request(core: ModelCore, item: Any, wanted: InferOptions, batches: bool, metadata: ModelMetadata) -> Infer:  # noqa: FBT001
    if isinstance(item, Mapping):
        named = dict(item)
    else:
        named = bind_inputs(metadata, item if isinstance(item, tuple) else (item,), {})
    if batches:
        named = {name: _as_row(metadata, value) for name, value in named.items()}
    return core.request(metadata, named, wanted)


def _as_row(metadata: ModelMetadata, value: Any) -> Any:
    # Not `value[None]`: to a column of a data frame that is a label.
    return _host_array(metadata, value)[np.newaxis] if hasattr(value, "dtype") else [value]


def _joined(waiting: list[tuple[int, Infer]]) -> Batch:
    requests = [request for _, request in waiting]
    tensors = tuple(
        tensor._replace(array=np.concatenate([request.inputs[place].array for request in requests]))
        for place, tensor in enumerate(requests[0].inputs)
    )
    return Batch(tuple(index for index, _ in waiting), replace(requests[0], inputs=tensors))
