"""Files that a command writes at its end: looked at before it begins, so that nothing measured is lost."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from plansmith_perf.errors import LoadTestMisconfigured

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_output", "write_output"]


def check_output(path: Path | None) -> None:
    """Check that a file can be written there; None means that no file is asked for.

    Raises:
        LoadTestMisconfigured: it cannot be written; the message says why.
    """
    if path is None:
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise LoadTestMisconfigured(f"--output {path}: the folder {folder} does not exist")
    if path.is_dir():
        raise LoadTestMisconfigured(f"--output {path}: this is a folder; name a file in it")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise LoadTestMisconfigured(f"--output {path}: you do not have permission to write there")


def write_output(path: Path | None, text: str) -> None:
    """Write a text and a line end; nothing where the path is None.

    Raises:
        LoadTestMisconfigured: it cannot be written after all.
    """
    if path is None:
        return
    try:
        path.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise LoadTestMisconfigured(f"--output {path} cannot be written: {error.strerror}") from error
