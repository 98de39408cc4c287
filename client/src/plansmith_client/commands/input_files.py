"""Inputs of a model from files: .npy, .npz, .json, images, recordings and text.

Nothing in a file is ever executed: pickled arrays are refused.
"""

from __future__ import annotations

import contextlib
import json
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client.commands.file_limits import InputFile, check_file, check_size
from plansmith_client.commands.image_files import (
    IMAGE_SUFFIXES,
    ImagePreparation,
    array_from_image,
    array_from_text,
)
from plansmith_client.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from plansmith_client.tensors import TensorSpec

__all__ = ["has_images", "input_from", "names_of_rows", "read_file", "read_inputs", "sources_of", "texts_as_inputs"]

# Files that are a row each: pipelines take recordings, too, as they are.
_ROWS = (*IMAGE_SUFFIXES, ".wav")
_SUFFIXES = (".npy", ".npz", ".json", ".txt", *_ROWS)
# What `plansmith build` takes for the labels of an .npz file.
_LABELS = ("labels", "label", "y")
# What numpy and zipfile raise for files that are damaged or not really in their format.
_DAMAGED = (
    *(ValueError, TypeError, KeyError, SyntaxError, EOFError, OverflowError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError),
)


def read_inputs(
    words: Sequence[str], specs: Sequence[TensorSpec], preparation: ImagePreparation | None = None
) -> dict[str, Any]:
    """The inputs that the words of `--input` stand for.

    Args:
        words: each `FILE` or `NAME=FILE`. A file with names in it (.npz, a JSON object) gives all of its inputs; a
            file without (.npy, a JSON list, an image, a recording, text) needs a NAME, unless the model has a single
            input. Several images or recordings for one input make one batch, and so does a folder of them. Labels in a
            file with names, as `plansmith build` takes them, are left out.
        specs: the model's inputs.
        preparation: how the pixels of images are scaled.

    Raises:
        InvalidInput: a file cannot be read, has another format, or holds an input that an earlier file held.
    """
    inputs: dict[str, Any] = {}
    of_rows: set[str] = set()
    for name, path in _files(words):
        is_row = path.suffix.lower() in _ROWS
        with _read(path):
            content = input_from(path, specs, preparation, name)
        for key, value in content.items():
            if key in inputs and is_row and key in of_rows:
                inputs[key] = np.concatenate([inputs[key], value])
            elif key in inputs:
                raise InvalidInput(f"Input {key!r} is given twice, the second time by {path}: give each input once")
            else:
                inputs[key] = value
            if is_row:
                of_rows.add(key)
    return inputs


def input_from(
    file: InputFile, specs: Sequence[TensorSpec], preparation: ImagePreparation | None = None, name: str = ""
) -> dict[str, Any]:
    """The inputs that one file stands for, see `read_inputs`; `name` where it is given for one of them.

    Raises:
        InvalidInput: it has another format, or does not fit the inputs.
        OSError: it cannot be read.
    """
    suffix = file.suffix.lower()
    if suffix not in (*_ROWS, ".txt"):
        return _named(name, file, _content(file), specs)
    spec = _spec(name, file, specs)
    if spec.datatype != "BYTES" and suffix == ".wav":
        raise InvalidInput(f"{file} is a recording, which only BYTES inputs take: input {spec.name!r} is {spec}")
    if suffix == ".txt":
        return {spec.name: array_from_text(file, spec)}
    return {spec.name: array_from_image(file, spec, preparation or ImagePreparation())}


def texts_as_inputs(texts: Sequence[str], specs: Sequence[TensorSpec]) -> dict[str, Any]:
    """Texts as the rows of the model's only BYTES input.

    Raises:
        InvalidInput: the model has none, or several.
    """
    found = [spec for spec in specs if spec.datatype == "BYTES"]
    if len(found) != 1:
        names = ", ".join(f"{spec.name} {spec}" for spec in specs)
        raise InvalidInput(f"--text needs a model with one input of text (BYTES): this one has {names}")
    # What was no text on the command line is sent as the bytes that it was.
    rows = np.array([*(text.encode(errors="surrogateescape") for text in texts), None], object)[:-1]
    return {found[0].name: rows.reshape((len(texts),) + (1,) * (len(found[0].shape) - 1))}


def sources_of(words: Sequence[str]) -> list[str]:
    """The files that the words of `--input` stand for, by name."""
    return [str(path) for _, path in _files(words)]


def has_images(words: Sequence[str]) -> bool:
    """Whether one of the words of `--input` stands for images."""
    return any(path.suffix.lower() in IMAGE_SUFFIXES for _, path in _files(words))


