"""Whether the plans of a repository fit the TensorRT that is to run them, before a server starts.

Needs nothing but Python's standard library, so that it runs inside the stock container:
`python3 plan_check.py /models` exits with 3 and says which plan does not fit, and what to do.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["installed_version", "main", "plan_version", "unfit_plans"]

# The layout of the first 28 bytes is that of TensorRT's own trtexec (samples/common/sampleEngines.cpp,
# printPlanVersion): a tag, the serialization version, and at the end the version in four bytes.
HEADER_BYTES = 28
TAG = b"ftrt"
VERSION_AT = 24
LIBRARIES = ("libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so")


def plan_version(path: str | os.PathLike[str]) -> str | None:
    """The TensorRT version that built a plan, such as "10.16.1.11", or None where the file is no plan.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:  # noqa: PTH123 - see above: the standard library of any Python 3
        header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES or header[:4] != TAG or header[4:8] != b"\0\0\0\0":
        return None
    return ".".join(str(byte) for byte in header[VERSION_AT:])


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


def unfit_plans(repository: str | os.PathLike[str], installed: str) -> list[str]:
    """A sentence for each plan below a repository that was built by another TensorRT.

    Plans for several versions ("version compatible") run on later ones of the same major version or above; they
    cannot be told from the header, so the server must be told: see docs/tensorrt.md.
    """
    sentences = []
    for folder, folders, names in os.walk(repository):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".plan"):
                path = os.path.join(folder, name)  # noqa: PTH118
                version = plan_version(path)
                if version is None:
                    sentences.append(f"{path} is no TensorRT plan: build it again")
                elif version.split(".")[:3] != installed.split("."):
                    sentences.append(
                        f"{path} was built by TensorRT {version}, and this server has {installed}: build it in the "
                        "container of the same release (docker compose run builder), or serve it with that release"
                    )
    return sentences


def main(arguments: list[str]) -> int:
    """Check a repository; 0 where all plans fit, 3 where one does not, 2 where that cannot be found out."""
    if len(arguments) != 1:
        print("usage: plan_check.py REPOSITORY", file=sys.stderr)  # noqa: T201
        return 2
    installed = installed_version()
    if installed is None:
        print("no TensorRT library (libnvinfer) was found: run this in the server's container", file=sys.stderr)  # noqa: T201
        return 2
    sentences = unfit_plans(arguments[0], installed)
    for sentence in sentences:
        print(sentence, file=sys.stderr)  # noqa: T201
    return 3 if sentences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
