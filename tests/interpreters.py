"""Pythons of other versions than the tests' own, and uv, where the machine has them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["interpreter", "uv_program"]


def interpreter(version: str) -> str | None:
    """A Python of this version: on the path, of pyenv, or of uv."""
    found = [shutil.which(f"python{version}")]
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], check=True, capture_output=True, text=True).stdout.strip()
        found += sorted(map(str, Path(root, "versions").glob(f"{version}.*/bin/python")))
    if uv := uv_program():
        done = subprocess.run([uv, "python", "find", version], check=False, capture_output=True, text=True)
        found.append(done.stdout.strip())
    for candidate in filter(None, found):
        # A name on the path may be a shim of pyenv that leads nowhere.
        words = [candidate, "-c", "import sys; print('{}.{}'.format(*sys.version_info))"]
        if subprocess.run(words, check=False, capture_output=True, text=True).stdout.strip() == version:
            return candidate
    return None


def uv_program() -> str | None:
    """uv on the path, or in the environment of the tests."""
    return shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
