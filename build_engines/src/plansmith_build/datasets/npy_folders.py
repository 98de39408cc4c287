r"""A folder of .npy files.

One of these:

- one file per input, named as the input, with a row for each entry: `images.npy`;
- for a model with one input, one file per sample, or per chunk of rows: `000.npy`, `001.npy`, ...;
- for a model with several, a sub-folder per input with one file per sample: `images/000.npy`, `mask/000.npy`, ...

and next to them the labels as `labels.npy`, `label.npy` or `y.npy`. Files are taken in the order of their names, the
numbers in them by value: `2.npy` comes before `10.npy`. Where an input's name cannot be a file's, as with `a/b`, each
character of `/\:` is written as `_`.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.datasets.errors import InvalidData
from plansmith_build.datasets.numpy_files import read_npy
from plansmith_build.datasets.raw_data import LABEL_KEYS, RawData, separate_labels
from plansmith_build.reading.regular_files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from plansmith_build.datasets.layout import Layout
    from plansmith_build.datasets.ragged import Array
    from plansmith_client.tensors import TensorSpec

__all__ = ["natural_key", "read_npy_folder", "sha256_of_files"]


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts names with the numbers in them by value, and by their text where that says nothing."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    key = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
    return [*key, (-1, 0, name)]


def sha256_of_files(folder: Path, files: Iterable[Path]) -> str:
    """The SHA-256 of the lines that sha256sum prints for these files, called by their paths in the folder."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{sha256_of(file)}  {file.relative_to(folder).as_posix()}\n".encode())
    return digest.hexdigest()


def read_npy_folder(folder: Path, layout: Layout, *, labels_key: str | None) -> RawData:
    """The arrays of a folder, put together by input.

    Raises:
        InvalidData: a file cannot be read, or the folder has none of the layouts that the module describes.
        InvalidLabels: it is not clear which file holds the labels.
    """
    names = {_file_name(spec.name): spec for spec in layout.inputs}
    files = _files(folder)
    label_stems = {labels_key} if labels_key else set(LABEL_KEYS) - names.keys()
    data_files = {stem: path for stem, path in files.items() if stem not in label_stems}
    subfolders = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not _hidden(path)}

    used = [path for stem, path in files.items() if stem in label_stems]
    arrays: dict[str, Array] = {}
    if subfolders:
        arrays, read = _from_subfolders(folder, subfolders, data_files, names, layout)
        used += read
    elif len(layout.inputs) == 1 and not (data_files.keys() & names.keys()):
        spec = layout.inputs[0]
        if len(data_files) == 1:
            # All rows in one file, whatever it is called; or a single one.
            (only,) = map(read_npy, data_files.values())
            arrays = {spec.name: only if only.ndim != len(layout.row_shape(spec)) else only[np.newaxis]}
        elif data_files:
            arrays = {spec.name: _stacked(spec, list(data_files.values()), layout)}
        used += data_files.values()
    else:
        arrays = {names[stem].name if stem in names else stem: read_npy(path) for stem, path in data_files.items()}
        used += data_files.values()
    if not arrays:
        raise InvalidData(f"{folder} has no .npy files for the model's inputs: {_wanted(layout)}")
    labelled = {stem: read_npy(path) for stem, path in files.items() if stem in label_stems}
    _, labels = separate_labels(labelled, layout, labels_key=labels_key, where=str(folder))
    return RawData(arrays, labels, sha256_of_files(folder, used), "npy folder", str(folder))


def _from_subfolders(
    folder: Path, subfolders: dict[str, Path], data_files: dict[str, Path], names: dict[str, TensorSpec], layout: Layout
) -> tuple[dict[str, Array], list[Path]]:
    for name, path in subfolders.items():
        if name not in names:
            raise InvalidData(f"{path} is named as none of the model's inputs: {_wanted(layout)}")
        if name in data_files:
            raise InvalidData(f"{folder} has both a file and a sub-folder for input {name!r}: keep one of them")
    files = {name: _files(path) for name, path in subfolders.items()}
    (first, samples), *others = files.items()
    for name, stems in others:
        for stem in samples.keys() ^ stems.keys():
            there, missing = (first, name) if stem in samples else (name, first)
            raise InvalidData(
                f"{folder / there / stem}.npy has no counterpart in {folder / missing}: "
                "a sample needs a file of one name for each input"
            )
    arrays = {}
    for name, stems in files.items():
        if not stems:
            raise InvalidData(f"{folder / name} has no .npy files: save one for each sample")
        arrays[names[name].name] = _stacked(names[name], list(stems.values()), layout)
    for stem, path in data_files.items():
        arrays[names[stem].name if stem in names else stem] = read_npy(path)
    return arrays, [*(path for stems in files.values() for path in stems.values()), *data_files.values()]


def _stacked(spec: TensorSpec, files: Sequence[Path], layout: Layout) -> Array:
    return layout.stack(spec, [(str(path), read_npy(path)) for path in files])


def _files(folder: Path) -> dict[str, Path]:
    """The .npy files of a folder by name without the suffix, in order."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: natural_key(path.name)):
        if path.suffix.lower() != ".npy" or _hidden(path) or not path.is_file():
            continue
        if path.stem in found:
            raise InvalidData(f"{folder} has both {found[path.stem].name} and {path.name}: keep one of them")
        found[path.stem] = path
    return found


def _file_name(name: str) -> str:
    return re.sub(r"[/\\:]", "_", name)


def _hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _wanted(layout: Layout) -> str:
    files = ", ".join(f"{_file_name(spec.name)}.npy with {layout.wanted(spec)}" for spec in layout.inputs)
    if len(layout.inputs) == 1:
        return f"save {files}, or one file per sample"
    return f"save {files}, or a sub-folder of each name with one file per sample"
