"""numpy's .npy and .npz files, read without running anything that is in them.

An array that is stored as it is (.npy, and .npz by `numpy.savez`) is mapped and read as it is needed; one that is
compressed (`numpy.savez_compressed`) is read whole, if its size allows.
"""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from plansmith_build.datasets.errors import InvalidData
from plansmith_build.datasets.raw_data import RawData, check_file, check_memory, separate_labels
from plansmith_build.reading.regular_files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from plansmith_build.datasets.layout import Layout
    from plansmith_build.datasets.ragged import Array

__all__ = ["read_npy", "read_npz"]

# What numpy and zipfile raise for files that are damaged, or made to look like theirs.
_DAMAGED = (
    *(ValueError, TypeError, KeyError, SyntaxError, EOFError, OverflowError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, NotImplementedError),
)
# https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.7: the lengths of name and extra field end the
# 30 bytes of a local file header.
_LOCAL_HEADER = struct.Struct("<26xHH")
_LOCAL_HEADER_MAGIC = b"PK\x03\x04"
_ENCRYPTED = 0x1


def read_npz(path: Path, layout: Layout, *, labels_key: str | None) -> RawData:
    """The arrays of a .npz file; those called `INPUT/ROW` are rows and put together.

    Raises:
        InvalidData: it cannot be read, is damaged, has a name twice, Python objects in it or is too large.
        InvalidLabels: it is not clear which array holds the labels.
    """
    try:
        check_file(path)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_names(path, [_array_name(member) for member in members])
            check_memory(
                sum(member.file_size for member in members if member.compress_type != zipfile.ZIP_STORED),
                f"the compressed {path}",
                "save it with numpy.savez, which is read as it is needed, or fewer rows",
            )
            arrays = {_array_name(member): _member(path, archive, member) for member in members}
        sha256 = sha256_of(path)
    except OSError as error:
        raise InvalidData(f"{path} cannot be read: {error.strerror or error}") from error
    except _DAMAGED as error:
        raise InvalidData(f"{path} is not a whole .npz file: {_sentence(error)}") from error
    if not arrays:
        raise InvalidData(f"{path} is empty: save arrays by the names of the inputs with numpy.savez")
    inputs, labels = separate_labels(
        _with_rows_joined(arrays, layout, path), layout, labels_key=labels_key, where=str(path)
    )
    return RawData(inputs, labels, sha256, "npz", str(path))


def _with_rows_joined(arrays: dict[str, Array], layout: Layout, path: Path) -> dict[str, Array]:
    """The same where each row of an input is an array of its own, called `INPUT/ROW`, with these put together."""
    specs = {spec.name: spec for spec in layout.inputs}
    rows: dict[str, dict[str, Array]] = {}
    whole = {}
    for key, array in arrays.items():
        name, _, row = key.rpartition("/")
        if name in specs and key not in specs:
            rows.setdefault(name, {})[row] = array
        else:
            whole[key] = array
    for name, parts in rows.items():
        if name in whole:
            raise InvalidData(f"{path} has both {name!r} and {f'{name}/{next(iter(parts))}'!r}: keep one of them")
        for other, others in rows.items():
            for row in (row for row in parts if row not in others):
                raise InvalidData(f"{path} has {f'{name}/{row}'!r} and no {f'{other}/{row}'!r}: a row needs each input")
        order = next(iter(rows.values()))
        whole[name] = layout.stack(specs[name], [(f"{name}/{row} of {path}", parts[row]) for row in order])
    return whole


def read_npy(path: Path) -> Array:
    """The array of a .npy file, mapped.

    Raises:
        InvalidData: it cannot be read, is damaged or holds Python objects.
    """
    try:
        check_file(path)
        with path.open("rb") as file:
            return _mapped(path, file, str(path))
    except OSError as error:
        raise InvalidData(f"{path} cannot be read: {error.strerror or error}") from error
    except _DAMAGED as error:
        raise InvalidData(f"{path} is not a whole .npy file: {_sentence(error)}") from error


def _check_names(path: Path, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidData(f"{path} has two arrays of the name {name!r}: save it again with each name once")
        seen.add(name)


def _array_name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    where = f"{_array_name(member)!r} of {path}"
    if member.is_dir() or not member.filename.endswith(".npy"):
        raise InvalidData(f"{path} holds {member.filename!r}, which is not an array: save it with numpy.savez")
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCRYPTED:
        with archive.open(member) as stream:
            # The whole stream is read, so that its checksum is.
            shape, order, dtype = _header(stream, where)
            content = stream.read()
            if len(content) != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{member.filename} ends too early")
            flat: Array = np.frombuffer(content, dtype)
            return flat.reshape(shape, order=order)
    with archive.open(member) as stream:
        while stream.read(2**20):
            pass  # Reading to the end compares the checksum, which a map would never look at.
    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(_LOCAL_HEADER.size)
        if not header.startswith(_LOCAL_HEADER_MAGIC):
            raise zipfile.BadZipFile(f"{member.filename} is not where the list of contents says")
        name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
        file.seek(name_bytes + extra_bytes, 1)
        begin = file.tell()
        array = _mapped(path, file, where)
        if file.tell() - begin + array.nbytes != member.file_size:
            # What follows in the file is not the array's.
            raise ValueError(f"{member.filename} has {member.file_size} bytes, and its header says another number")
        return array


def _mapped(path: Path, file: IO[bytes], where: str) -> Array:
    shape, order, dtype = _header(file, where)
    if not math.prod(shape):
        return np.empty(shape, dtype)
    if math.prod(shape) * dtype.itemsize > path.stat().st_size - file.tell():
        raise ValueError("it ends before its last value")
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=shape, order=order))


def _header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], Literal["C", "F"], np.dtype[Any]]:
    numpy_format: Any = np.lib.format
    version = numpy_format.read_magic(stream)
    read = numpy_format.read_array_header_1_0 if version == (1, 0) else numpy_format.read_array_header_2_0
    shape, fortran_order, dtype = read(stream)
    if dtype.hasobject:
        raise InvalidData(
            f"{where} holds Python objects, which are not read because that could run code: "
            "save numbers, or strings as an array of fixed size with .astype('U') or .astype('S')"
        )
    return shape, "F" if fortran_order else "C", dtype


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
