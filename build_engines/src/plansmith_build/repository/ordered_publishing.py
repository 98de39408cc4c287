"""Publishing where a file system cannot exchange two folders: file by file, every state in between right.

1. what plansmith is about to write is noted in history.json, so that the next builder knows it for its own after a
   builder was killed;
2. each live configuration is replaced by itself, pinned to the versions that it serves now;
3. the new version's folder is renamed in, and no server takes it yet;
4. new labels and other files are renamed in;
5. the new configurations, which serve the newest version, replace the pinned ones, config.pbtxt last;
6. the configurations that the new version does not have are removed, and history.json tells of the new ones alone.

Each file is looked at once more before it is replaced or removed: what a person wrote in that moment is set aside.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidModel, PublishFailed
from plansmith_build.reading.regular_files import sha256_of
from plansmith_build.repository.config import config_from_text, text_from_config, versions_served
from plansmith_build.repository.edits import set_aside
from plansmith_build.repository.filesystem import sync_file
from plansmith_build.repository.model_repository import CONFIG, CONFIGS, HISTORY, LABELS, History, RepositoryModel
from plansmith_build.repository.warmup import WARMUP

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = ["publish_in_order"]


def publish_in_order(folder: Path, live: RepositoryModel, version: int, before: Mapping[str, str]) -> list[str]:
    """Move a version into a live model folder file by file, in an order in which every state in between is right.

    Args:
        folder: the complete new model folder, on the disk.
        live: the model's folder.
        version: the new version's number.
        before: what `person_files` said of the live folder when it was last looked at.

    Returns:
        Notes for the user, on what was edited since then.

    Raises:
        OSError: something could not be moved, and what had been is back in its old state.
        PublishFailed: something could not be moved, and not everything could be moved back.
    """
    scratch = folder.parent
    pinned = _pinned_configurations(live) if live.versions else {}
    gone = [name for name in live.configurations if not (folder / name).exists()]
    # One that stays as it is must be put back after it was pinned.
    changed = {*_changed(folder, live), *(name for name in pinned if (folder / name).exists())}
    # Everything that a step or its undoing needs is on the disk before the first of them: a full disk stops neither.
    old = _copies(live, {*changed, *gone, *pinned, HISTORY}, scratch / "kept")
    history = {HISTORY: _history_on_the_way(folder, live, pinned)}
    pins = _written({**history, **pinned}, scratch / "pins")
    back_to_pins = {**old, **_written(pinned, scratch / "back")}
    failed: list[OSError] = []
    edits = _Edits(live, version, {**before}, scratch / "edit")
    with ExitStack() as steps:

        def on_error(undo: Callable[..., None], *arguments: Path | None) -> None:
            """Note how the next step is undone; before it is taken, since an interrupt may come between the two."""

            def attempt() -> None:
                try:
                    undo(*arguments)
                except OSError as error:
                    failed.append(error)

            steps.callback(attempt)

        steps.push(partial(_complain, failed))
        for name in (HISTORY, *pinned):
            edits.keep(name)
            on_error(_restore, live.path / name, old.get(name))
            os.replace(pins[name], live.path / name)  # noqa: PTH105 - a system call by this name
        edits.expected |= {name: hashlib.sha256(content).hexdigest() for name, content in pinned.items()}
        _sync_folders(live)
        on_error(_rename_back, folder / str(version), live.path / str(version))
        os.rename(folder / str(version), live.path / str(version))  # noqa: PTH104
        _sync_folders(live)
        for inner in (CONFIGS, WARMUP):
            if not (live.path / inner).exists() and (folder / inner).exists():
                on_error((live.path / inner).rmdir)
                (live.path / inner).mkdir()
        for name in sorted(changed, key=_order):
            edits.keep(name)
            on_error(_restore, live.path / name, back_to_pins.get(name))
            os.replace(folder / name, live.path / name)  # noqa: PTH105
        for name in gone:
            edits.keep(name)
            on_error(_restore, live.path / name, back_to_pins[name])
            (live.path / name).unlink()
        if gone and not (folder / CONFIGS).exists():
            (live.path / CONFIGS).rmdir()
        os.replace(folder / HISTORY, live.path / HISTORY)  # noqa: PTH105
        steps.pop_all()
    _sync_folders(live)
    return edits.notes


@dataclass
class _Edits:
    """What a person wrote in the moment of publishing.

    Attributes:
        live: the model's folder.
        version: that is being published.
        expected: the SHA-256 of each file that a person may edit, as far as it is known.
        scratch: a path on the same file system where nothing is.
        notes: what was set aside.
    """

    live: RepositoryModel
    version: int
    expected: dict[str, str]
    scratch: Path
    notes: list[str] = field(default_factory=list)

    def keep(self, name: str) -> None:
        """Set a copy of a file aside if it is not what it is expected to be."""
        path = self.live.path / name
        if name.endswith((".pbtxt", LABELS)) and path.exists() and sha256_of(path) != self.expected.get(name):
            shutil.copy2(path, self.scratch)
            sync_file(self.scratch)
            self.notes.append(set_aside(self.scratch, self.live.path, name, self.version))


def _complain(failed: list[OSError], _kind: object, error: BaseException | None, _trace: object) -> None:
    """Called after all undoing, which no error cuts short."""
    if failed:
        raise PublishFailed(
            f"cannot publish: {error}; and not everything could be moved back: {failed[0]}. See with "
            "`plansmith verify` what is there, and build the model again"
        ) from error


def _restore(target: Path, old: Path | None) -> None:
    if old is None:
        target.unlink(missing_ok=True)
    else:
        target.parent.mkdir(exist_ok=True)
        os.replace(old, target)  # noqa: PTH105


def _rename_back(folder: Path, target: Path) -> None:
    # It may be there although it was not moved: then something else took its place meanwhile.
    if not folder.exists():
        os.rename(target, folder)  # noqa: PTH104


def _changed(folder: Path, live: RepositoryModel) -> set[str]:
    """The files that are new or other than the live ones."""
    there = [*folder.iterdir(), *(folder / CONFIGS).glob("*"), *(folder / WARMUP).glob("*")]
    names = {str(path.relative_to(folder)): path for path in there if path.is_file()}
    return {name for name, path in names.items() if name != HISTORY and not _same_file(path, live.path / name)}


def _order(name: str) -> tuple[bool, bool, str]:
    """Configurations come last, and config.pbtxt the very last."""
    return name.endswith(".pbtxt"), name == CONFIG, name


def _same_file(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def _copies(live: RepositoryModel, names: set[str], folder: Path) -> dict[str, Path]:
    """Copies of the files that are there, by name, on the disk."""
    there = [name for name in names if (live.path / name).exists()]
    copies = _written(dict.fromkeys(there, b""), folder)
    for name, copy in copies.items():
        shutil.copy2(live.path / name, copy)
        sync_file(copy)
    return copies


def _written(contents: Mapping[str, bytes], folder: Path) -> dict[str, Path]:
    """Files with these contents, by name, on the disk."""
    for inner in (CONFIGS, WARMUP):
        (folder / inner).mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        # After a power failure a name must not lead to a file that is empty yet.
        sync_file(folder / name)
    return {name: folder / name for name in contents}


def _sync_folders(live: RepositoryModel) -> None:
    """Bring what was renamed so far to the disk before what is renamed next."""
    for folder in (live.path / CONFIGS, live.path / WARMUP, live.path):
        if folder.exists():
            sync_file(folder)


def _history_on_the_way(folder: Path, live: RepositoryModel, pinned: dict[str, bytes]) -> bytes:
    """The new history, which also knows the configurations that are there until the last step."""
    new = History.model_validate_json((folder / HISTORY).read_bytes())
    ours = live.history.config_sha256s
    # A pinned copy of a person's configuration stays a person's.
    on_the_way = [
        hashlib.sha256(content).hexdigest()
        for name, content in pinned.items()
        if hashlib.sha256((live.path / name).read_bytes() if (live.path / name).exists() else b"").hexdigest() in ours
    ]
    known = tuple(dict.fromkeys([*new.config_sha256s, *ours, *on_the_way]))
    return (new.model_copy(update={"config_sha256s": known}).model_dump_json(indent=2) + "\n").encode()


def _pinned_configurations(live: RepositoryModel) -> dict[str, bytes]:
    """Each live configuration, config.pbtxt also where there is none, so that it serves what it serves now."""
    there = {CONFIG: live.path / CONFIG, **live.configurations}
    return {name: _pinned(path, live.versions) for name, path in there.items()}


def _pinned(path: Path, versions: tuple[int, ...]) -> bytes:
    """A configuration that serves what this one, which may be missing, serves now, whatever versions come."""
    config = path.read_bytes() if path.exists() else b""
    try:
        message = config_from_text(config.decode())
    except (InvalidModel, UnicodeDecodeError):
        # A server cannot read it either, so it serves nothing that would have to stay.
        return config
    if message.version_policy.HasField("specific"):
        return config
    message.version_policy.specific.versions.extend(versions_served(message, versions))
    return text_from_config(message).encode()
