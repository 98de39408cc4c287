"""What a source gives, before it is checked against the model."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.datasets.errors import InvalidData, InvalidLabels

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from plansmith_build.datasets.dataset import Kind
    from plansmith_build.datasets.layout import Layout
    from plansmith_build.datasets.ragged import Array, Indexes

__all__ = ["LABEL_KEYS", "MEMORY_BYTES", "RawData", "check_file", "check_memory", "random_rows", "separate_labels"]

LABEL_KEYS = ("labels", "label", "y")
"""The names under which labels are looked for, unless an input of the model has that name."""

MEMORY_BYTES = 4 * 2**30
"""The most that is held in memory of one data set; a mapped file does not count."""

# Every byte of a file is read, for its checksums.
_FILE_BYTES = 64 * 2**30


@dataclass(frozen=True)
class RawData:
    """Arrays as a source gives them.

    Attributes:
        arrays: by input name, each with one entry a row.
        labels: as they were found, of any dtype and shape, or None.
        sha256: of the files, None where there are none.
        kind: of source.
        where: what to call the source in an error, as the user wrote it.
        class_names: the classes by number, where the source names them; else empty.
    """

    arrays: Mapping[str, Array]
    labels: Array | None
    sha256: str | None
    kind: Kind
    where: str
    class_names: tuple[str, ...] = ()


def check_file(path: Path) -> None:
    """Refuse what cannot be read to its end: opening a FIFO waits for its writer, and a device has no end.

    Raises:
        InvalidData: it is not a regular file, or larger than 64 GiB.
        OSError: it cannot be read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise InvalidData(f"{path} is not a regular file: copy what it gives to one")
    if status.st_size > _FILE_BYTES:
        raise InvalidData(
            f"{path} has {status.st_size / 2**30:.1f} GiB, and {_FILE_BYTES >> 30} GiB are allowed: give fewer rows"
        )


def check_memory(size: int, where: str, way_out: str) -> None:
    """Refuse what is too large to hold.

    Raises:
        InvalidData: `size` bytes are more than `MEMORY_BYTES`.
    """
    if size > MEMORY_BYTES:
        raise InvalidData(
            f"{where} would take {size / 2**30:.1f} GiB of memory, and {MEMORY_BYTES / 2**30:g} GiB are allowed: "
            f"{way_out}"
        )


def random_rows(rows: int, limit: int, seed: int) -> Indexes:
    """The indexes of `limit` different rows of so many in ascending order, each row as likely as any other.

    Classes keep their proportions, so that what is measured on the sample is what the whole data would say.
    """
    return np.sort(np.random.default_rng(seed).permutation(rows)[:limit]).astype(np.int64)


def separate_labels(
    arrays: Mapping[str, Array], layout: Layout, *, labels_key: str | None, where: str
) -> tuple[dict[str, Array], Array | None]:
    """Part named arrays into the inputs and the labels.

    A model with one input takes the only array that is not the labels, whatever its name.

    Args:
        arrays: by name.
        layout: of the data that is wanted.
        labels_key: the name of the labels; None looks for `LABEL_KEYS`.
        where: what to call the source in an error.

    Raises:
        InvalidLabels: there is no array of the name `labels_key`, or several that may be the labels.
    """
    inputs = {spec.name for spec in layout.inputs}
    if labels_key is not None:
        if labels_key not in arrays:
            raise InvalidLabels(f"{where} has no {labels_key!r}: it has {', '.join(map(repr, arrays)) or 'nothing'}")
        if labels_key in inputs:
            raise InvalidLabels(f"{labels_key!r} is an input of the model: save the labels of {where} by another name")
        keys = [labels_key]
    else:
        keys = [key for key in LABEL_KEYS if key in arrays and key not in inputs]
    if len(keys) > 1:
        raise InvalidLabels(
            f"{where} has {' and '.join(map(repr, keys))}, and each may be the labels: say which with --labels-key"
        )
    named = {name: array for name, array in arrays.items() if name not in keys}
    if len(layout.inputs) == 1 and len(named) == 1:
        named = {layout.inputs[0].name: next(iter(named.values()))}
    return named, arrays[keys[0]] if keys else None
