"""The folder of one run of the server, and the removal of what killed runs have left behind.

A run's folder is locked by the process that starts the server, and the supervisor, Triton and the backends inherit the
lock: the kernel releases it when the last of them has ended, in whatever way. So a marked folder that can be locked
belongs to nobody any more, also after the machine was restarted, and whatever process ids mean in other containers. The
regions of shared memory of a run begin with the name of its folder, so they are found again with it.

Other users may write to the same temporary folder and to shared memory: only what this user owns is removed, and links
are not followed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plansmith_server.errors import StartFailed
from plansmith_server.launcher.backend_directory import assemble
from plansmith_server.launcher.repository import is_shell_safe
from plansmith_server.launcher.supervisor import remove_regions

if TYPE_CHECKING:
    from plansmith_server.launcher.options import ServerPlan
    from plansmith_server.launcher.triton_wheel import TritonWheel

__all__ = ["RunFolder"]

_PREFIX = "plansmith-serve-"
# As tempfile names folders.
_NAME = re.compile(_PREFIX + r"[a-z0-9_]{8}")
_MARK = ".plansmith-serve"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The temporary folder of one run: `backends`, `work` to run in, and perhaps `repository`.

    Backend processes import from their working folder before anything else: only this user may write to it, and it is
    empty unless they need another numpy than the environment has. `repository` is a link to the real one where Triton
    cannot take its path, and a folder of links to its models where it cannot take all of them.

    Attributes:
        path: the folder.
        lock: a descriptor of it, which whatever needs the folder inherits.
    """

    path: Path
    lock: int

    @classmethod
    def make(cls, wheel: TritonWheel, plan: ServerPlan) -> RunFolder:
        """Make the folder of a run, and remove those of runs that were killed.

        Raises:
            StartFailed: there is no usable temporary folder.
        """
        # Triton hands these paths to a shell unquoted, so a TMPDIR with a space in it cannot be used. Not Python's own
        # choice, which a build sets to a folder of its own: any start is to find what any other left.
        parent = next(filter(_usable, (os.environ.get("TMPDIR", ""), "/tmp", "/var/tmp")), None)  # noqa: S108
        if parent is None:
            raise StartFailed("no temporary folder is writable: set TMPDIR to one without spaces in its path")
        _sweep(parent)
        try:
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            made = cls(path, os.open(path, _FOLDER))
        except OSError as error:
            raise StartFailed(f"cannot prepare the server's files in {parent}: {error.strerror}") from error
        try:
            # Where the file system cannot lock folders, there is no mark, and what killed runs leave is kept.
            with contextlib.suppress(OSError):
                fcntl.flock(made.lock, fcntl.LOCK_EX)
                (path / _MARK).touch()
            made._fill(wheel, plan)
        except OSError as error:
            made.remove()
            raise StartFailed(f"cannot prepare the server's files in {parent}: {error.strerror}") from error
        return made

    def remove(self) -> None:
        """Remove the folder and let go of its lock."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self.lock)

    def _fill(self, wheel: TritonWheel, plan: ServerPlan) -> None:
        assemble(self.path / "backends", wheel)
        (self.path / "work").mkdir()
        if wheel.packages is not None:
            # They take no PYTHONPATH.
            for name in ("numpy", "numpy.libs"):
                (self.path / "work" / name).symlink_to(wheel.packages / name, target_is_directory=True)
        repository = plan.options.repository.resolve()
        if plan.left_out:
            (self.path / "repository").mkdir()
            for model in plan.folders:
                (self.path / "repository" / model.name).symlink_to(repository / model.name, target_is_directory=True)
        elif not is_shell_safe(str(repository)):
            (self.path / "repository").symlink_to(repository, target_is_directory=True)


def _usable(folder: str) -> bool:
    return is_shell_safe(folder) and os.access(folder, os.W_OK | os.X_OK)


def _sweep(parent: str) -> None:
    with contextlib.suppress(OSError):
        for path in Path(parent).iterdir():
            # What cannot be opened or locked is another user's, or in use.
            if _NAME.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    folder = os.open(path, _FOLDER)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(folder).st_uid == os.geteuid() and (path / _MARK).exists():
            remove_regions(path.name)
            _empty(folder)
            path.rmdir()
    finally:
        os.close(folder)


def _empty(folder: int) -> None:
    # The mark goes last: what is left of it, were this to be killed, too, is still known.
    for name in sorted(os.listdir(folder), key=_MARK.__eq__):
        try:
            os.unlink(name, dir_fd=folder)
        except IsADirectoryError:
            shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
