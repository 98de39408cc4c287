"""Rows of data for a model's inputs, checked, and where they came from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

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
            the input: N samples are stacked. An optional input is there where data was given for it. The arrays may
            be read-only views of a file.
        labels: the class of each row, int64 [N] from 0 up, or None.
        source: what the manifest calls it: `"calibration.npz"`, `"data:load"`, `"random"`.
        sha256: of a file, as sha256sum gives it; of a folder, of the lines that sha256sum gives for its files in the
            order in which they were read; of the arrays themselves where there is no file. A part of a dataset keeps
            that of the whole.
        kind: where it came from.
        class_names: the classes by number, where the source names them; else empty.
        batched: whether N is the model's own first dimension, so that a batch of any size can be cut from it.
    """

    inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]]
    labels: np.ndarray[Any, np.dtype[np.int64]] | None
    source: str
    sha256: str
    kind: Kind
    batched: bool
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def rows(self, start: int, stop: int) -> Arrays:
        """The inputs of some rows, as arrays [stop - start, ...]; fewer where the data ends."""
        return {name: array[start:stop] for name, array in self.inputs.items()}

    def take(self, indexes: Sequence[int] | np.ndarray[Any, np.dtype[np.int64]]) -> Dataset:
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

    Where the data is `batched`, a run has `size` rows, the last one what is left. Where it is not, a run is one sample
    in the model's own shape, whatever the size.
    """

    def __init__(self, dataset: Dataset, size: int) -> None:
        if size < 1:
            raise ValueError(f"a batch must have at least 1 row, got {size}")
        self._dataset = dataset
        self._size = size if dataset.batched else 1

    def __len__(self) -> int:
        return math.ceil(len(self._dataset) / self._size)

    @overload
    def __getitem__(self, index: int) -> Arrays: ...
    @overload
    def __getitem__(self, index: slice) -> list[Arrays]: ...
    def __getitem__(self, index: int | slice) -> Arrays | list[Arrays]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(index)
        rows = self._dataset.rows(number * self._size, (number + 1) * self._size)
        if self._dataset.batched:
            return rows
        # A row of a one-dimensional array is a numpy scalar, and a run takes arrays.
        return {name: array.reshape(array.shape[1:]) for name, array in rows.items()}
