"""Results of an inference to files: .npy, .npz and .json."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from plansmith_client.commands.tensor_json import json_from_array
from plansmith_client.errors import InvalidInput
from plansmith_client.whole_files import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_client.protocol.results import InferResult

__all__ = ["ARRAYS", "PICTURES", "check_output_file", "write_output_file"]

# The endings of what can be written.
ARRAYS = (".npy", ".npz", ".json")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def check_output_file(path: Path, suffixes: tuple[str, ...]) -> None:
    """Refuse a file that could not be written, before the server is asked.

    Raises:
        InvalidInput: the name has none of these endings, or its folder does not exist.
    """
    if path.suffix.lower() not in suffixes:
        raise InvalidInput(f"{path} does not end in one of {', '.join(suffixes)}: choose one of these formats")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise InvalidInput(f"{path} cannot be written: it is a folder, or its folder does not exist")


def write_output_file(path: Path, result: InferResult) -> None:
    """Write the outputs: one array as .npy, arrays by name as .npz, lists by name as .json.

    numpy's files have neither BF16, which is written as float32 without loss, nor BYTES, which is written as
    fixed-size strings.

    Raises:
        InvalidInput: several outputs for .npy, BYTES that end in a zero byte for .npy or .npz, or no permission.
    """
    try:
        write_whole(path, lambda file: _write(file, path, result))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror or error}") from error


def _write(file: BinaryIO, path: Path, result: InferResult) -> None:
    suffix = path.suffix.lower()
    if suffix == ".json":
        content = {name: json_from_array(array) for name, array in result.items()}
        file.write(json.dumps(content, allow_nan=False).encode() + b"\n")
        return
    if suffix == ".npy":
        np.save(file, _plain(result.array, path), allow_pickle=False)
        return
    # numpy.savez takes names as keywords: an output called "file" would be one of its own, and so would its options in
    # versions of numpy that do not know them.
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in result.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, _plain(array, path), allow_pickle=False)  # type: ignore[no-untyped-call]


def _plain(array: np.ndarray[Any, Any], path: Path) -> np.ndarray[Any, Any]:
    if array.dtype == object:
        plain = array.astype(np.bytes_)
        if not np.array_equal(plain.astype(object), array):
            raise InvalidInput(f"{path} cannot hold strings that end in a zero byte: write a .json file")
        return plain
    return array.astype(np.float32) if array.dtype.kind == "V" else array
