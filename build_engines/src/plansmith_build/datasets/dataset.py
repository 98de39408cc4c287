"""Rows of data for a model's inputs, checked, and where they came from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, overload

import numpy as np

from plansmith_build.datasets.ragged import Array, Indexes, is_ragged, row_shapes, stacked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plansmith_build.engines.onnxruntime import Arrays

__all__ = ["Batches", "Dataset", "Kind"]

Kind = Literal["npz", "npy", "npy folder", "images", "callable", "random"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Data for a model: N rows for each of its inputs.

    Attributes:
        inputs: for each input by name an array [N, ...] of the input's own dtype, without infinities, and
            without NaN unless it stands for a missing value; BYTES as
            objects of type `bytes`. What follows N is the shape of a row where `batched`, and else the whole shape of
            the input: N samples are stacked. Where rows differ in shape, an array of N arrays: see `ragged`. An
            optional input is there where data was given for it. The arrays may be read-only views of a file.
        labels: the class of each row, int64 [N] from 0 up, or None.
        source: what the manifest calls it: `"calibration.npz"`, `"data:load"`, `"random"`.
        sha256: of a file, as sha256sum gives it; of a folder, of the lines that sha256sum gives for its files in the
            order in which they were read; of the arrays themselves where there is no file. A part of a dataset keeps
            that of the whole.
        kind: where it came from.
        class_names: the classes by number, where the source names them; else empty.
        batched: whether N is the model's own first dimension, so that a batch of any size can be cut from it.
    """

    inputs: Mapping[str, Array]
    labels: Indexes | None
    source: str
    sha256: str
    kind: Kind
    batched: bool
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def alike(self) -> list[Indexes]:
        """The indexes of the rows of one shape together, small rows first."""
        if not any(map(is_ragged, self.inputs.values())):
            return [np.arange(len(self))]
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for row, shapes in enumerate(zip(*map(row_shapes, self.inputs.values()), strict=True)):
            groups.setdefault(shapes, []).append(row)
        return [np.array(groups[shapes]) for shapes in sorted(groups, key=lambda each: sum(map(math.prod, each)))]

    def take(self, indexes: Sequence[int] | Indexes) -> Dataset:
        """The rows with these indexes, in this order, copied; everything else stays."""
        chosen = np.asarray(indexes, dtype=np.int64)
        return replace(
            self,
            inputs={name: array[chosen] for name, array in self.inputs.items()},
            labels=None if self.labels is None else self.labels[chosen],
        )

    def batches(self, size: int) -> Batches:
        """What the model is to be run with, one run after the other; see `Batches`.

        Raises:
            ValueError: the size is below 1.
        """
        return Batches(self, size)


class Batches(Sequence["Arrays"]):
    """A dataset cut into runs of the model, each cut when it is asked for.

    Where the data is `batched`, a run has `size` rows of one shape, the last one of each shape what is left. Where it
    is not, a run is one sample in the model's own shape, whatever the size.

    Attributes:
        order: the row of the data for each row of the runs, one run after the other. Where rows differ in shape, the
            shapes take turns, so that the first runs have seen several.
    """

    def __init__(self, dataset: Dataset, size: int) -> None:
        if size < 1:
            raise ValueError(f"a batch must have at least 1 row, got {size}")
        self._dataset = dataset
        step = size if dataset.batched else 1
        groups = dataset.alike()
        # Slices of whole arrays are not copied.
        cut = [slice(start, start + step) for start in range(0, max(map(len, groups)), step)]
        turns = [(group, part) for part in cut for group in groups if part.start < len(group)]
        self._runs = cut if len(groups) == 1 else [group[part] for group, part in turns]
        self.order = np.concatenate([group[part] for group, part in turns])

    def __len__(self) -> int:
        return len(self._runs)

    @overload
    def __getitem__(self, index: int) -> Arrays: ...
    @overload
    def __getitem__(self, index: slice) -> list[Arrays]: ...
    def __getitem__(self, index: int | slice) -> Arrays | list[Arrays]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        run = self._runs[index]
        rows = {name: stacked(array, run) for name, array in self._dataset.inputs.items()}
        if self._dataset.batched:
            return rows
        # A row of a one-dimensional array is a numpy scalar, and a run takes arrays.
        return {name: array.reshape(array.shape[1:]) for name, array in rows.items()}
