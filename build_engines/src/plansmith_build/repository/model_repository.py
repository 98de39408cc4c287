"""The model repository: what Triton serves, and what plansmith records next to it.

<repository>/<model>/config.pbtxt         the portable configuration
<repository>/<model>/configs/*.pbtxt      further ones, picked by the server's --model-config-name
<repository>/<model>/labels.txt           the names of the classes
<repository>/<model>/history.json         every version that was ever published
<repository>/<model>/<version>/model.onnx, manifest.json, ...
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime  # noqa: TC003 - pydantic reads the annotation
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plansmith_build.errors import InvalidModel, InvalidOption, ModelNotFound
from plansmith_build.reading.regular_files import read_regular
from plansmith_build.repository.manifest import read_manifest

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_build.repository.manifest import Manifest

__all__ = [
    "COMPANION",
    "CONFIG",
    "CONFIGS",
    "HISTORY",
    "LABELS",
    "MANIFEST",
    "History",
    "HistoryEntry",
    "ModelRepository",
    "RepositoryModel",
    "name_from_file",
    "valid_name",
]

# In the folder of an ensemble's own step, where servers do not look: only what has it is removed with the ensemble.
COMPANION = "companion.json"
CONFIG = "config.pbtxt"
CONFIGS = "configs"
HISTORY = "history.json"
LABELS = "labels.txt"
MANIFEST = "manifest.json"

# What is a folder name on every file system, a word in every URL and a label in every metric.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
# Triton ignores version folders that begin with a zero.
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
# Python refuses to read numbers of thousands of digits, and no name of a file is longer than this.
_DIGITS = re.compile(r"[0-9]{1,255}")


class HistoryEntry(BaseModel):
    """One version that was published."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int
    created: datetime
    source_sha256: str


