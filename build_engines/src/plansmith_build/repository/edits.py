"""What a person changes among a model's configurations and labels while a version of it is being published."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from plansmith_build.reading.regular_files import read_regular, sha256_of
from plansmith_build.repository.filesystem import link_or_copy, sync_file
from plansmith_build.repository.model_repository import LABELS, RepositoryModel

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

__all__ = ["keep_edits", "person_files", "set_aside"]


def person_files(model: Path) -> dict[str, str]:
    """The SHA-256 of what a person may edit, by path in the model's folder.

    Raises:
        OSError: one cannot be read, or is too large to have been written by a person.
    """
    there = RepositoryModel(model).configurations
    if (model / LABELS).is_file():
        there[LABELS] = model / LABELS
    return {name: hashlib.sha256(read_regular(path)).hexdigest() for name, path in there.items()}


def keep_edits(
    source: Path, target: Path, before: Mapping[str, str], *, version: int, written: Collection[str], scratch: Path
) -> tuple[dict[str, str], list[str]]:
    """Bring what was edited in one model folder since it was looked at into another one.

    Args:
        source: the folder that the other one was made from.
        target: the other one.
        before: what `person_files` said of the source when it was last looked at.
        version: that is being published.
        written: the files that are published with it; edits of them are set aside.
        scratch: a path on the same file system where nothing is.

    Returns:
        What `person_files` says now, and notes for the user.
    """
    notes = []
    there = person_files(source)
    for name, digest in there.items():
        if before.get(name) == digest or ((target / name).exists() and sha256_of(target / name) == digest):
            continue
        link_or_copy(source / name, scratch)
        sync_file(scratch)
        if name in written:
            notes.append(set_aside(scratch, target, name, version))
            continue
        (target / name).parent.mkdir(exist_ok=True)
        os.replace(scratch, target / name)  # noqa: PTH105 - a system call by this name
        notes.append(f"{name} was changed while the version was published, and stays: check that it still fits")
    return there, notes


def set_aside(file: Path, model: Path, name: str, version: int) -> str:
    """Rename what a person wrote to where nothing is, and say so.

    Args:
        file: what is to be set aside.
        model: the model's folder.
        name: what the file was there.
        version: that it was written before.
    """
    kept = f"{name}.before-{version}"
    number = 1
    while (model / kept).exists():
        number += 1
        kept = f"{name}.before-{version}.{number}"
    # Not a hard link, which not every file system has.
    os.rename(file, model / kept)  # noqa: PTH104 - a system call by this name
    return f"{name} was written by hand: the old text is kept as {kept}"