def names_of_rows(words: Sequence[str]) -> list[str]:
    """The files that are the rows of a request, in their order; none where a file holds more than a row."""
    names, paths = zip(*_files(words), strict=True)
    alone = len(set(names)) == 1 and all(path.suffix.lower() in _ROWS for path in paths)
    return [path.name for path in paths] if alone else []


def _files(words: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """The name and the path of each file; of a folder, of each image and recording in it, by name."""
    for word in words:
        name, path = _name_and_path(word)
        if not word.removeprefix(f"{name}="):
            raise InvalidInput(f"{word!r} names no file: an empty name would stand for the current folder")
        if not path.is_dir():
            yield name, path
            continue
        # What is hidden is not for people: some systems keep a file of their own, "._photo.jpg", beside each.
        found = sorted(
            inside
            for inside in path.rglob("*")
            if inside.suffix.lower() in _ROWS and "/." not in f"/{inside.relative_to(path).as_posix()}"
        )
        if not found:
            raise InvalidInput(
                f"{path} is a folder without images or recordings: expected files that end in {', '.join(_ROWS)}"
            )
        for inside in found:
            yield name, inside


def _spec(name: str, path: InputFile, specs: Sequence[TensorSpec]) -> TensorSpec:
    """The input that a file without names belongs to."""
    wanted = next(iter(_named(name, path, None, specs)))
    found = next((spec for spec in specs if spec.name == wanted), None)
    if found is None:
        names = ", ".join(spec.name for spec in specs)
        raise InvalidInput(f"{path} is for an input {wanted!r} that the model does not have: it has {names}")
    return found


def _name_and_path(word: str) -> tuple[str, Path]:
    name, separator, path = word.partition("=")
    if not separator or Path(word).exists():
        return "", Path(word)
    return name, Path(path)


def _named(name: str, path: InputFile, content: Any, specs: Sequence[TensorSpec]) -> dict[str, Any]:
    if isinstance(content, dict):
        if not name:
            return _without_labels(content, specs)
        if name in content:
            return {name: content[name]}
        raise InvalidInput(f"{path} has no array {name!r}: it has {', '.join(map(repr, content)) or 'none'}")
    if name:
        return {name: content}
    if len(specs) == 1:
        return {specs[0].name: content}
    names = ", ".join(f"{spec.name}={path}" for spec in specs)
    raise InvalidInput(f"{path} does not say which input it is for: write --input with one of {names}")


def _without_labels(content: dict[str, Any], specs: Sequence[TensorSpec]) -> dict[str, Any]:
    """The arrays of a file without its labels, as `plansmith build --data` takes it."""
    names = {spec.name for spec in specs}
    inputs = {key: value for key, value in content.items() if key in names or key not in _LABELS}
    if len(specs) == 1 and len(inputs) == 1 and len(content) > 1:
        # `build` takes the only array besides the labels whatever its name.
        return {specs[0].name: next(iter(inputs.values()))}
    return inputs


def read_file(path: Path) -> Any:
    """What a .npy, .npz or .json file holds: an array, arrays by name, or JSON.

    Raises:
        InvalidInput: it has another ending, or cannot be read.
    """
    with _read(path):
        return _content(path)


@contextlib.contextmanager
def _read(path: Path) -> Iterator[None]:
    try:
        check_file(path)
        yield
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}") from error


def _content(path: InputFile) -> Any:
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise InvalidInput(f"{path} does not end in one of {', '.join(_SUFFIXES)}: convert it to one of these formats")
    return _read_json(path) if suffix == ".json" else _read_numpy(path)


def _read_json(path: InputFile) -> Any:
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not valid JSON: {error}") from error
    except MemoryError as error:
        raise InvalidInput(f"{path} is too large for the memory: send it as .npy, or in parts") from error
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return unique


def _read_numpy(path: InputFile) -> Any:
    try:
        # Opened here: numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            # A small file can decompress to one that fills the memory.
            check_size(path, sum(member.file_size for member in loaded.zip.infolist()))
            arrays = dict(loaded)
    except _DAMAGED as error:
        if "pickle" in str(error).lower():
            raise InvalidInput(
                f"{path} is not a numpy file, or holds Python objects, which are never read because that could run "
                "code: save arrays of numbers, bool or fixed-size strings"
            ) from error
        raise InvalidInput(f"{path} is not a complete {path.suffix} file: {error}") from error
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise InvalidInput(f"{path} is not a complete {path.suffix} file: some of its members are not arrays")
    return arrays
