"""Fetches a model repository into a folder and verifies it: `fetch_repository.py FOLDER`, in an image with the builder.

REPOSITORY_URL says from where: s3://bucket/folder, or another URL of fsspec. REPOSITORY_PUBLIC_KEY is the file of the
key (PEM) that the versions are signed with; empty, the hashes alone are checked. Exit code 0: the folder holds the
repository, and it is what its manifests and the key say. 2: REPOSITORY_URL is not a URL. 3: it is not served. After
both the folder is empty, and standard error says why.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import fsspec

from plansmith_build.errors import InvalidOption
from plansmith_build.fetching import without_secrets


def main() -> int:
    """Fetch, verify, and give the exit code."""
    parser = argparse.ArgumentParser(description="Fetch a model repository, and verify it.")
    parser.add_argument("folder", type=Path, help="an empty one, or what an earlier try left")
    folder = parser.parse_args().folder
    url, key = os.environ.get("REPOSITORY_URL", ""), os.environ.get("REPOSITORY_PUBLIC_KEY", "")
    # A try before this one may have left files.
    _clear(folder)
    try:
        # A path would be one of this container.
        shown = without_secrets(url) if "://" in url else ""
    except InvalidOption:
        shown = ""
    if not shown:
        sys.stderr.write("Error: REPOSITORY_URL is not a valid URL: write one such as s3://bucket/folder\n")
        return 2
    try:
        if key:
            _look_for(key)
        count = _fetch(url, folder)
        _verify(folder, key)
    except Exception as error:  # noqa: BLE001 - the libraries of the protocols have no common base of their errors
        _clear(folder)
        why = " ".join(str(error).split()) or type(error).__name__
        sys.stderr.write(f"Error: {shown} is not served: {why}\n")
        return 3
    sys.stdout.write(f"fetched {count} files, {'signed' if key else 'checked by their hashes alone'}\n")
    return 0


def _fetch(url: str, folder: Path) -> int:
    """Copy the files below a URL and tell how many; names that lead out of the folder are refused."""
    system, root = fsspec.core.url_to_fs(url)
    found = sorted(path for path in system.find(root) if not path.endswith("/"))
    names = [PurePosixPath(path.removeprefix(root).lstrip("/")) for path in found]
    if not names:
        raise ValueError("there are no files")
    for name in names:
        if not name.parts or ".." in name.parts:
            raise ValueError(f"it holds a file {name}, which leads out of the folder")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    system.get(found, [str(folder / name) for name in names])
    return len(names)


def _look_for(key: str) -> None:
    if not Path(key).is_file():
        raise ValueError(
            f"there is no key {key}: make the ConfigMap repository-public-key with public-key.pem, or set "
            "REPOSITORY_PUBLIC_KEY to nothing to check the hashes alone"
        )


def _verify(folder: Path, key: str) -> None:
    words = [Path(sys.executable).with_name("plansmith"), "verify", folder, *(["--public-key", key] if key else [])]
    if subprocess.run(words, check=False).returncode:
        raise ValueError("plansmith verify finds errors in it")


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


if __name__ == "__main__":
    sys.exit(main())
