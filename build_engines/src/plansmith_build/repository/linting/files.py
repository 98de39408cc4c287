"""Files that a configuration names: whether they are there, and inside the model's folder."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tritonclient.grpc import model_config_pb2

from plansmith_build.engines.tensorrt.plan_check import engine_version, plan_version
from plansmith_build.reading.regular_files import read_regular
from plansmith_build.repository.linting.findings import error, warning
from plansmith_client.tensors import datatype_from_config_type, numpy_dtype_from_datatype

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plansmith_build.repository.linting.context import ConfigContext
    from plansmith_build.repository.linting.findings import Finding

__all__ = ["check_data_file", "check_files"]


_COMPILED = {".plan": (plan_version, "a TensorRT plan"), ".engine": (engine_version, "an engine of TensorRT for RTX")}


def check_files(context: ConfigContext) -> Iterator[Finding]:
    """Model files, labels and warm-up data."""
    config = context.config
    if not context.model.versions and context.backend:
        fix = (
            "create an empty folder named 1"
            if context.backend == "ensemble"
            else "put the model file into a folder named 1"
        )
        yield context.error("the model has no version", fix)
    # An ensemble reads no file, whatever it names.
    for version in context.served_versions if context.backend != "ensemble" else ():
        for field, path in context.files_of(version):
            yield from _check_model_file(context, version, field, path)
    for tensor in config.output:
        if tensor.label_filename:
            what = f"label_filename of output {tensor.name!r}"
            refused = list(_check_inside(context, context.model.path, tensor.label_filename, what))
            yield from refused or _check_labels(context, tensor)


def check_data_file(
    context: ConfigContext, what: str, folder: str, name: str, *, data_type: int, numbers: int
) -> Iterator[Finding]:
    """Whether a file of the values of a tensor is there and large enough, as its server reads it."""
    path = context.model.path / folder / name
    yield from _check_inside(context, context.model.path / folder, name, what)
    kind = model_config_pb2.DataType.Name(data_type)
    if _leaves(name) or not path.is_file() or kind in {"TYPE_STRING", "TYPE_INVALID"}:
        return
    item = numpy_dtype_from_datatype(datatype_from_config_type(kind)).itemsize if kind != "TYPE_BF16" else 2
    if path.stat().st_size < numbers * item:
        yield context.error(
            f"the {what} needs {numbers * item} bytes, and {name} has {path.stat().st_size}",
            "write the whole tensor, row by row, into the file",
        )


def _check_model_file(context: ConfigContext, version: int, field: str, path: Path) -> Iterator[Finding]:
    name = str(path.relative_to(context.model.path / str(version))) if path.is_relative_to(context.model.path) else ""
    if field and (not name or _leaves(name)):
        yield context.error(f"{field} points outside the version's folder", "name a file inside it")
        return
    if not path.exists():
        there = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
        yield context.error(
            f"version {version} has no {name}", f"add it, or name one of its files: {', '.join(there) or 'none'}"
        )
    elif path.suffix == ".xml" and not (weights := path.with_suffix(".bin")).is_file():
        yield context.error(f"version {version} has {name} without {weights.name}", "add it: it has the weights")
    elif path.suffix in _COMPILED:
        version_of, kind = _COMPILED[path.suffix]
        try:
            built_by = version_of(path)
        except OSError:
            built_by = None
        if built_by is None:
            yield error(str(path.relative_to(context.model.path.parent)), f"this is not {kind}", "build it again")


def _check_inside(context: ConfigContext, folder: Path, name: str, what: str) -> Iterator[Finding]:
    if _leaves(name):
        yield context.error(f"the {what} points outside the model's folder: {name!r}", "name a file inside it")
    elif not (folder / name).is_file():
        yield context.error(f"the {what} does not exist: {name!r}", f"add {folder.name}/{name}")
    elif (folder / name).stat().st_size == 0:
        yield context.warning(f"the {what} is empty: {name!r}", "fill it, or remove the field")


def _check_labels(context: ConfigContext, tensor: Any) -> Iterator[Finding]:
    """Whether there is a name for each number of the output: Triton's classification ends lines at LF alone."""
    where = f"{context.model.name}/{tensor.label_filename}"
    try:
        text = read_regular(context.model.path / tensor.label_filename).decode()
    except (OSError, ValueError) as problem:
        yield error(where, f"the labels cannot be read: {problem}", "save them as UTF-8 text, one label a line")
        return
    if len(text.splitlines()) != text.count("\n") + (not text.endswith("\n")) or "\r" in text:
        yield warning(where, "a server ends labels at LF only, and other line ends are in it", "save it with LF lines")
        return
    wanted = math.prod(tensor.dims) if tensor.dims and min(tensor.dims) > 0 else None
    if wanted not in (None, len(text.splitlines())):
        yield warning(
            where,
            f"it has {len(text.splitlines())} labels, and output {tensor.name!r} has {wanted} numbers",
            "write one label for each",
        )


def _leaves(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts
