"""Putting a finished version into a repository, whole or not at all.

A configuration belongs to a model and not to a version of it, so both change in one step: the complete new model
folder is made in the staging folder, versions that do not change as hard links, and exchanged with the live one. A new
model is renamed into place. A lock on the repository's folder serialises builders.

Where folders cannot be exchanged, the files are moved one by one in an order in which every state in between is right:
see `ordered_publishing`.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from plansmith_build.errors import BuildError, InvalidOption, PublishFailed
from plansmith_build.reading.regular_files import read_regular, sha256_of
from plansmith_build.repository.companions import companions_in_place, remove_unused_companions
from plansmith_build.repository.edits import keep_edits, person_files, set_aside
from plansmith_build.repository.filesystem import (
    ExchangeUnsupported,
    explain_os_error,
    make_folder,
    mirror,
    rename_exchange,
    rename_new,
    sync_file,
    sync_tree,
    write_new,
)
from plansmith_build.repository.labels import labels_of
from plansmith_build.repository.locking import locked_folder
from plansmith_build.repository.manifest import PublishedFile
from plansmith_build.repository.model_repository import (
    CONFIG,
    CONFIGS,
    HISTORY,
    LABELS,
    MANIFEST,
    History,
    HistoryEntry,
    RepositoryModel,
)
from plansmith_build.repository.ordered_publishing import publish_in_order
from plansmith_build.repository.staging import keep_replaced, remove_replaced
from plansmith_build.repository.warmup import WARMUP, warmup_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from plansmith_build.repository.manifest import Manifest
    from plansmith_build.repository.model_repository import ModelRepository
    from plansmith_build.repository.signed_versions import Signer

__all__ = ["Published", "Release", "publish"]

# What the server's --model-config-name may be, without a surprise on any file system.
_CONFIG_PATH = re.compile(r"config\.pbtxt|configs/[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}\.pbtxt")


@dataclass(frozen=True)
class Release:
    """What is to be published.

    Attributes:
        model_files: the version's files and folders, in the staging folder; they are moved.
        labels: the new content of labels.txt, None to keep what is there.
        configure: the configurations for the content of labels.txt (None where there will be none): text by path in
            the model's folder, "config.pbtxt" and any number of "configs/<name>.pbtxt".
        describe: the manifest for a version number and the files, configurations and labels.txt among them. Its
            `configs` and `labels` are filled in when it is published.
        sign: signs the version, and lists it in the repository's `signed.json`.
        companions: complete folders of other models that the version needs, such as the steps of an ensemble, on the
            same file system; their names begin with the model's, a dot and the version. They are put in place before
            the version, and removed again if that fails; those that neither this version nor the one before uses go.
        warmup: what is new in the model's folder `warmup`, by name.
    """

    model_files: tuple[Path, ...]
    labels: bytes | None
    configure: Callable[[bytes | None], Mapping[str, str]]
    describe: Callable[[int, tuple[PublishedFile, ...]], Manifest]
    sign: Signer | None = None
    companions: tuple[Path, ...] = ()
    warmup: Mapping[str, bytes] = field(default_factory=dict)


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
        repository: where to; made if it does not exist.
        name: the model's.
        release: what.
        staging: the builder's own folder, on the same file system.

    Raises:
        InvalidOption: the model's path exists and is not a folder.
        SignatureInvalid: it is to be signed, and the list of signed versions is missing or not by this key.
        PublishFailed: the system refused to write it, and the repository is unchanged; or the version is published and
            `signed.json` alone could not be written, as the message says.
    """
    new_repository = not repository.path.exists()
    try:
        with locked_folder(repository.path):
            live = repository.model(name)
            if live.path.is_symlink() or (live.path.exists() and not live.path.is_dir()):
                raise InvalidOption(f"{live.path} is not a folder: remove it, or choose another name with --name")
            with release.sign.listing(repository.path) if release.sign else contextlib.nullcontext():
                return _publish(live, release, staging)
    except OSError as error:
        raise explain_os_error(error, f"publish {name!r} in {repository.path}") from error
    except RecursionError as error:
        raise PublishFailed(
            f"{repository.path / name} holds folders deeper than can be copied: remove them; the repository is as it "
            "was"
        ) from error
    finally:
        # After a failure a repository that was made for this version is removed; one with a model in it stays.
        if new_repository:
            with contextlib.suppress(OSError):
                repository.path.rmdir()


