"""Publishing where a file system cannot exchange two folders: file by file, every state in between right.

1. what plansmith is about to write is noted in history.json, so that the next builder knows it for its own after a
   builder was killed;
2. each live configuration is replaced by itself, pinned to the versions that it serves now;
3. the new version's folder is renamed in, and no server takes it yet;
4. new labels and other files are renamed in;
5. the new configurations, which serve the newest version, replace the pinned ones, config.pbtxt last;
6. the configurations that the new version does not have are removed, and history.json tells of the new ones alone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidModel
from plansmith_build.repository.config import config_from_text, text_from_config
from plansmith_build.repository.filesystem import sync_file, write_new
from plansmith_build.repository.model_repository import CONFIG, CONFIGS, HISTORY, History, RepositoryModel

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["publish_in_order"]


def publish_in_order(folder: Path, live: RepositoryModel, version: int) -> None:
    """Move a version into a live model folder file by file, in an order in which every state in between is right.

    Args:
        folder: the complete new model folder.
        live: the model's folder.
        version: the new version's number.

    Raises:
        OSError: something could not be moved, and what had been is back in its old state.
    """
    scratch = folder.parent
    changed = _changed(folder, live)
    gone = [name for name in live.configurations if not (folder / name).exists()]
    pinned = _pinned_configurations(live) if live.versions else {}
    # One that stays as it is must be put back after it was pinned.
    changed = sorted({*changed, *(name for name in pinned if (folder / name).exists())}, key=_order)
    touched = {*changed, *gone, *pinned, HISTORY}
    kept = _copies(live, touched, scratch / "kept")
    had_configs = (live.path / CONFIGS).exists()
    try:
        _replace(scratch, live, HISTORY, _history_on_the_way(folder, live, pinned))
        for name, content in pinned.items():
            _replace(scratch, live, name, content)
        os.rename(folder / str(version), live.path / str(version))  # noqa: PTH104 - a system call by this name
        if not had_configs and (folder / CONFIGS).exists():
            (live.path / CONFIGS).mkdir()
        for name in changed:
            os.replace(folder / name, live.path / name)  # noqa: PTH105
        for name in gone:
            (live.path / name).unlink()
        if gone and not (folder / CONFIGS).exists():
            (live.path / CONFIGS).rmdir()
        os.replace(folder / HISTORY, live.path / HISTORY)  # noqa: PTH105
    except BaseException:
        # It may be there although it was not moved: then something else took its place meanwhile.
        if not (folder / str(version)).exists():
            os.rename(live.path / str(version), folder / str(version))  # noqa: PTH104
        _put_back(live, touched, kept)
        if not had_configs and (live.path / CONFIGS).exists():
            (live.path / CONFIGS).rmdir()
        raise


def _put_back(live: RepositoryModel, names: set[str], kept: Path) -> None:
    for name in names:
        if (kept / name).exists():
            (live.path / name).parent.mkdir(exist_ok=True)
            os.replace(kept / name, live.path / name)  # noqa: PTH105
        else:
            (live.path / name).unlink(missing_ok=True)


def _changed(folder: Path, live: RepositoryModel) -> list[str]:
    """The files that are new or other than the live ones, configurations last and config.pbtxt the very last."""
    there = [*folder.iterdir(), *((folder / CONFIGS).iterdir() if (folder / CONFIGS).is_dir() else ())]
    names = [str(path.relative_to(folder)) for path in there if path.is_file()]
    changed = [name for name in names if name != HISTORY and not _same_file(folder / name, live.path / name)]
    return sorted(changed, key=_order)


def _order(name: str) -> tuple[bool, bool, str]:
    return name.endswith(".pbtxt"), name == CONFIG, name


def _same_file(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def _copies(live: RepositoryModel, names: set[str], kept: Path) -> Path:
    kept.mkdir()
    (kept / CONFIGS).mkdir()
    for name in names:
        if (live.path / name).exists():
            shutil.copy2(live.path / name, kept / name)
            sync_file(kept / name)
    return kept


def _replace(scratch: Path, live: RepositoryModel, name: str, content: bytes) -> None:
    write_new(scratch / "next", content)
    # After a power failure the name must not lead to a file that is empty yet.
    sync_file(scratch / "next")
    os.replace(scratch / "next", live.path / name)  # noqa: PTH105


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
    policy = message.version_policy
    served = list(versions)
    match policy.WhichOneof("policy_choice"):
        case "specific":
            return config
        case "all":
            pass
        case _:
            served = served[-(policy.latest.num_versions or 1) :]
    policy.specific.versions.extend(served)
    return text_from_config(message).encode()
