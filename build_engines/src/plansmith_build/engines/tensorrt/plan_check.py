"""Whether the plans of a repository fit the TensorRT that is to run them, before a server starts.

Engines of TensorRT for RTX are looked at, too, where that is installed beside the server; elsewhere nothing runs them.

Needs nothing but Python's standard library, so that it runs inside the stock container:
`python3 plan_check.py /models` exits with 3 and says which plan does not fit, and what to do.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from importlib import metadata

__all__ = [
    "engine_version",
    "find_plans",
    "installed_rtx_version",
    "installed_version",
    "main",
    "plan_version",
    "unfit_engines",
    "unfit_plans",
]

# The layout of the first 28 bytes is that of TensorRT's own trtexec (samples/common/sampleEngines.cpp,
# printPlanVersion): a tag, the serialization version, and at the end the version in four bytes.
HEADER_BYTES = 28
TAG = b"ftrt"
RTX_TAG = b"vtrt"
VERSION_AT = 24
RTX_DISTRIBUTIONS = ("tensorrt-rtx-cu12-libs", "tensorrt-rtx-cu13-libs")
LIBRARIES = ("libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so")


def plan_version(path: str | os.PathLike[str]) -> str | None:
    """The TensorRT version that built a plan, such as "10.16.1.11", or None where the file is not a plan.

    Raises:
        OSError: it cannot be read.
    """
    return _version_after(TAG, path)


def engine_version(path: str | os.PathLike[str]) -> str | None:
    """The version of TensorRT for RTX that compiled an engine, such as "1.7.1.116", or None if it is not an engine.

    Raises:
        OSError: it cannot be read.
    """
    return _version_after(RTX_TAG, path)


def installed_version() -> str | None:
    """Major, minor and patch of the TensorRT library that a server on this machine would load, or None."""
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        number = library.getInferLibVersion()
        # 10.16.1 is 101601, as of TensorRT 10; before it was 8601 for 8.6.1.
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return None


def installed_rtx_version() -> str | None:
    """The version of TensorRT for RTX that is installed for this Python, or None."""
    for name in RTX_DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def find_plans(repository: str | os.PathLike[str], suffix: str = ".plan") -> list[str]:
    """Every plan below a repository, or every file with another suffix, in order.

    Raises OSError where the repository or a folder in it cannot be read.
    """
    plans = []
    for folder, folders, names in os.walk(repository, onerror=_refuse):
        folders.sort()
        plans += [os.path.join(folder, name) for name in sorted(names) if name.endswith(suffix)]  # noqa: PTH118
    return plans


def unfit_engines(repository: str | os.PathLike[str], installed: str) -> list[str]:
    """A sentence for each engine below a repository that the installed TensorRT for RTX does not run.

    Raises OSError where the repository, or a folder or engine in it, cannot be read.
    """
    sentences = []
    for path in find_plans(repository, ".engine"):
        version = engine_version(path)
        if version is None:
            sentences.append(f"{path} is not an engine of TensorRT for RTX: build it again")
        elif version != installed:
            sentences.append(
                f"{path} was compiled by TensorRT for RTX {version}, and this server has {installed}: build it again "
                f"with plansmith build --target tensorrt-rtx, or install tensorrt-rtx-cu12-libs=={version} and "
                "tensorrt-rtx-cu12-bindings of the same version"
            )
    return sentences


def unfit_plans(repository: str | os.PathLike[str], installed: str, *, version_compatible: bool = False) -> list[str]:
    """A sentence for each plan below a repository that the installed TensorRT does not run.

    Whether a plan was built to be version compatible does not stand in its header; where all of them were, those of
    earlier versions pass, and the server must be started with `--backend-config=tensorrt,version-compatible=true`.

    Raises OSError where the repository, or a folder or plan in it, cannot be read.
    """
    sentences = []
    for path in find_plans(repository):
        version = plan_version(path)
        if version is None:
            sentences.append(f"{path} is no TensorRT plan: build it again")
        elif not _runs(_numbers(version), _numbers(installed), version_compatible=version_compatible):
            sentences.append(
                f"{path} was built by TensorRT {version}, and this server has {installed}: build it in the container "
                "of the same release (docker compose --profile build run builder), or serve it with that release"
            )
    return sentences


def main(arguments: list[str]) -> int:
    """Check a repository; 0 where all plans fit, 3 where one does not, 2 where that cannot be found out."""
    version_compatible = "--version-compatible" in arguments
    paths = [argument for argument in arguments if argument != "--version-compatible"]
    if len(paths) != 1:
        print("usage: plan_check.py [--version-compatible] REPOSITORY", file=sys.stderr)  # noqa: T201
        return 2
    try:
        rtx = installed_rtx_version()
        sentences = unfit_engines(paths[0], rtx) if rtx is not None else []
        # Without plans nobody needs TensorRT.
        if find_plans(paths[0]):
            installed = installed_version()
            if installed is None:
                print("no TensorRT library (libnvinfer) was found: run this in the server's container", file=sys.stderr)  # noqa: T201
                return 2
            sentences += unfit_plans(paths[0], installed, version_compatible=version_compatible)
    except OSError as error:
        print(f"{error.filename} cannot be read: {error.strerror}", file=sys.stderr)  # noqa: T201
        return 2
    for sentence in sentences:
        print(sentence, file=sys.stderr)  # noqa: T201
    return 3 if sentences else 0


def _version_after(tag: bytes, path: str | os.PathLike[str]) -> str | None:
    # Opening a FIFO would wait for its writer.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        header = file.read(HEADER_BYTES) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    if len(header) < HEADER_BYTES or header[:4] != tag or header[4:8] != b"\0\0\0\0":
        return None
    return ".".join(str(byte) for byte in header[VERSION_AT:])


def _runs(built_by: list[int], installed: list[int], *, version_compatible: bool) -> bool:
    return built_by <= installed if version_compatible else built_by == installed


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")[:3]]


def _refuse(error: OSError) -> None:
    raise error


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
