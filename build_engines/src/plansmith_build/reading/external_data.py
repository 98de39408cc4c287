"""Weights that a model keeps in separate files: checked before a byte is read.

A model from outside is hostile input: the `location` of a tensor is a path that its author chose. Only a regular file
below the model's own folder is accepted, reached without `..`, without an absolute path, without a symbolic link and
without a second hard link, and only a range that lies inside that file. See onnx/docs/ExternalData.md.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import onnx
from onnx.external_data_helper import uses_external_data

from plansmith_build.errors import UnsafeExternalData
from plansmith_build.reading.graphs import tensors_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

__all__ = [
    "ExternalRange",
    "check_external_data",
    "pieces_of",
    "read_external_data",
    "read_range",
    "sha256_of_weights",
    "state_of",
]

_PIECE_BYTES = 16 * 2**20

FileState = tuple[int, int, int, int]


@dataclass(frozen=True)
class ExternalRange:
    """The checked place of one tensor's bytes.

    Attributes:
        path: the file.
        offset: of the first byte.
        length: how many bytes.
        state: of the file when it was checked; see `state_of`.
    """

    path: Path
    offset: int
    length: int
    state: FileState


def state_of(status: os.stat_result) -> FileState:
    """What tells a file from another or the same one changed: device, inode, bytes, time of change in nanoseconds."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def check_external_data(model: onnx.ModelProto, folder: Path) -> dict[str, ExternalRange]:
    """Check the place of every tensor that is stored outside the model file, without reading any.

    Returns:
        The checked places by tensor name.

    Raises:
        UnsafeExternalData: a file is missing or lies where a model may not point, or a range is not inside its file.
    """
    return {tensor.name: _check(tensor, folder) for tensor in _external_tensors(model)}


def read_external_data(model: onnx.ModelProto, folder: Path, *, largest: int | None = None) -> None:
    """Read external tensors into the model, in place, each checked again just before.

    Args:
        model: parsed without its external data.
        folder: the folder that holds the model file.
        largest: of the graph's initializers only those of up to this many bytes; by default all.

    Raises:
        UnsafeExternalData: see `check_external_data`.
    """
    # Held on to: a message has the same identity for as long as somebody holds it, and no longer.
    held = list(model.graph.initializer)
    initializers = set(map(id, held))
    for tensor in list(_external_tensors(model)):
        place = _check(tensor, folder)
        if largest is not None and place.length > largest and id(tensor) in initializers:
            continue
        tensor.raw_data = read_range(place)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def read_range(place: ExternalRange) -> bytes:
    """The bytes of a checked place.

    Raises:
        UnsafeExternalData: the file is not what it was when it was checked.
    """
    with _open(place) as file:
        file.seek(place.offset)
        content = file.read(place.length)
    if len(content) < place.length:
        raise _shorter(place.path)
    return content


def sha256_of_weights(place: ExternalRange) -> str:
    """The SHA-256 of the whole file of a checked place, as 64 hexadecimal digits.

    Raises:
        UnsafeExternalData: the file is not what it was when it was checked.
    """
    with _open(place) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pieces_of(place: ExternalRange) -> Iterator[bytes]:
    """The bytes of a checked place, 16 MiB at a time.

    Raises:
        UnsafeExternalData: the file is not what it was when it was checked.
    """
    with _open(place) as source:
        source.seek(place.offset)
        left = place.length
        while left:
            wanted = min(left, _PIECE_BYTES)
            piece = source.read(wanted)
            if len(piece) < wanted:
                raise _shorter(place.path)
            yield piece
            left -= wanted


def _external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    return (tensor for tensor in tensors_of(model) if uses_external_data(tensor))


def _check(tensor: onnx.TensorProto, folder: Path) -> ExternalRange:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    what = f"weight {tensor.name!r} is stored in {location!r}"
    parts = PurePosixPath(location).parts
    if not parts or "\0" in location:
        raise UnsafeExternalData(f"weight {tensor.name!r} does not name the file that holds it: save the model again")
    if PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive or "\\" in location:
        raise UnsafeExternalData(
            f"{what}, an absolute path: a model may only point below its own folder; save it with a relative location"
        )
    if ".." in parts:
        raise UnsafeExternalData(
            f"{what}, which leaves the model's folder: a model may only point below it; save it there"
        )
    path = folder.joinpath(*parts)
    try:
        found = _status_below(folder, parts)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafeExternalData(
                f"{what}, but {error.filename} is a symbolic link, which may point anywhere: put a copy there"
            ) from None
        # Also where no file can have such a name.
        raise UnsafeExternalData(f"{what}, but {path} does not exist: put the file into the model's folder") from None
    if not stat.S_ISREG(found.st_mode):
        raise UnsafeExternalData(f"{what}, but {path} is not a regular file: put the weights there")
    if found.st_nlink > 1:
        raise UnsafeExternalData(
            f"{what}, but {path} has {found.st_nlink} hard links, so it may be a file from elsewhere: "
            "put a copy of it there"
        )
    offset = _whole_number(entries.get("offset", "0"), "offset", what)
    length = _whole_number(entries.get("length", str(max(0, found.st_size - offset))), "length", what)
    if offset + length > found.st_size:
        raise UnsafeExternalData(
            f"{what} from byte {offset} to {offset + length}, but the file ends at byte {found.st_size}: "
            "it is not complete, or belongs to another model"
        )
    return ExternalRange(path=path, offset=offset, length=length, state=state_of(found))


def _status_below(folder: Path, parts: tuple[str, ...]) -> os.stat_result:
    """Of a file below a folder, each folder on the way held open, so that none can become a link meanwhile."""
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        for number, part in enumerate(parts, 1):
            below = os.open(part, flags, dir_fd=place)
            os.close(place)
            place = below
            found = os.fstat(place)
            if stat.S_ISLNK(found.st_mode):
                raise OSError(errno.ELOOP, "a symbolic link", str(folder.joinpath(*parts[:number])))
        return found
    finally:
        os.close(place)


def _whole_number(text: str, key: str, what: str) -> int:
    # isdecimal alone would accept digits of other scripts; it accepts no minus sign.
    if not (text.isascii() and text.isdecimal() and len(text) < 20):  # noqa: PLR2004 - digits of 2**63
        raise UnsafeExternalData(f"{what}, but its {key} {text[:40]!r} is not a whole number of bytes: save it again")
    return int(text)


def _open(place: ExternalRange) -> BufferedReader:
    """Open what was checked: no link that was put there since, and no file that changed since."""
    try:
        file = os.fdopen(os.open(place.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise UnsafeExternalData(f"the weight file {place.path} cannot be read: {error.strerror}") from error
    if state_of(os.fstat(file.fileno())) != place.state:
        file.close()
        raise UnsafeExternalData(
            f"the file {place.path} changed while it was built: build again, and leave it as it is until the end"
        )
    return file


def _shorter(path: Path) -> UnsafeExternalData:
    return UnsafeExternalData(
        f"the weight file {path} became shorter while it was read: build again when it is complete"
    )
