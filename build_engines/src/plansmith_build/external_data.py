"""Weights that a model keeps in files beside it: checked before a byte is read, read, and written anew.

A model from outside is hostile input: the `location` of a tensor is a path that its author chose. Only a regular file
below the model's own folder is accepted, reached without `..`, without an absolute path, without a symbolic link and
without a second hard link, and only a range that lies inside that file. See onnx/docs/ExternalData.md.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import onnx
from onnx.external_data_helper import uses_external_data

from plansmith_build.errors import InvalidModel, UnsafeExternalData
from plansmith_build.graphs import tensors_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

__all__ = [
    "INLINE_BYTES",
    "ExternalRange",
    "check_external_data",
    "read_external_data",
    "write_model",
]

# Beyond this, weights go to a file of their own: a protobuf message ends at 2 GiB, and readers want head-room.
INLINE_BYTES = 3 * 2**29
# Tensors smaller than this stay in the model file: shapes and axes, which tools want to see.
SMALL_TENSOR_BYTES = 1024
# ONNX Runtime maps weights into memory where they begin on a page.
ALIGNMENT_BYTES = 4096
_COPY_BYTES = 16 * 2**20


@dataclass(frozen=True)
class ExternalRange:
    """The checked place of one tensor's bytes."""

    path: Path
    offset: int
    length: int


def check_external_data(model: onnx.ModelProto, folder: Path) -> dict[str, ExternalRange]:
    """Check the place of every tensor that is stored outside the model file, without reading any.

    Args:
        model: parsed without its external data.
        folder: the folder that holds the model file.

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
        largest: only tensors of up to this many bytes, and those in attributes; by default all.

    Raises:
        UnsafeExternalData: see `check_external_data`.
    """
    initializers = {id(tensor) for tensor in model.graph.initializer}
    for tensor in list(_external_tensors(model)):
        place = _check(tensor, folder)
        if largest is not None and place.length > largest and id(tensor) in initializers:
            continue
        with _open_regular_file(place.path, tensor.name) as file:
            file.seek(place.offset)
            tensor.raw_data = file.read(place.length)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def write_model(model: onnx.ModelProto, path: Path, *, source_folder: Path) -> tuple[Path, ...]:
    """Write a model, its weights in `<path>.data` where they are too many for one file.

    Tensors that are still external are streamed from their checked place, so that a model larger than memory is
    copied and not loaded.

    Args:
        model: changed in place: tensors that move to the data file lose their bytes.
        path: the file to write.
        source_folder: the folder that the external locations in `model` are relative to.

    Returns:
        The files written: the model file and, where there is one, its data file.

    Raises:
        UnsafeExternalData: see `check_external_data`.
        InvalidModel: what is left in the model file is larger than a protobuf message may be.
        OSError: the disk did not take it.
    """
    files = [path]
    external = next(_external_tensors(model), None) is not None
    if external or model.ByteSize() > INLINE_BYTES:
        data_path = path.with_name(f"{path.name}.data")
        _write_data(model, data_path, source_folder)
        files.append(data_path)
    try:
        content = model.SerializeToString()
    except Exception as error:  # protobuf raises ValueError or EncodeError, depending on its implementation
        raise InvalidModel(
            f"the graph is larger than a protobuf message may be ({error}): "
            "store its tensors as raw data with onnx.save(..., save_as_external_data=True)"
        ) from error
    path.write_bytes(content)
    return tuple(files)


def _write_data(model: onnx.ModelProto, data_path: Path, source_folder: Path) -> None:
    with data_path.open("wb") as file:
        for tensor in model.graph.initializer:
            if uses_external_data(tensor):
                place = _check(tensor, source_folder)
                offset = _align(file)
                with _open_regular_file(place.path, tensor.name) as source:
                    source.seek(place.offset)
                    _copy(source, file, place.length)
                length = place.length
            elif len(tensor.raw_data) >= SMALL_TENSOR_BYTES:
                offset = _align(file)
                length = file.write(tensor.raw_data)
                tensor.ClearField("raw_data")
            else:
                continue
            tensor.data_location = onnx.TensorProto.EXTERNAL
            del tensor.external_data[:]
            for key, value in [("location", data_path.name), ("offset", str(offset)), ("length", str(length))]:
                tensor.external_data.add(key=key, value=value)


def _align(file: BinaryIO) -> int:
    file.write(b"\0" * (-file.tell() % ALIGNMENT_BYTES))
    return file.tell()


def _copy(source: BinaryIO, target: BinaryIO, length: int) -> None:
    while length:
        chunk = source.read(min(length, _COPY_BYTES))
        if not chunk:
            raise UnsafeExternalData(f"{source.name} became shorter while it was read: build again when it is complete")
        target.write(chunk)
        length -= len(chunk)


def _external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    return (tensor for tensor in tensors_of(model) if uses_external_data(tensor))


def _check(tensor: onnx.TensorProto, folder: Path) -> ExternalRange:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    what = f"weight {tensor.name!r} is stored in {location!r}"
    parts = PurePosixPath(location).parts
    if not parts or "\0" in location:
        raise UnsafeExternalData(f"weight {tensor.name!r} names no file to be read from: save the model again")
    if PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive or "\\" in location:
        raise UnsafeExternalData(
            f"{what}, an absolute path: a model may only point below its own folder; save it with a relative location"
        )
    if ".." in parts:
        raise UnsafeExternalData(
            f"{what}, which leaves the model's folder: a model may only point below it; save it there"
        )
    path = folder
    for part in parts:
        path /= part
        if path.is_symlink():
            raise UnsafeExternalData(
                f"{what}, but {path} is a symbolic link, which may point anywhere: put a copy of the file there"
            )
    try:
        found = path.lstat()
    except OSError:
        raise UnsafeExternalData(f"{what}, but {path} does not exist: put the file beside the model") from None
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
    return ExternalRange(path=path, offset=offset, length=length)


def _whole_number(text: str, key: str, what: str) -> int:
    # isdecimal alone would let other scripts' digits through; a minus sign is none of them.
    if not (text.isascii() and text.isdecimal() and len(text) < 20):  # noqa: PLR2004 - digits of 2**63
        raise UnsafeExternalData(f"{what}, but its {key} {text[:40]!r} is not a whole number of bytes: save it again")
    return int(text)


def _open_regular_file(path: Path, tensor_name: str) -> BinaryIO:
    """Open without following a link that was put there after the check."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise UnsafeExternalData(
            f"{path}, the file of weight {tensor_name!r}, cannot be read: {error.strerror}"
        ) from None
    return os.fdopen(descriptor, "rb")
