"""The models of a repository, read before a server is started."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plansmith_server.errors import InvalidRepository

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["ModelFolder", "is_shell_safe", "read_repository"]

# Triton starts the process of a Python-based backend through `bash -c` with the model's path and name unquoted: a
# space breaks the start (the server then waits forever), and other characters would be run as a command.
SHELL_SAFE = re.compile(r"[A-Za-z0-9_./:,@%+=-]+")


LARGEST_VERSION = 2**63 - 1
# What Triton and the backends read of a model: its own files, and those of its configurations and versions.
READ = ("*", "configs/*", "[0-9]*/*", "[0-9]*/*/*")
KINDS = {stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One model of a repository.

    Attributes:
        name: the folder's name, which is the model's.
        has_config: whether it has a config.pbtxt.
        config_names: the NAMEs of its configs/NAME.pbtxt, sorted.
        obstacle: why Triton would serve no model of a repository with this one in it, or "".
    """

    name: str
    has_config: bool = False
    config_names: tuple[str, ...] = ()
    obstacle: str = ""

    def config_used(self, config_name: str | None) -> str:
        """The file that Triton reads for this model when it was started with `--model-config-name=config_name`."""
        if config_name in self.config_names:
            return f"configs/{config_name}.pbtxt"
        return "config.pbtxt" if self.has_config else "from the model file"


def is_shell_safe(text: str) -> bool:
    """Whether Triton can pass `text` through its shell unharmed."""
    return SHELL_SAFE.fullmatch(text) is not None


def read_repository(folder: Path) -> tuple[ModelFolder, ...]:
    """The models below `folder`, by name.

    Raises:
        InvalidRepository: it is missing, not a folder or unreadable.
    """
    try:
        if not folder.exists():
            raise InvalidRepository(
                f"the model repository {folder} does not exist: name another with --repository, or make this one with"
                " `plansmith build MODEL.onnx`"
            )
        if not folder.is_dir():
            raise InvalidRepository(
                f"the model repository {folder} is a file: --repository takes the folder that holds a folder for each"
                " model"
            )
        return tuple(_read_model(path) for path in sorted(folder.iterdir()) if path.is_dir() or not path.exists())
    except PermissionError as error:
        raise InvalidRepository(
            f"no permission to read {error.filename}: give this user read access to the whole model repository"
        ) from error


def _read_model(folder: Path) -> ModelFolder:
    obstacle = next(_obstacles(folder), "")
    if obstacle:
        return ModelFolder(folder.name, obstacle=obstacle)
    names = {path.name for path in folder.iterdir()}
    configs = list((folder / "configs").iterdir()) if (folder / "configs").is_dir() else []
    return ModelFolder(
        name=folder.name,
        has_config="config.pbtxt" in names,
        config_names=tuple(sorted(path.stem for path in configs if path.suffix == ".pbtxt")),
    )


def _obstacles(folder: Path) -> Iterator[str]:
    """What would keep Triton from serving any model: it would wait for it, read without end, or stop."""
    if not folder.exists():
        yield f"{folder} is a link to nothing, at which Triton gives up: remove it"
    if not is_shell_safe(folder.name):
        yield (
            f"the model folder {folder.name!r} in {folder.parent} has a name that Triton cannot serve: rename it, using"
            " letters, digits, '_', '-' and '.' only"
        )
    for path in (path for pattern in READ for path in folder.glob(pattern)):
        try:
            kind = stat.S_IFMT(path.stat().st_mode)
        except OSError:  # a link to nothing or in a circle, which Triton reports for this model alone
            continue
        if kind in KINDS:
            yield f"{path} is {KINDS[kind]}, which Triton would wait for or read without end: remove it or use a file"
        if path.suffix == ".pbtxt" and kind == stat.S_IFDIR:
            yield f"{path} is a folder, and Triton reads it as a configuration: remove or rename it"
        if path.parent == folder and path.name.isdecimal() and int(path.name) > LARGEST_VERSION:
            yield f"{path} is not a version: use a number up to {LARGEST_VERSION}"
