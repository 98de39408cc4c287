"""Kernels that were finished for one GPU, kept in a file, so that the next start need not finish them again."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KernelFile", "default_folder", "folder_from"]

logger = logging.getLogger(__name__)


def default_folder() -> Path:
    """A folder of the user's alone: whoever writes a file into it decides what runs on the GPU."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "plansmith" / "tensorrt-rtx"


class KernelFile:
    """The file of one engine on one kind of GPU. Nothing that goes wrong with it keeps a model from being served.

    Args:
        folder: where it is kept.
        engine: the engine's content, or its beginning: another engine has another file.
        gpu: the GPU's name.
    """

    def __init__(self, folder: Path, engine: bytes, gpu: str) -> None:
        name = re.sub(r"[^A-Za-z0-9]+", "-", gpu).strip("-").lower() or "gpu"
        self.path = folder / f"{hashlib.sha256(engine).hexdigest()[:16]}.{name}.cache"

    def load_into(self, cache: Any) -> bool:
        """Fill a runtime cache from the file; the library itself refuses what another GPU or version wrote.

        Args:
            cache: an `IRuntimeCache`.

        Returns:
            Whether there was something that it took.
        """
        try:
            if not _is_ours(self.path.parent.stat()) or not _is_ours(self.path.lstat()):
                logger.warning("%s is not this user's alone, so it is not read", self.path)
                return False
            return bool(cache.deserialize(self.path.read_bytes()))
        except FileNotFoundError:
            return False
        except OSError as error:
            logger.warning("the kernels in %s are finished anew: %s", self.path, error.strerror)
            return False

    def save(self, cache: Any) -> None:
        """Write what a runtime cache holds by now, whole or not at all."""
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with beside.open("xb") as file:
                beside.chmod(0o600)
                file.write(bytes(cache.serialize()))
            beside.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink()
            logger.warning("the kernels are not kept in %s: %s", self.path, error.strerror)


def folder_from(parameters: Mapping[str, str]) -> Path | None:
    """The folder that the parameter `runtime_cache_folder` names; None where it is empty, which keeps no file."""
    if "runtime_cache_folder" not in parameters:
        return default_folder()
    text = parameters["runtime_cache_folder"]
    return Path(text) if text else None


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
