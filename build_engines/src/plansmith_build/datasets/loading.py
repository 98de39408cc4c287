"""`load_dataset`: data for a model from what the user names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from plansmith_build.datasets.callables import is_callable_source, read_callable
from plansmith_build.datasets.checking import check_data
from plansmith_build.datasets.errors import InvalidData, InvalidLabels, InvalidPreprocessing
from plansmith_build.datasets.image_folders import read_image_folder
from plansmith_build.datasets.layout import layout_of
from plansmith_build.datasets.npy_folders import read_npy_folder
from plansmith_build.datasets.numpy_files import read_npy, read_npz
from plansmith_build.datasets.random_data import random_data, rows_from_text
from plansmith_build.datasets.raw_data import RawData
from plansmith_build.portable.sampling import leading_rows
from plansmith_build.reading.regular_files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plansmith_build.datasets.dataset import Dataset
    from plansmith_build.datasets.layout import Layout
    from plansmith_build.datasets.preprocessing import Preprocessing
    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.portable.batch_obstacles import BatchAxis
    from plansmith_build.reading.signatures import Signature

__all__ = ["check_source", "holds_images", "load_dataset", "read_samples"]

_MOST_SAMPLES = 8
_KINDS = "a .npz or .npy file, a folder of .npy files or images, module:function, or random"


def check_source(source: str) -> None:
    """Refuse files that are not there, before anything that takes long.

    Raises:
        InvalidData: there is no such file or folder, or the system does not let it be seen.
    """
    if rows_from_text(source) is None and not is_callable_source(source) and not _is_there(Path(source)):
        raise InvalidData(f"the data {source} does not exist: name {_KINDS}")


def holds_images(path: Path) -> bool:
    """Whether it is a folder without arrays, which `load_dataset` reads as images."""
    return path.is_dir() and not any(path.glob("*.npy")) and not any(path.glob("*/*.npy"))


def load_dataset(
    source: str,
    signature: Signature,
    *,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    classes: int | None = None,
    labels_key: str | None = None,
    max_rows: int | None = None,
    batched: bool | None = None,
    seed: int = 0,
) -> Dataset:
    """Load data for a model and check it against the model's inputs.

    Args:
        source: a `.npz` file, a `.npy` file for a model with one input, a folder of `.npy` files, a folder of images,
            `module:function`, `random` or `random:N`. A file or folder that is called as one of the last three is
            written with its path: `./random`.
        signature: the model's. Optional inputs need no data.
        preprocessing: how an image becomes a row; for images only.
        class_names: the content of labels.txt, for labels that are names and for class sub-folders.
        classes: how many classes the model knows, where that is known; labels are checked against it.
        labels_key: the name of the labels in the file; by default `labels`, `label` or `y`.
        max_rows: take no more rows than this: random ones; of a Python iterable the first.
        batched: whether the first dimension of every input is known to hold independent rows. None: it does where it
            is dynamic, or 1, in all inputs that must be given. Where it does not, each entry of an array is a whole
            input, the rows that a model takes in a fixed number at once included.
        seed: for `random` and `max_rows`.

    Raises:
        InvalidData: there is no such data, it cannot be read, or an input is missing, unknown, of another shape or
            dtype, has infinities, or NaN that does not stand for a missing value.
        InvalidLabels: the labels do not fit the rows or the classes.
        InvalidPreprocessing: there are images and no preprocessing, or one that does not give what the model takes.
        DataFunctionFailed: the user's function fails or gives something else than data.

    Example:
        ```python
        dataset = load_dataset("calibration.npz", signature)
        calibration, validation = split(dataset, fraction=0.5, seed=0)
        ```
    """
    if max_rows is not None and max_rows < 1:
        raise InvalidData(f"the number of rows must be at least 1, got {max_rows}")
    layout = layout_of(signature, batched=batched)
    random_rows = rows_from_text(source)
    path, name = Path(source), source
    is_function = random_rows is None and is_callable_source(source) and not _is_there(path)
    is_file = random_rows is None and not is_function
    try:
        if is_file:
            check_source(source)
            name = path.resolve().name
        images = is_file and holds_images(path)
        if preprocessing is not None and not images:
            raise InvalidPreprocessing(
                f"{source} holds no images, so there is nothing to preprocess: drop --preprocess"
            )
        if random_rows is not None:
            rows = min(random_rows, max_rows or random_rows)
            raw = random_data(signature, layout, rows=rows, seed=seed)
            name = "random"
        elif is_function:
            raw = read_callable(source, layout, labels_key=labels_key, limit=max_rows)
        elif images:
            raw = read_image_folder(
                path, layout, preprocessing=preprocessing, class_names=class_names, limit=max_rows, seed=seed
            )
        elif path.is_dir():
            raw = read_npy_folder(path, layout, labels_key=labels_key)
        else:
            raw = _from_file(path, layout, labels_key)
    except OSError as error:
        raise InvalidData(f"the data {path} cannot be read: {error.strerror}") from error
    return check_data(raw, layout, source=name, class_names=class_names, classes=classes, max_rows=max_rows, seed=seed)


def read_samples(
    source: str, signature: Signature, *, axis: BatchAxis, preprocessing: Preprocessing | None, seed: int
) -> tuple[Arrays, ...]:
    """Up to 8 rows, random ones where there are more, each for one run of the model: the verification's inputs.

    Args:
        source: see `load_dataset`.
        signature: the model's.
        axis: the batch dimension, if the user named it.
        preprocessing: how an image becomes a row; for images only.
        seed: chooses the rows.

    Raises:
        InvalidData: the data does not fit the model.
    """
    batched = leading_rows(signature, axis) in {-1, 1}
    data = load_dataset(
        source, signature, preprocessing=preprocessing, max_rows=_MOST_SAMPLES, batched=batched, seed=seed
    )
    return tuple(data.batches(1))


def _from_file(path: Path, layout: Layout, labels_key: str | None) -> RawData:
    if path.suffix.lower() == ".npz":
        return read_npz(path, layout, labels_key=labels_key)
    if path.suffix.lower() != ".npy":
        raise InvalidData(f"the data {path} is of no known kind: name {_KINDS}")
    if len(layout.inputs) != 1:
        raise InvalidData(f"{path} has no names in it: save it with numpy.savez, or name the folder that it is in")
    if labels_key is not None:
        raise InvalidLabels(f"{path} has no {labels_key!r}: save rows and labels by their names with numpy.savez")
    return RawData({layout.inputs[0].name: read_npy(path)}, None, sha256_of(path), "npy", str(path))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise InvalidData(f"the data {path} cannot be read: {error.strerror}") from error