class History(BaseModel):
    """history.json: so that a number is never used again, also when its folder was removed."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    config_sha256s: tuple[str, ...] = Field(
        default=(), description="of the configurations that plansmith wrote: any other is a person's"
    )
    versions: tuple[HistoryEntry, ...] = ()


@dataclass(frozen=True)
class RepositoryModel:
    """One model's folder."""

    path: Path

    @property
    def name(self) -> str:
        """The model's name, which is its folder's."""
        return self.path.name

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions that Triton would find, the oldest first."""
        folders = (entry for entry in self.path.iterdir() if entry.is_dir())
        return tuple(sorted(int(folder.name) for folder in folders if _VERSION.fullmatch(folder.name)))

    @property
    def configurations(self) -> dict[str, Path]:
        """The configurations that a server may pick, by path in the model's folder: config.pbtxt first."""
        named = sorted((self.path / CONFIGS).glob("*.pbtxt"))
        files = [path for path in [self.path / CONFIG, *named] if path.is_file()]
        return {str(path.relative_to(self.path)): path for path in files}

    @property
    def history(self) -> History:
        """What was published here; empty where plansmith has not.

        Raises:
            InvalidModel: the file is there and cannot be read: an old number could be given again.
        """
        path = self.path / HISTORY
        try:
            return History.model_validate_json(read_regular(path))
        except FileNotFoundError:
            return History()
        except (OSError, ValidationError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not what plansmith writes"
            raise InvalidModel(
                f"{path} cannot be read ({why}), so the number of a removed version could be given again: restore it "
                "from a copy, or remove it if no version was ever removed"
            ) from error

    @property
    def next_version(self) -> int:
        """The number of the next version: above every one that is there or ever was.

        Raises:
            InvalidModel: history.json cannot be read, or the number would be too large for a server.
        """
        if not self.path.is_dir():
            return 1
        there = (int(entry.name) for entry in self.path.iterdir() if _DIGITS.fullmatch(entry.name))
        following = max([0, *there, *(entry.version for entry in self.history.versions)]) + 1
        if not _VERSION.fullmatch(str(following)):
            raise InvalidModel(
                f"the next version of {self.name!r} would be {following}, which no server finds: remove the folder "
                f"with such a number from {self.path}, and its entry from {HISTORY}"
            )
        return following

    def version_path(self, version: int) -> Path:
        """The folder of a version.

        Raises:
            ModelNotFound: there is no such version.
        """
        path = self.path / str(version)
        if not path.is_dir():
            there = ", ".join(map(str, self.versions)) or "none"
            raise ModelNotFound(f"model {self.name!r} has no version {version}; there are: {there}")
        return path

    def manifest(self, version: int) -> Manifest:
        """The manifest of a version.

        Raises:
            ModelNotFound: there is no such version.
            InvalidModel: the manifest cannot be read, or is that of another model or version: its files may be right
                and still not what was published here.
        """
        path = self.version_path(version) / MANIFEST
        manifest = read_manifest(path)
        if (manifest.model, manifest.version) != (self.name, version):
            raise InvalidModel(
                f"{path} is the manifest of {manifest.model!r} version {manifest.version}, "
                f"not of {self.name!r} version {version}"
            )
        return manifest


@dataclass(frozen=True)
class ModelRepository:
    """A model repository on disk, which need not exist yet.

    Attributes:
        path: the folder, absolute and without symbolic links, so that its neighbour is on the same file system.
    """

    path: Path

    @classmethod
    def at(cls, path: Path) -> ModelRepository:
        """The repository at a path.

        Raises:
            InvalidOption: there is something else than a folder.
        """
        try:
            resolved = path.resolve()
            found = next(place for place in [resolved, *resolved.parents] if place.exists())
            if not found.is_dir():
                what = "is a file" if found == resolved else f"would be below {found}, which is a file"
                raise InvalidOption(f"the repository {path} {what}: name a folder, which is made if it does not exist")
        except OSError as error:
            raise InvalidOption(f"the repository {path} cannot be used: {error.strerror}") from error
        except RuntimeError as error:  # a loop of symbolic links, before Python 3.13
            raise InvalidOption(f"the repository {path} is a symbolic link to itself: name a folder") from error
        return cls(resolved)

    def model(self, name: str) -> RepositoryModel:
        """A model's folder, which need not exist yet.

        Raises:
            InvalidOption: the name cannot be that of a model.
        """
        return RepositoryModel(self.path / valid_name(name))

    def existing_model(self, name: str) -> RepositoryModel:
        """A model that is there, also under a name that plansmith would not give.

        Raises:
            ModelNotFound: there is none.
        """
        if name in self.names():
            return RepositoryModel(self.path / name)
        self.require()
        there = ", ".join(self.names()) or "none"
        raise ModelNotFound(f"the repository {self.path} has no model {name!r}; there are: {there}")

    def require(self) -> None:
        """Whether the repository exists.

        Raises:
            ModelNotFound: it does not.
        """
        if not self.path.is_dir():
            raise ModelNotFound(f"there is no repository {self.path}: name one with --repository")

    def names(self) -> tuple[str, ...]:
        """The models by name: every folder below the repository, as Triton sees it."""
        if not self.path.is_dir():
            return ()
        return tuple(sorted(entry.name for entry in self.path.iterdir() if entry.is_dir()))


def valid_name(name: str) -> str:
    """The same name.

    Raises:
        InvalidOption: it cannot be that of a model.
    """
    if _NAME.fullmatch(name):
        return name
    if not name:
        why = "it is empty"
    elif "/" in name or "\\" in name:
        why = "it has a slash in it"
    elif name.startswith("."):
        why = "it begins with a dot"
    elif len(name) > 128:  # noqa: PLR2004 - as in _NAME
        why = "it is longer than 128 characters"
    else:
        why = (
            "it has other characters than letters, digits, '_', '-', '+' and '.', or begins with one of the last three"
        )
    raise InvalidOption(f"{name!r} cannot be the name of a model: {why}")


def name_from_file(path: Path) -> str:
    """A model name made from a file's: `my model (2).onnx` gives `my_model_2`.

    Raises:
        InvalidOption: nothing is left of it.
    """
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "_", path.stem).strip("_.+-")[:128]
    if not _NAME.fullmatch(name):
        raise InvalidOption(f"no model name can be made from {path.name!r}: give one with --name")
    return name
