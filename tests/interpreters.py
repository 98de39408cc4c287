"""Pythons of other versions than the tests' own, and uv, where the machine has them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["interpreter", "uv_program"]


def interpreter(version: str) -> str | None:
    """A Python of this version: on the path, of pyenv, or of uv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))]
    if uv := uv_program():
        done = subprocess.run([uv, "python", "find", version], check=False, capture_output=True, text=True)
        found.append(done.stdout.strip())
    for candidate in filter(None, found):
        # A name on the path may be a shim of pyenv that leads nowhere.
        words = [candidate, "-c", "import sys; print('{}.{}'.format(*sys.version_info))"]
        if subprocess.run(words, check=False, capture_output=True, text=True).stdout.strip() == version:
            return str(candidate)
    return None


def uv_program() -> str | None:
    """uv on the path, or in the environment of the tests."""
    return shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
