"""NVIDIA's Triton as the PyPI package nvidia-pytriton carries it: where its files are and what they need.

pytriton itself is never imported: its server, and nothing else of it, is used.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

from plansmith_server.errors import TritonUnavailable
from plansmith_server.launcher.private_packages import private_packages

__all__ = ["TritonWheel", "find_triton"]

# What the wheel's platform tag (manylinux_2_35) asks for.
OLDEST_GLIBC = (2, 35)
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True)
class TritonWheel:
    """The files of the wheel that a server is started from.

    Attributes:
        server: the tritonserver binary.
        python_backend: the folder of the Python backend, without a stub.
        stub: the Python backend's stub for this version of Python.
        caches: the folder of the response caches.
        libraries: the folders that LD_LIBRARY_PATH must name.
        version: of the package nvidia-pytriton.
        packages: what backends import before what the environment has; None for nothing.
    """

    server: Path
    python_backend: Path
    stub: Path
    caches: Path
    libraries: tuple[Path, ...]
    version: str
    packages: Path | None

    def environment(self) -> dict[str, str]:
        """This process's environment, changed so that Triton and its stubs find their libraries and this Python."""
        environment = dict(os.environ)
        # The stub takes the packages of the environment whose python3 is first on PATH; PYTHONHOME would mislead it.
        environment.pop("PYTHONHOME", None)
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
        libraries = [*map(str, self.libraries), environment.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
        # By default each of Triton's 200 threads may have a heap that keeps large tensors' memory for later.
        environment.setdefault("MALLOC_ARENA_MAX", "2")
        return environment


def find_triton() -> TritonWheel:
    """Find the wheel's files and check that they can run here.

    Raises:
        TritonUnavailable: the package, a library or a program that they need is missing or of the wrong version.
    """
    _check_platform()
    packages = private_packages()
    site_packages = packages or _site_packages()
    files = site_packages / "pytriton" / "tritonserver"
    found = next(iter(distributions(name="nvidia-pytriton", path=[str(site_packages)])), None)
    wheel = TritonWheel(
        server=files / "bin" / "tritonserver",
        python_backend=files / "backends" / "python",
        stub=files / "python_backend_stubs" / PYTHON / "triton_python_backend_stub",
        caches=files / "caches",
        libraries=_library_folders(site_packages),
        version=found.version if found is not None else "of no version",
        packages=packages,
    )
    for path in (wheel.server, wheel.python_backend / "libtriton_python.so"):
        if not path.exists():
            raise TritonUnavailable(
                f"nvidia-pytriton {wheel.version} has no {path}: install the version that plansmith-server is made for,"
                " pip install nvidia-pytriton==0.7.0"
            )
    if not wheel.stub.exists():
        raise TritonUnavailable(f"nvidia-pytriton {wheel.version} has no stub for Python {PYTHON}: use 3.11 or 3.12")
    _check_stub(wheel)
    return wheel


def _check_platform() -> None:
    name, _, found = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ") if _has_confstr() else ("", "", "")
    if sys.platform != "linux" or name != "glibc":
        raise TritonUnavailable("Triton's wheel needs Linux with glibc 2.35 or newer: use a Triton container here")
    if tuple(int(part) for part in found.split(".")[:2]) < OLDEST_GLIBC:
        raise TritonUnavailable(
            f"Triton's wheel needs glibc 2.35 or newer and this system has {found}: use Debian 12, Ubuntu 22.04, or a"
            " Triton container"
        )
    if shutil.which("bash") is None:
        raise TritonUnavailable("Triton starts its backends through bash, which is not on PATH: install bash")


def _site_packages() -> Path:
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise TritonUnavailable("Triton is not installed: pip install nvidia-pytriton==0.7.0")
    return Path(spec.origin).parents[1]


def _has_confstr() -> bool:
    return "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})


def _library_folders(site_packages: Path) -> tuple[Path, ...]:
    # The stub links libpython, which is often neither in the wheel nor on the loader's path.
    libpython = f"libpython{PYTHON}.so.1.0"
    homes = [sysconfig.get_config_var("LIBDIR"), str(Path(sys.base_prefix) / "lib")]
    folders = [Path(home) for home in dict.fromkeys(homes) if home and (Path(home) / libpython).exists()]
    return (site_packages / "nvidia_pytriton.libs", *folders[:1])


def _check_stub(wheel: TritonWheel) -> None:
    """Run the stub without arguments: it prints its usage and ends with 1, if every library is there."""
    try:
        outcome = subprocess.run(
            [wheel.stub], env=wheel.environment(), capture_output=True, text=True, timeout=60, check=False
        )
    except OSError as error:
        raise TritonUnavailable(f"cannot run {wheel.stub}: {error.strerror}") from error
    if outcome.returncode == 1:
        return
    missing = re.search(r"loading shared libraries: ([^:]+):", outcome.stderr)
    library = missing[1] if missing else ""
    if library.startswith("libpython"):
        raise TritonUnavailable(
            f"Triton's Python backend needs {library}, which this Python was built without: apt-get install"
            f" libpython{PYTHON}, or use a Python that has it (uv python install {PYTHON}, conda)"
        )
    detail = f"{library} is missing" if library else (outcome.stderr.strip() or f"it ends with {outcome.returncode}")
    raise TritonUnavailable(f"Triton's Python backend does not start on this machine: {detail.splitlines()[-1]}")
