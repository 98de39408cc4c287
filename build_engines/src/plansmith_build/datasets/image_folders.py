"""A folder of images, with its class sub-folders where it has some.

Images directly in the folder are rows without labels. Images in sub-folders are labelled by them: class 0 is the first
sub-folder by name, or the first line of `labels.txt` (next to the sub-folders, or given) where there is such a list.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.datasets.errors import InvalidData, InvalidLabels, InvalidPreprocessing
from plansmith_build.datasets.npy_folders import natural_key, sha256_of_files
from plansmith_build.datasets.raw_data import RawData, check_file, check_memory, random_rows
from plansmith_build.reading.shapes import fits
from plansmith_build.repository.labels import read_labels
from plansmith_client.tensors import numpy_dtype_from_datatype

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from plansmith_build.datasets.layout import Layout
    from plansmith_build.datasets.preprocessing import Preprocessing
    from plansmith_build.datasets.ragged import Indexes
    from plansmith_client.tensors import TensorSpec

__all__ = ["read_image_folder"]


def read_image_folder(
    folder: Path,
    layout: Layout,
    *,
    preprocessing: Preprocessing | None,
    class_names: Sequence[str] | None,
    limit: int | None,
    seed: int,
) -> RawData:
    """The images of a folder as rows of a model's only input.

    Args:
        folder: with images, or with one sub-folder of images for each class.
        layout: of the data that is wanted.
        preprocessing: how an image becomes a row.
        class_names: names of the sub-folders in the order of the classes; by default those of the folder's own
            labels.txt, else the sorted ones.
        limit: how many images to read at most, random ones; None for all.
        seed: which ones.

    Raises:
        InvalidData: there are no images, one cannot be read, or the model takes something else than images.
        InvalidLabels: the sub-folders are not the classes, or their order is not clear.
        InvalidPreprocessing: none was declared, or not the size.
    """
    from plansmith_build.datasets.images import read_image  # noqa: PLC0415 - Pillow, for those who have images

    files, labels, classes = _files(folder, class_names)
    if len(layout.inputs) != 1:
        raise InvalidData(
            f"{folder} holds images, and the model has {len(layout.inputs)} inputs: give the data as .npz"
        )
    spec = layout.inputs[0]
    if preprocessing is None:
        raise InvalidPreprocessing(
            f"{folder} holds images, and how they become {layout.wanted(spec)} is not declared: "
            "add --preprocess imagenet, or --preprocess size=224,mean=...,std=..."
        )
    if not layout.batched:
        raise InvalidData(
            f"{folder} holds images, and input {spec.name!r} has no batch dimension: give the data as .npz"
        )
    if limit is not None and limit < len(files):
        chosen = random_rows(len(files), limit, seed)
        files = [files[index] for index in chosen]
        labels = None if labels is None else labels[chosen]
    size, shape = image_shape(layout, preprocessing)
    dtype = numpy_dtype_from_datatype(spec.datatype)
    check_memory(
        len(files) * int(np.prod(shape)) * max(1, dtype.itemsize),
        f"the {len(files)} images of {folder}",
        "read fewer of them with --calibration-rows and --validation-rows",
    )
    for file in files:
        check_file(file)
    first = read_image(files[0], preprocessing, size, spec.datatype)
    rows = np.empty((len(files), *shape), first.dtype)
    rows[0] = first
    for index, file in enumerate(files[1:], start=1):
        rows[index] = read_image(file, preprocessing, size, spec.datatype)
    return RawData({spec.name: rows}, labels, sha256_of_files(folder, files), "images", str(folder), classes)


def image_shape(layout: Layout, preprocessing: Preprocessing) -> tuple[tuple[int, int], tuple[int, ...]]:
    """(height, width) of an image, and the shape of the row that it becomes.

    Raises:
        InvalidPreprocessing: it is not the shape that a model with one input takes, or the size is not known.
    """
    if len(layout.inputs) != 1:
        raise InvalidPreprocessing(f"a preprocessing is for a model with one input, and this has {len(layout.inputs)}")
    spec = layout.inputs[0]
    size = _size(spec, preprocessing)
    shape = _shape(preprocessing, size)
    if not fits(shape, spec.shape[1:]):
        raise InvalidPreprocessing(
            f"the preprocessing gives images of {list(shape)} ({preprocessing.layout} {preprocessing.channels}), and "
            f"input {spec.name!r} wants {layout.wanted(spec)}: change size, layout or channels"
        )
    return size, shape


def _files(folder: Path, class_names: Sequence[str] | None) -> tuple[list[Path], Indexes | None, tuple[str, ...]]:
    """The images, the class of each and the names of the classes, where there are any."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    subfolders = sorted(path for path in entries if path.is_dir())
    images = _images(folder)
    if not subfolders:
        if not images:
            others = sorted({path.suffix or path.name for path in entries})
            found = f"it has {', '.join(others[:5])}" if others else "it is empty"
            raise InvalidData(f"{folder} has neither images nor .npy files: {found}")
        return images, None, ()
    if images:
        raise InvalidData(
            f"{folder} has images next to its sub-folders, such as {images[0].name}: "
            "put each into the sub-folder of its class, or all into one folder"
        )
    named = {path.name for path in subfolders}
    classes = _classes(folder, sorted(named), class_names)
    files: list[Path] = []
    labels: list[int] = []
    numbers = {name: number for number, name in enumerate(classes)}
    for name, number in ((name, numbers[name]) for name in sorted(named)):
        deeper = [path for path in (folder / name).iterdir() if path.is_dir() and not path.name.startswith(".")]
        if deeper:
            raise InvalidData(f"{deeper[0]} is a folder in the folder of a class: put its images into {folder / name}")
        of_class = _images(folder / name)
        files += of_class
        labels += [number] * len(of_class)
    if not files:
        raise InvalidData(f"{folder} has no images in its sub-folders {', '.join(sorted(named))}")
    return files, np.array(labels, dtype=np.int64), classes


