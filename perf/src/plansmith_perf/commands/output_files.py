"""Files that a command writes at its end: looked at before it begins, so that nothing measured is lost."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from plansmith_perf.errors import LoadTestMisconfigured

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_output", "write_output"]


def check_output(path: Path | None) -> None:
    """Whether a file can be written there; None is none.

    Raises:
        LoadTestMisconfigured: it cannot; says why.
    """
    if path is None:
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise LoadTestMisconfigured(f"--output {path}: there is no folder {folder}")
    if path.is_dir():
        raise LoadTestMisconfigured(f"--output {path}: that is a folder. Name a file in it")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise LoadTestMisconfigured(f"--output {path}: you may not write there")


def write_output(path: Path | None, text: str) -> None:
    """Write a text and a line end; None is nowhere.

    Raises:
        LoadTestMisconfigured: it cannot be written after all.
    """
    if path is None:
        return
    try:
        path.write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise LoadTestMisconfigured(f"--output {path} cannot be written: {error.strerror}") from error
