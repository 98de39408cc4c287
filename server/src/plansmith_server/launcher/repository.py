"""The models of a repository, read before a server is started."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plansmith_server.errors import InvalidRepository

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ModelFolder", "is_shell_safe", "read_repository"]

# Triton starts the process of a Python-based backend through `bash -c` with the model's path and name unquoted: a
# space breaks the start (the server then waits forever), and other characters would be run as a command.
SHELL_SAFE = re.compile(r"[A-Za-z0-9_./:,@%+=-]+")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One model of a repository.

    Attributes:
        name: the folder's name, which is the model's.
        has_config: whether it has a config.pbtxt.
        config_names: the NAMEs of its configs/NAME.pbtxt, sorted.
    """

    name: str
    has_config: bool
    config_names: tuple[str, ...]

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
        InvalidRepository: it is missing, not a folder or unreadable, or a model's name cannot be served.
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
        return tuple(_read_model(path) for path in sorted(folder.iterdir()) if path.is_dir())
    except PermissionError as error:
        raise InvalidRepository(
            f"no permission to read {error.filename}: give this user read access to the whole model repository"
        ) from error


def _read_model(folder: Path) -> ModelFolder:
    if not is_shell_safe(folder.name):
        raise InvalidRepository(
            f"the model folder {folder.name!r} in {folder.parent} has a name that Triton cannot serve: rename it, using"
            " letters, digits, '_', '-' and '.' only"
        )
    names = {path.name for path in folder.iterdir()}
    configs = list((folder / "configs").iterdir()) if "configs" in names else []
    return ModelFolder(
        name=folder.name,
        has_config="config.pbtxt" in names,
        config_names=tuple(sorted(path.stem for path in configs if path.suffix == ".pbtxt")),
    )