def _classes(folder: Path, names: Sequence[str], class_names: Sequence[str] | None) -> tuple[str, ...]:
    """The names of all classes in the order of their numbers; not every class need have a sub-folder."""
    own = folder / "labels.txt"
    if class_names is None and own.is_file():
        class_names = read_labels(own).decode().splitlines()
    if class_names is not None:
        for name in names:
            if name not in class_names:
                raise InvalidLabels(
                    f"the sub-folder {folder / name} has the name of none of the classes: rename it as in labels.txt"
                )
        return tuple(class_names)
    if sorted(names) != sorted(names, key=natural_key):
        raise InvalidLabels(
            f"the sub-folders of {folder} are in another order by number than by text "
            f"({', '.join(sorted(names)[:4])}, ...), so which class each is cannot be told: "
            "list them in the order of the model's classes in labels.txt"
        )
    return tuple(sorted(names))


def _images(folder: Path) -> list[Path]:
    from plansmith_build.datasets.images import SUFFIXES  # noqa: PLC0415 - as above

    return sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
        ),
        key=lambda path: natural_key(path.name),
    )


def _size(spec: TensorSpec, preprocessing: Preprocessing) -> tuple[int, int]:
    if preprocessing.size is not None:
        return preprocessing.size
    start = preprocessing.layout.index("H")
    height, width = [*spec.shape, -1, -1][start : start + 2]
    if height < 1 or width < 1:
        raise InvalidPreprocessing(
            f"the preprocessing does not say the size of the images, and neither does input {spec.name!r}, "
            f"{spec}: add size=224 or size=HEIGHTxWIDTH"
        )
    if preprocessing.resize is not None and preprocessing.resize < min(height, width):
        raise InvalidPreprocessing(
            f"the preprocessing resizes images to {preprocessing.resize}, and input {spec.name!r} takes "
            f"{height}x{width}: choose a larger resize, or none"
        )
    return height, width


def _shape(preprocessing: Preprocessing, size: tuple[int, int]) -> tuple[int, ...]:
    sizes = {"C": preprocessing.channel_count, "H": size[0], "W": size[1]}
    return tuple(sizes[letter] for letter in preprocessing.layout[1:])
