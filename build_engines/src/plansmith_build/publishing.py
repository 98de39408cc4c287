"""Putting a finished version into a repository, whole or not at all.

A configuration belongs to a model and not to a version of it, so both change in one step: the complete new model
folder is made in the staging folder, versions that do not change as hard links, and exchanged with the live one. A new
model is renamed into place. A lock on the repository's folder serialises builders.

Where folders cannot be exchanged, the files are moved one by one in an order in which every state in between is right:

1. the live configuration is replaced by itself, pinned to the versions that it serves now;
2. the new version's folder is renamed in, and no server takes it yet;
3. new labels and other files are renamed in;
4. the new configuration, which serves the newest version, replaces the pinned one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plansmith_build.config import config_from_text, text_from_config
from plansmith_build.errors import InvalidModel, InvalidOption, PublishFailed
from plansmith_build.filesystem import (
    ExchangeUnsupported,
    explain_os_error,
    make_folder,
    mirror,
    rename_exchange,
    rename_new,
    sync_tree,
    write_new,
)
from plansmith_build.hashing import sha256_of
from plansmith_build.locking import locked_folder
from plansmith_build.manifest import PublishedFile
from plansmith_build.repository import CONFIG, HISTORY, LABELS, MANIFEST, History, HistoryEntry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from plansmith_build.manifest import Manifest
    from plansmith_build.repository import ModelRepository, RepositoryModel

__all__ = ["Published", "Release", "publish", "publish_in_order"]


@dataclass(frozen=True)
class Release:
    """What is to be published.

    Attributes:
        model_files: the version's files, in the staging folder; they are moved.
        labels: the new content of labels.txt, None to keep what is there.
        configure: the text of config.pbtxt for the content of labels.txt (None where there will be none).
        describe: the manifest for a version number and the files, config.pbtxt and labels.txt among them.
    """

    model_files: tuple[Path, ...]
    labels: bytes | None
    configure: Callable[[bytes | None], str]
    describe: Callable[[int, tuple[PublishedFile, ...]], Manifest]


@dataclass(frozen=True)
class Published:
    """A version that is in the repository.

    Attributes:
        version: its number.
        path: its folder.
        manifest: its manifest.
        notes: sentences about what was found there and kept.
    """

    version: int
    path: Path
    manifest: Manifest
    notes: tuple[str, ...]


def publish(repository: ModelRepository, name: str, release: Release, *, staging: Path) -> Published:
    """Publish a version.

    Args:
        repository: where to; made if need be.
        name: the model's.
        release: what.
        staging: the builder's own folder, on the same file system.

    Raises:
        InvalidOption: something that is no model folder stands in its place.
        PublishFailed: the system did not let it be written; the repository is as it was.
    """
    new_repository = not repository.path.exists()
    try:
        with locked_folder(repository.path):
            live = repository.model(name)
            if live.path.is_symlink() or (live.path.exists() and not live.path.is_dir()):
                raise InvalidOption(f"{live.path} is not a folder: remove it, or choose another name with --name")
            return _publish(live, release, staging)
    except OSError as error:
        raise explain_os_error(error, f"publish {name!r} in {repository.path}") from error
    finally:
        # After a failure a repository that was made for nothing goes again; one with a model in it stays.
        if new_repository:
            with contextlib.suppress(OSError):
                repository.path.rmdir()


def _publish(live: RepositoryModel, release: Release, staging: Path) -> Published:
    version = live.next_version
    # One folder below the unique one, so that nothing else can have its name.
    folder = staging / "published" / live.name
    folder.parent.mkdir()
    if live.path.exists():
        mirror(live.path, folder)
    else:
        make_folder(folder)
    notes = _keep_edited_config(live, folder, version)
    labels = release.labels
    if labels is not None:
        write_new(folder / LABELS, labels)
    elif (folder / LABELS).is_file():
        labels = (folder / LABELS).read_bytes()
    config = release.configure(labels).encode()
    write_new(folder / CONFIG, config)

    version_folder = folder / str(version)
    make_folder(version_folder)
    for file in release.model_files:
        file.rename(version_folder / file.name)
    described = [*sorted(version_folder.iterdir()), folder / CONFIG]
    if labels is not None:
        described.append(folder / LABELS)
    manifest = release.describe(version, tuple(_published_file(path, folder) for path in described))
    write_new(version_folder / MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
    write_new(folder / HISTORY, _history(live, manifest, config))
    sync_tree(folder)

    _put_in_place(folder, live, version)
    _sync_renames(live.path.parent, folder.parent)
    return Published(version=version, path=live.path / str(version), manifest=manifest, notes=tuple(notes))


def _put_in_place(folder: Path, live: RepositoryModel, version: int) -> None:
    if not live.path.exists():
        try:
            rename_new(folder, live.path)
        except FileExistsError:
            raise PublishFailed(
                f"{live.path} appeared while the version was being published, and not by plansmith: try again"
            ) from None
        return
    try:
        rename_exchange(folder, live.path)
    except ExchangeUnsupported:
        publish_in_order(folder, live, version)


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
    changed = [path for path in folder.iterdir() if path.is_file() and not _same_file(path, live.path / path.name)]
    kept = scratch / "kept"
    kept.mkdir()
    for path in changed:
        if (live.path / path.name).exists():
            shutil.copy2(live.path / path.name, kept / path.name)
    try:
        if live.versions:
            write_new(scratch / CONFIG, _pinned(kept / CONFIG, live.versions))
            os.replace(scratch / CONFIG, live.path / CONFIG)  # noqa: PTH105 - what happens is a system call by this name
        os.rename(folder / str(version), live.path / str(version))  # noqa: PTH104
        for path in sorted(changed, key=lambda path: path.name == CONFIG):
            os.replace(path, live.path / path.name)  # noqa: PTH105
    except BaseException:
        if (live.path / str(version)).exists():
            os.rename(live.path / str(version), folder / str(version))  # noqa: PTH104
        for path in changed:
            if (kept / path.name).exists():
                os.replace(kept / path.name, live.path / path.name)  # noqa: PTH105
            else:
                (live.path / path.name).unlink(missing_ok=True)
        raise


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


def _same_file(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


def _keep_edited_config(live: RepositoryModel, folder: Path, version: int) -> list[str]:
    """A configuration that plansmith did not write is set aside, not lost."""
    config = folder / CONFIG
    notes = []
    if config.is_file() and hashlib.sha256(config.read_bytes()).hexdigest() != live.history.config_sha256:
        kept = f"{CONFIG}.before-{version}"
        with contextlib.suppress(FileExistsError):
            os.link(config, folder / kept)
        notes.append(f"{CONFIG} had been written by hand: it is kept as {kept}")
    if (folder / "configs").is_dir() and any((folder / "configs").iterdir()):
        notes.append("the files in configs/ are as they were: see that they still fit the new version")
    return notes


def _history(live: RepositoryModel, manifest: Manifest, config: bytes) -> bytes:
    before = live.history.versions if live.path.exists() else ()
    entry = HistoryEntry(version=manifest.version, created=manifest.created, source_sha256=manifest.source.sha256)
    history = History(config_sha256=hashlib.sha256(config).hexdigest(), versions=(*before, entry))
    return (history.model_dump_json(indent=2) + "\n").encode()


def _published_file(path: Path, folder: Path) -> PublishedFile:
    return PublishedFile(path=str(path.relative_to(folder)), size=path.stat().st_size, sha256=sha256_of(path))


def _sync_renames(*folders: Path) -> None:
    # The version is in place by now; a file system that cannot sync a folder must not make that look like a failure.
    for folder in folders:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
