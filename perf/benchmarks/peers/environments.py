"""Each peer's own Python environment: made once from its pinned requirements, kept in the user's cache folder.

An environment's folder is named after the hash of its requirements. It is made under another name and renamed when it
is whole, so that what is interrupted leaves nothing that looks whole.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from plansmith_perf.comparing.peer import PeerUnavailable

__all__ = ["REQUIREMENTS", "PeerEnvironment", "make_environment"]

REQUIREMENTS = Path(__file__).parent / "requirements"
_PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)", re.MULTILINE)
_INSTALL_SECONDS = 900.0
_SHOWN_CHARACTERS = 300


@dataclass(frozen=True)
class PeerEnvironment:
    """A Python environment.

    Attributes:
        python: its interpreter.
        versions: of its packages.
    """

    python: Path
    versions: dict[str, str]


def make_environment(requirements: Path, *, cache: Path | None = None) -> PeerEnvironment:
    """The environment for a file of pinned requirements; made where it is not there yet.

    Args:
        requirements: with a version, and the hashes, of everything that is installed.
        cache: where environments are kept; None for below XDG_CACHE_HOME, or ~/.cache.

    Raises:
        PeerUnavailable: it cannot be made; the message says why.
    """
    text = requirements.read_text(encoding="utf-8")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(f"{version}\n{text}".encode()).hexdigest()[:16]
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "plansmith" / "peers"
    folder = (cache or kept) / f"{requirements.stem}-{digest}"
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            making = Path(tempfile.mkdtemp(prefix=f".{requirements.stem}-", dir=folder.parent))
        except OSError as error:
            raise PeerUnavailable(f"{error.filename} cannot be written: {error.strerror}") from error
        try:
            _install(making, requirements)
            making.rename(folder)
        except OSError as error:
            # Another run was faster: its environment is the same.
            if not folder.is_dir():
                raise PeerUnavailable(f"the environment cannot be put in place: {error.strerror}") from error
        finally:
            shutil.rmtree(making, ignore_errors=True)
    pins = {found["name"].lower(): found["version"] for found in _PINNED.finditer(text)}
    return PeerEnvironment(folder / "bin" / "python", pins)


def _install(folder: Path, requirements: Path) -> None:
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    python = folder / "bin" / "python"
    _run([sys.executable, "-P", "-m", "venv", *(["--without-pip"] if uv else []), str(folder)])
    installer = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-P", "-m", "pip", "install"]
    _run([*installer, "--quiet", "--require-hashes", "-r", str(requirements)])


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise PeerUnavailable(f"its packages were not installed after {_INSTALL_SECONDS:g} s") from error
    except OSError as error:
        raise PeerUnavailable(f"{command[0]} cannot be started: {error.strerror}") from error
    if done.returncode:
        said = " ".join((done.stderr.strip() or done.stdout.strip() or "no message").split())
        raise PeerUnavailable(f"its packages cannot be installed: {said[-_SHOWN_CHARACTERS:]}")
