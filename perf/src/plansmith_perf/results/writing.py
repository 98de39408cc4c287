"""Files that commands write: whether they can be, before anything is measured, and whole or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from plansmith_client.whole_files import write_whole
from plansmith_perf.errors import LoadTestMisconfigured

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_writable", "write_text"]


def check_writable(path: Path | None, what: str) -> None:
    """Check that a file can be written, so that a long run does not end with the discovery that it cannot.

    Args:
        path: of the file; None where none is asked for.
        what: it is, for the message, such as "--output".

    Raises:
        LoadTestMisconfigured: the message says why.
    """
    if path is None:
        return
    folder = path.absolute().parent
    why = ""
    if not folder.is_dir():
        why = f"the folder {folder} does not exist"
    elif path.is_dir():
        why = "this is a folder; name a file in it"
    elif not os.access(path if path.exists() else folder, os.W_OK):
        why = "you do not have permission to write there"
    if why:
        raise LoadTestMisconfigured(f"{what} {path} cannot be written: {why}")


def write_text(path: Path | None, text: str, what: str) -> None:
    """Write a file in UTF-8; one that is there is replaced. See `check_writable`.

    Raises:
        LoadTestMisconfigured: it cannot be written after all.
    """
    if path is None:
        return
    try:
        write_whole(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise LoadTestMisconfigured(f"{what} {path} cannot be written: {error.strerror}") from error