def _publish(live: RepositoryModel, release: Release, staging: Path) -> Published:
    version = live.next_version
    # One folder below the unique one, so that nothing else can have its name.
    folder = staging / "published" / live.name
    folder.parent.mkdir()
    before = person_files(live.path)
    if live.path.exists():
        mirror(live.path, folder)
    else:
        make_folder(folder)
    labels = release.labels
    if labels is not None:
        write_new(folder / LABELS, labels)
    else:
        labels = labels_of(folder)
    configs = _checked(release.configure(labels))
    notes = _write_configs(live, folder, version, configs)
    _require_own_folder(live, folder, WARMUP)
    for name, content in release.warmup.items():
        (folder / WARMUP).mkdir(exist_ok=True)
        write_new(folder / WARMUP / name, content)

    version_folder = folder / str(version)
    make_folder(version_folder)
    for file in release.model_files:
        file.rename(version_folder / file.name)
    described = [
        *sorted(path for path in version_folder.rglob("*") if path.is_file()),
        *(folder / name for name in configs),
        *sorted(warmup_files(folder, configs.values())),
    ]
    if labels is not None:
        described.append(folder / LABELS)
    manifest = release.describe(version, tuple(_published_file(path, folder) for path in described)).model_copy(
        update={"configs": configs, "labels": _text(labels)}
    )
    write_new(version_folder / MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
    write_new(folder / HISTORY, _history(live, manifest))
    if release.sign is not None:
        release.sign.sign(version_folder)
    sync_tree(folder)

    written = {*configs, *([LABELS] if release.labels is not None else [])}
    keep = partial(keep_edits, version=version, written=written, scratch=staging / "edited")
    # All that takes time is done: what was edited meanwhile comes over, and below what is edited in this last moment.
    before, edited = keep(live.path, folder, before)
    sync_file(folder)
    with companions_in_place(release.companions, live):
        replaced, noticed = _put_in_place(folder, live, version, before)
    edited += noticed
    if replaced:
        try:
            edited += keep(folder, live.path, before)[1]
        except OSError as error:
            edited.append(f"what was edited in the moment of publishing could not be kept: {error}")
        remove_replaced(staging)
        with contextlib.suppress(OSError):
            keep_replaced(folder, staging)
    notes += edited
    if release.companions:
        remove_unused_companions(live, version, staging)
    _sync_renames(live.path, live.path.parent, live.path.parent.parent, folder.parent)
    return Published(version=version, path=live.path / str(version), manifest=manifest, notes=tuple(notes))


def _put_in_place(
    folder: Path, live: RepositoryModel, version: int, before: Mapping[str, str]
) -> tuple[bool, list[str]]:
    """Make the new model folder the live one; whether the one before is now where the new one was, and notes."""
    if not live.path.exists():
        try:
            rename_new(folder, live.path)
        except FileExistsError:
            raise PublishFailed(
                f"{live.path} appeared while the version was being published, and not by plansmith: try again"
            ) from None
        return False, []
    try:
        rename_exchange(folder, live.path)
    except ExchangeUnsupported:
        return False, publish_in_order(folder, live, version, before)
    return True, []


def _checked(configs: Mapping[str, str]) -> dict[str, str]:
    """The configurations in the order in which they are listed everywhere.

    Raises:
        BuildError: a path is not that of a configuration, or config.pbtxt is missing, which is a bug.
    """
    wrong = [name for name in configs if not _CONFIG_PATH.fullmatch(name)]
    if wrong or CONFIG not in configs:
        raise BuildError(f"a version cannot be published with the configurations {', '.join(configs) or 'none'}")
    return dict(sorted(configs.items(), key=lambda item: (item[0] != CONFIG, item[0])))


def _write_configs(live: RepositoryModel, folder: Path, version: int, configs: Mapping[str, str]) -> list[str]:
    """Replace the configurations that plansmith wrote; what a person wrote is set aside or stays.

    Raises:
        InvalidOption: configs is not a folder of this model's own.
    """
    _require_own_folder(live, folder, CONFIGS)
    alternatives = folder / CONFIGS
    there = RepositoryModel(folder).configurations
    ours = live.history.config_sha256s
    by_hand = [name for name, path in there.items() if hashlib.sha256(read_regular(path)).hexdigest() not in ours]
    notes = [set_aside(there[name], folder, name, version) for name in by_hand if name in configs]
    if left := [name for name in by_hand if name not in configs]:
        notes.append(f"{', '.join(left)}: written by hand and not changed: check that they still fit the new version")
    if dropped := [name for name in there if name not in by_hand and name not in configs]:
        for name in dropped:
            there[name].unlink()
        notes.append(
            f"{', '.join(dropped)} removed: made for the version before, and this one has no replacement; "
            "`plansmith rollback` brings the whole version back"
        )
    if alternatives.is_dir() and not any(alternatives.iterdir()):
        alternatives.rmdir()
    for name, text in configs.items():
        if name != CONFIG:
            alternatives.mkdir(exist_ok=True)
        write_new(folder / name, text.encode())
    return notes


def _require_own_folder(live: RepositoryModel, folder: Path, name: str) -> None:
    path = folder / name
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InvalidOption(
            f"{live.path / name} is not a folder of the model's own: replace the link or file with a folder"
        )


def _text(labels: bytes | None) -> str | None:
    try:
        return None if labels is None else labels.decode()
    except UnicodeDecodeError:
        return None


def _history(live: RepositoryModel, manifest: Manifest) -> bytes:
    before = live.history.versions if live.path.exists() else ()
    entry = HistoryEntry(version=manifest.version, created=manifest.created, source_sha256=manifest.source.sha256)
    hashes = sorted({hashlib.sha256(text.encode()).hexdigest() for text in manifest.configs.values()})
    history = History(config_sha256s=tuple(hashes), versions=(*before, entry))
    return (history.model_dump_json(indent=2) + "\n").encode()


def _published_file(path: Path, folder: Path) -> PublishedFile:
    return PublishedFile(path=str(path.relative_to(folder)), size=path.stat().st_size, sha256=sha256_of(path))


def _sync_renames(*folders: Path) -> None:
    # The version is in place by now; a file system that cannot sync a folder must not make that look like a failure.
    for folder in folders:
        with contextlib.suppress(OSError):
            sync_file(folder)
