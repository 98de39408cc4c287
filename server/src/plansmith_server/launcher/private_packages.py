"""What Triton's backends alone need, in a folder of its own, so that the user's environment may have numpy 2.

The Python backend of Triton from PyPI was compiled for numpy 1. Where the environment has another numpy, or no Triton,
a folder in the user's cache brings the pinned versions: fetched once with pip or uv, each file checked against the
hashes below.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from plansmith_server.errors import TritonUnavailable
from plansmith_server.launcher.abandoned import own, sweep

__all__ = ["private_packages"]

logger = logging.getLogger(__name__)

# The wheels for Linux on x86-64, of Python 3.11, of 3.12, and of both.
_REQUIREMENTS = (
    "numpy==1.26.4"
    " --hash=sha256:666dbfb6ec68962c033a450943ded891bed2d54e6755e35e5835d63f4f6931d5"
    " --hash=sha256:675d61ffbfa78604709862923189bad94014bef562cc35cf61d3a07bba02a7ed\n"
    "nvidia-pytriton==0.7.0"
    " --hash=sha256:21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
    " --hash=sha256:f99e07ee56fe065337453956afba17d2673e02ec6a632c3de26ce6e7b32a0898\n"
)
_PREFIX = ".fetching-"
_ALTERNATIVE = "install the extra `triton` of plansmith-server, which brings Triton and numpy 1 into this environment"


def private_packages() -> Path | None:
    """The folder with Triton and numpy 1; None where the environment itself has both. Made when it is first needed.

    Raises:
        TritonUnavailable: it cannot be made.
    """
    if _numpy().startswith("1.") and find_spec("pytriton") is not None:
        return None
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    digest = hashlib.sha256(_REQUIREMENTS.encode()).hexdigest()[:12]
    folder = Path(base, "plansmith", f"triton-{sys.version_info.major}.{sys.version_info.minor}-{digest}")
    if not folder.is_dir():
        logger.warning("fetching Triton and numpy 1.26 for its backends into %s, once: 65 MB", folder)
        _make(folder)
    return folder


def _numpy() -> str:
    try:
        return version("numpy")
    except PackageNotFoundError:
        return "none"


def _make(folder: Path) -> None:
    """Fetch into a folder beside it and rename: whoever else does the same at once does no harm."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent, _PREFIX)
        made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder.parent))
        lock = own(made)
    except OSError as error:
        raise TritonUnavailable(
            f"cannot write {folder.parent} ({error.strerror}): set XDG_CACHE_HOME to a folder that you may write to, "
            f"or {_ALTERNATIVE}"
        ) from error
    try:
        requirements, packages = made / "requirements.txt", made / "packages"
        requirements.write_text(_REQUIREMENTS, encoding="utf-8")
        done = subprocess.run(
            [*_installer(), "--no-deps", "--require-hashes", "--target", packages, "--requirement", requirements],
            capture_output=True,
            text=True,
            check=False,
            pass_fds=(lock,),
            # What pip unpacks goes with the folder where both are killed.
            env={**os.environ, "TMPDIR": str(made)},
        )
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"the installer ended with {done.returncode}"]
            raise TritonUnavailable(f"Triton and numpy 1.26 cannot be fetched: {said[-1]}; or {_ALTERNATIVE}")
        try:
            packages.rename(folder)
        except OSError as error:
            if not folder.is_dir():
                raise TritonUnavailable(f"cannot write {folder}: {error.strerror}; or {_ALTERNATIVE}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def _installer() -> list[str]:
    if find_spec("pip") is not None:
        return [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if (uv := shutil.which("uv")) is not None:
        return [uv, "pip", "install", "--quiet", "--python", sys.executable]
    raise TritonUnavailable(
        f"Triton's Python backend needs numpy 1 and this environment has numpy {_numpy()}; to fetch it, pip or uv has "
        f"to be there: python -m ensurepip; or {_ALTERNATIVE}"
    )
