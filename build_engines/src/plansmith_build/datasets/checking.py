"""From what a source gives to a data set that fits the model."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_build.datasets.dataset import Dataset
from plansmith_build.datasets.errors import InvalidData
from plansmith_build.datasets.labelling import check_labels
from plansmith_build.datasets.layout import listed
from plansmith_build.datasets.ragged import Array, Indexes, is_ragged, ragged
from plansmith_build.datasets.raw_data import check_memory, random_rows
from plansmith_build.reading.shapes import fits
from plansmith_client.inputs.conversion import UnfitValueError, array_from_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plansmith_build.datasets.layout import Layout
    from plansmith_build.datasets.raw_data import RawData
    from plansmith_client.tensors import TensorSpec

__all__ = ["check_data"]

_SCAN_BYTES = 16 * 2**20


def check_data(
    raw: RawData,
    layout: Layout,
    *,
    source: str,
    class_names: Sequence[str] | None = None,
    classes: int | None = None,
    max_rows: int | None = None,
    seed: int = 0,
) -> Dataset:
    """The data set, if every input and the labels are as the model wants them.

    Args:
        raw: what the source gave.
        layout: of the data that is wanted.
        source: what the manifest is to call it.
        class_names: in the order of the classes, for labels that are names.
        classes: how many there are, where that is known.
        max_rows: how many rows to choose, at random, where there are more. Only these are read.
        seed: which ones.

    Raises:
        InvalidData: an input is missing or unknown, has another shape or dtype, no rows, or NaN where
            that does not stand for a missing value.
        InvalidLabels: the labels do not fit.
    """
    known = {spec.name for spec in layout.inputs}
    unknown = [name for name in raw.arrays if name not in known]
    missing = [name for name in layout.required if name not in raw.arrays]
    if unknown or missing:
        said = []
        if unknown:
            said.append(f"has {', '.join(map(repr, unknown))}, which the model does not take")
        if missing:
            said.append(f"does not have {', '.join(map(repr, missing))}, which the model needs")
        raise InvalidData(f"{raw.where} {' and '.join(said)}: wanted {listed(layout)}{_labels_hint(unknown)}")
    specs = [spec for spec in layout.inputs if spec.name in raw.arrays]
    inputs = {spec.name: _shaped(raw, layout, spec) for spec in specs}
    (first, rows), *others = ((name, len(array)) for name, array in inputs.items())
    for name, count in others:
        if count != rows:
            raise InvalidData(f"{raw.where}: {first!r} has {rows} rows and {name!r} has {count}; each needs as many")
    if not rows:
        raise InvalidData(f"{raw.where} has no rows: give at least one")
    labels = None
    if raw.labels is not None:
        labels = check_labels(raw.labels, where=raw.where, rows=rows, class_names=class_names, classes=classes)
    chosen = None
    if max_rows is not None and max_rows < rows:
        chosen = random_rows(rows, max_rows, seed)
        labels = None if labels is None else labels[chosen]
    inputs = {spec.name: _values(raw, spec, inputs[spec.name], chosen, layout) for spec in specs}
    sha256 = raw.sha256 if raw.sha256 is not None else _sha256_of_arrays(inputs, labels)
    return Dataset(inputs, labels, source, sha256, raw.kind, layout.batched, raw.class_names)


def _shaped(raw: RawData, layout: Layout, spec: TensorSpec) -> Array:
    given = raw.arrays[spec.name]
    if is_ragged(given):
        return layout.stack(spec, [(f"row {number} of {raw.where}", row) for number, row in enumerate(given)])
    array = layout.grouped(spec, given)
    if not array.ndim or not fits(array.shape[1:], layout.row_shape(spec)):
        raise InvalidData(
            f"{raw.where}, input {spec.name!r}: the array is {given.dtype} {list(given.shape)}, "
            f"wanted {layout.wanted(spec)}{_shape_hint(given, layout, spec)}"
        )
    return array


def _values(raw: RawData, spec: TensorSpec, array: Array, chosen: Indexes | None, layout: Layout) -> Array:
    if chosen is not None:
        array = array[chosen]
    if is_ragged(array):
        numbers = np.arange(len(array)) if chosen is None else chosen
        return ragged(
            _fitted(raw, spec, row[np.newaxis], numbers[place : place + 1], layout)[0]
            for place, row in enumerate(array)
        )
    return _fitted(raw, spec, array, chosen, layout)


def _fitted(raw: RawData, spec: TensorSpec, array: Array, chosen: Indexes | None, layout: Layout) -> Array:
    if array.dtype != spec.numpy_dtype:
        check_memory(
            array.size * spec.numpy_dtype.itemsize,
            f"{raw.where}, input {spec.name!r}, converted to {spec.datatype},",
            f"save it as {spec.datatype}, or use fewer rows",
        )
    try:
        array = array_from_value(array, spec.datatype, cast=True)
    except UnfitValueError as error:
        raise InvalidData(f"{raw.where}, input {spec.name!r}: the array {error}") from error
    _check_finite(raw, spec, array, chosen, with_missing=spec.name in layout.with_missing_values)
    return array


def _check_finite(raw: RawData, spec: TensorSpec, array: Array, chosen: Indexes | None, *, with_missing: bool) -> None:
    if array.dtype.kind != "f" and spec.datatype != "BF16":
        return
    # A part at a time: the array may be a mapped file that is larger than the memory.
    step = max(1, _SCAN_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        part = array[start : start + step]
        usable = ~np.isinf(part) if with_missing else np.isfinite(part)
        if not usable.all():
            row, *element = (int(index) for index in np.argwhere(~usable)[0])
            value = array[(start + row, *element)]
            number = start + row if chosen is None else int(chosen[start + row])
            raise InvalidData(
                f"{raw.where}, input {spec.name!r}: row {number} holds {value}"
                f"{f' at {element}' if element else ''}, which nothing can be calibrated or compared with: "
                "remove or fill in such values"
            )


def _shape_hint(array: Array, layout: Layout, spec: TensorSpec) -> str:
    wanted = layout.row_shape(spec)
    if array.ndim == len(wanted) and fits(array.shape, wanted):
        return ", N of them stacked: for a single one, array[numpy.newaxis]"
    channels = (1, 3, 4)
    rows = array.shape[1:]
    if len(rows) == len(wanted) == 3:  # noqa: PLR2004 - height, width and channels
        if fits((rows[2], rows[0], rows[1]), wanted) and rows[2] in channels:
            return "; these look like images with the channels last: array.transpose(0, 3, 1, 2)"
        if fits((rows[1], rows[2], rows[0]), wanted) and rows[0] in channels:
            return "; these look like images with the channels first: array.transpose(0, 2, 3, 1)"
    if not layout.batched:
        return "; the model has no batch dimension, so whole inputs are stacked"
    return ""


def _labels_hint(unknown: Sequence[str]) -> str:
    return f"; if {unknown[0]!r} are the labels, say so with --labels-key" if len(unknown) == 1 else ""


def _sha256_of_arrays(inputs: dict[str, Array], labels: np.ndarray[Any, Any] | None) -> str:
    digest = hashlib.sha256()
    rows = [(name, row) for name, array in inputs.items() for row in (array if is_ragged(array) else [array])]
    for name, array in [*rows, *([] if labels is None else [("labels", labels)])]:
        digest.update(f"{name} {array.dtype} {list(array.shape)}\n".encode())
        if array.dtype == object:
            for element in array.reshape(-1):
                digest.update(b"%d:%b" % (len(element), element))
        else:
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()
