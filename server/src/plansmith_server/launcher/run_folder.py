"""The folder of one run of the server, and the removal of what killed runs have left behind.

The supervisor, Triton and the backends inherit its lock. The regions of shared memory of a run begin with the name of
its folder, so they are found again with it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plansmith_server.errors import StartFailed
from plansmith_server.launcher.abandoned import own, sweep
from plansmith_server.launcher.backend_directory import assemble
from plansmith_server.launcher.repository import is_shell_safe
from plansmith_server.launcher.supervisor import remove_regions

if TYPE_CHECKING:
    from plansmith_server.launcher.options import ServerPlan
    from plansmith_server.launcher.triton_wheel import TritonWheel

__all__ = ["RunFolder"]

_PREFIX = "plansmith-serve-"


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
        sweep(Path(parent), _PREFIX, remove_regions)
        try:
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
            made = cls(path, own(path))
        except OSError as error:
            raise StartFailed(f"cannot prepare the server's files in {parent}: {error.strerror}") from error
        try:
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
