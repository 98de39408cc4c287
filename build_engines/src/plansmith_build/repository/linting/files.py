"""Files that a configuration names: whether they are there, and inside the model's folder."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from plansmith_build.engines.tensorrt.plan_check import engine_version, plan_version
from plansmith_build.repository.linting.findings import error, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plansmith_build.repository.linting.context import ConfigContext
    from plansmith_build.repository.linting.findings import Finding

__all__ = ["check_files"]


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
        yield error(context.path, "the model has no version", fix)
    for version in context.served_versions:
        for field, path in context.files_of(version):
            yield from _check_model_file(context, version, field, path)
    for tensor in config.output:
        if tensor.label_filename:
            yield from _check_inside(
                context, context.model.path, tensor.label_filename, f"label_filename of output {tensor.name!r}"
            )
    for warmup in config.model_warmup:
        for name, data in warmup.inputs.items():
            if data.input_data_file:
                folder = context.model.path / "warmup"
                yield from _check_inside(context, folder, data.input_data_file, f"warm-up data of input {name!r}")


def _check_model_file(context: ConfigContext, version: int, field: str, path: Path) -> Iterator[Finding]:
    name = str(path.relative_to(context.model.path / str(version))) if path.is_relative_to(context.model.path) else ""
    if field and (not name or _leaves(name)):
        yield error(context.path, f"{field} points outside the version's folder", "name a file inside it")
        return
    if not path.exists():
        there = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
        yield error(
            context.path,
            f"version {version} has no {name}",
            f"add it, or name one of its files: {', '.join(there) or 'none'}",
        )
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
        yield error(context.path, f"the {what} points outside the model's folder: {name!r}", "name a file inside it")
    elif not (folder / name).is_file():
        yield error(context.path, f"the {what} does not exist: {name!r}", f"add {folder.name}/{name}")
    elif (folder / name).stat().st_size == 0:
        yield warning(context.path, f"the {what} is empty: {name!r}", "fill it, or remove the field")


def _leaves(name: str) -> bool:
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts
