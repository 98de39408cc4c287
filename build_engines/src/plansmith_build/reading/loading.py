"""Reading and checking an ONNX file from an untrusted source."""

from __future__ import annotations

import hashlib
import stat
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import DecodeError

from plansmith_build.errors import InvalidModel
from plansmith_build.reading.external_data import (
    ExternalRange,
    check_external_data,
    read_external_data,
    sha256_of_weights,
    state_of,
)
from plansmith_build.reading.networks import INLINE_BYTES, SMALL_TENSOR_BYTES, Network, detach, weights_apart
from plansmith_build.reading.operators import check_operators

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

__all__ = ["OnnxFile", "load_onnx"]

# A model that is larger than a protobuf message may be has its weights in a file of their own.
PROTOBUF_BYTES = 2**31 - 1

# Every ONNX writer begins with the IR version, a small number: field 1 of the message, as a varint.
_FIRST_FIELD = b"\x08"

# Enough of a tensor to find it by, and how often something else may begin like it.
_PREFIX_BYTES = 256
_TRIES = 1000

_EXPORT = "export the model to ONNX first (plansmith export)"
# What people hand over instead, by its first bytes.
_OTHER_FORMATS = {
    b"PK\x03\x04": f"a zip archive, as PyTorch and Keras save their models: {_EXPORT}",
    **dict.fromkeys((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), f"a Python pickle: {_EXPORT}"),
    b"\x89HDF": f"an HDF5 file, as Keras saves its models: {_EXPORT}",
    b"version https://git-lfs": "a Git LFS pointer: fetch the file itself with git lfs pull",
    b"<!DOCTYPE": "a web page: download the file itself",
    b"<html": "a web page: download the file itself",
    b"ftrt": "a TensorRT plan: build from the ONNX file it was made from",
    b"vtrt": "an engine of TensorRT for RTX: build from the ONNX file it was made from",
}


@dataclass(frozen=True)
class OnnxFile:
    """A model that was read, checked, and found to be something that ONNX Runtime can run.

    Attributes:
        path: the file.
        network: the graph, and its weights apart. External weights are read, unless the whole is larger than
            `INLINE_BYTES`: then all that are large stay where they are, those inside the file as well.
        sha256: of the file; where it has external weights, of the lines `<SHA-256>  <name>` of the file and of each
            file of weights, by name, as sha256sum prints them.
        size: bytes of the file and of the external weights that it names.
    """

    path: Path
    network: Network
    sha256: str
    size: int


def load_onnx(path: Path) -> OnnxFile:
    """Read an ONNX file and check it.

    Raises:
        InvalidModel: there is no such file, it is not an ONNX model, is damaged, or breaks the rules of ONNX.
        UnsupportedOperator: it uses an operator that the installed ONNX Runtime does not have.
        UnsafeExternalData: its weights are not where a model may point.
    """
    content = _read(path)
    model = _parse(path, content)
    if not _is_text(model):
        raise InvalidModel(f"{path} has names or text in it that are not UTF-8: export the model again")
    content_sha256 = hashlib.sha256(content).hexdigest()
    size = len(content)
    inside = _places_inside(path, content, model) if size > INLINE_BYTES else {}
    del content
    places = check_external_data(model, path.parent)
    size += sum(place.length for place in places.values())
    sha256 = _sha256(path, content_sha256, places.values())
    read_external_data(model, path.parent, largest=None if size <= INLINE_BYTES else SMALL_TENSOR_BYTES)
    network = detach(model, {name: places[name] for name in weights_apart(model)} | inside)
    del model
    # Before the rules: an operator that does not exist breaks them too, and here it is named with its node.
    check_operators(network.model)
    _check(path, network.model)
    return OnnxFile(path=path, network=network, sha256=sha256, size=size)


def _sha256(path: Path, content: str, weights: Collection[ExternalRange]) -> str:
    """One hash for the file and its weights."""
    if not weights:
        return content
    names = {str(place.path.relative_to(path.parent)): place for place in weights}
    lines = [f"{content}  {path.name}\n", *(f"{sha256_of_weights(names[name])}  {name}\n" for name in sorted(names))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InvalidModel(f"{path} is a folder: name the .onnx file")
        if not stat.S_ISREG(status.st_mode):
            raise InvalidModel(f"{path} is not a regular file: name an .onnx file")
        if status.st_size > PROTOBUF_BYTES:
            raise InvalidModel(
                f"{path} is larger than 2 GiB, which no ONNX file can be: "
                "save it with onnx.save(..., save_as_external_data=True)"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise InvalidModel(f"{path} does not exist: name an .onnx file, or {_EXPORT}") from None
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {error.strerror}") from error


def _parse(path: Path, content: bytes) -> onnx.ModelProto:
    if not content:
        raise InvalidModel(f"{path} is empty: export the model again")
    for magic, what in _OTHER_FORMATS.items():
        if content.startswith(magic):
            raise InvalidModel(f"{path} is not an ONNX file but {what}")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        if content.startswith(_FIRST_FIELD) and content[1:2] < b"\x40":
            raise InvalidModel(
                f"{path} is truncated or damaged: it begins as an ONNX file and ends in the middle of something; "
                "copy or export it again"
            ) from None
        raise InvalidModel(f"{path} is not an ONNX file: {_EXPORT}") from None
    if not model.HasField("graph"):
        raise InvalidModel(f"{path} is not an ONNX file, or is truncated: there is no graph in it")
    if not model.opset_import:
        raise InvalidModel(f"{path} is truncated, or not an ONNX model: it does not say which operator set it uses")
    return model


def _places_inside(path: Path, content: bytes, model: onnx.ModelProto) -> dict[str, ExternalRange]:
    """Where the large weights are in the model file itself, so that none is held in memory."""
    file, end = path.resolve(), 0
    state = state_of(file.stat())
    places = {}
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        if len(raw) < SMALL_TENSOR_BYTES:
            continue
        # Tensors stand in the file in the order of the graph; equal bytes found earlier are as good.
        start = end
        for _ in range(_TRIES):
            start = content.find(raw[:_PREFIX_BYTES], start)
            if start < 0 or content.startswith(raw, start):
                break
            start += 1
        if start >= 0 and content.startswith(raw, start):
            end = start + len(raw)
            places[tensor.name] = ExternalRange(file, start, len(raw), state)
    return places


def _is_text(message: Any) -> bool:
    """Whether all text in a message is UTF-8: ONNX's protocol buffers do not look, and give bytes where it is not."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            if not all(map(_is_text, value if field.is_repeated else [value])):
                return False
        elif field.type == field.TYPE_STRING and not all(
            isinstance(text, str) for text in (value if field.is_repeated else [value])
        ):
            return False
    return True


def _check(path: Path, model: onnx.ModelProto) -> None:
    if not model.graph.node:
        raise InvalidModel(f"{path} has an empty graph, there is nothing to serve: export the model again")
    if not model.graph.output:
        raise InvalidModel(f"{path} has no outputs: name what the model gives when it is exported")
    try:
        onnx.checker.check_model(_for_checker(model))
    except onnx.checker.ValidationError as error:
        said = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise InvalidModel(f"{path} breaks the rules of ONNX: {said.replace('==> Context:', 'In:')}") from None
    except RuntimeError as error:
        raise InvalidModel(f"{path} breaks the rules of ONNX: {error}") from None


def _for_checker(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without what the checker would stumble over and we do not.

    It looks for the content of tensors, which is held apart, and it wants a shape for each input and output, which
    ONNX Runtime does not: a missing one is inferred, or asked for, later.
    """
    copy = deepcopy(model)
    for tensor in copy.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            # An empty tensor of the same name and type says nothing that is untrue of the graph's structure.
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.dims[:]
            tensor.dims.append(0)
            tensor.raw_data = b""
    for value in [*copy.graph.input, *copy.graph.output]:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    return copy
