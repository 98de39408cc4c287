"""The machine itself: GPU driver and CUDA, disk, shared memory, ports."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

from plansmith.doctor.findings import Finding
from plansmith_build.repository.environment import this_environment
from plansmith_server.errors import ServerError
from plansmith_server.launcher.ports import check_free

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["cuda", "disk", "driver", "ports", "shared_memory"]

_GIB = 2**30
# A version is staged beside the repository and tried in a server: a few times the model's size.
_LITTLE_DISK = 2 * _GIB
_NO_DISK = _GIB // 4
# Docker's default is 64 MB; a Python backend's instance takes 1 MB and grows with its tensors.
_LITTLE_SHM = _GIB // 8
_NO_SHM = _GIB // 64


def driver() -> Finding:
    """NVIDIA's driver and the GPUs that it names."""
    environment = this_environment()
    if environment.driver:
        gpus = ", ".join(environment.gpus) or "no GPU"
        return Finding("NVIDIA driver", "ok", f"{environment.driver}: {gpus}")
    return Finding(
        "NVIDIA driver", "absent", "is not loaded", "models are served on the CPU; on a GPU machine, install it"
    )


def cuda() -> Finding:
    """CUDA, as the driver's library gives it to this process."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        remedy = "in a container, start it with --gpus all and the NVIDIA Container Toolkit"
        remedy = remedy if this_environment().driver else ""
        return Finding("CUDA", "failed" if remedy else "absent", "libcuda.so.1 is not here", remedy)
    status = library.cuInit(0)
    number, count = ctypes.c_int(0), ctypes.c_int(0)
    if status != 0:
        remedy = "check CUDA_VISIBLE_DEVICES, the permissions of /dev/nvidia*, and nvidia-smi"
        return Finding("CUDA", "failed", f"cuInit ends with error {status}", remedy)
    library.cuDriverGetVersion(ctypes.byref(number))
    library.cuDeviceGetCount(ctypes.byref(count))
    text = f"{number.value // 1000}.{number.value % 1000 // 10} by the driver, {count.value} visible devices"
    return Finding("CUDA", "ok", text)


def disk(folder: Path) -> list[Finding]:
    """The space where versions are published and where a server's files go."""
    places, failed = {str(folder): "make room: plansmith prune removes old versions"}, []
    remedy = "make room, or set TMPDIR to another folder"
    try:
        places[tempfile.gettempdir()] = remedy
    except FileNotFoundError:
        failed = [Finding("temporary files", "failed", "no folder takes any", remedy)]
    return [*(_space(f"disk {place}", place, _LITTLE_DISK, _NO_DISK, places[place]) for place in places), *failed]


def shared_memory() -> Finding:
    """The shared memory through which Triton hands tensors to Python backends."""
    remedy = "in a container, start it with --shm-size=1g; elsewhere remount /dev/shm with a greater size"
    place = "/dev/shm"  # noqa: S108
    found = _space("shared memory", place, _LITTLE_SHM, _NO_SHM, remedy)
    if found.status == "failed" or os.access(place, os.W_OK):
        return found
    return Finding(found.name, "failed", f"{place} cannot be written to", remedy)


def ports(numbers: dict[str, int]) -> list[Finding]:
    """Whether a server can listen on the ports of its options, such as "--http-port"."""
    found = []
    for option, number in numbers.items():
        try:
            check_free("127.0.0.1", number, option)
        except ServerError as error:
            problem, _, remedy = str(error).partition(": ")
            found.append(Finding(f"port {number}", "warning", problem, remedy))
        else:
            found.append(Finding(f"port {number}", "ok", "is free"))
    return found


def _space(name: str, place: str, little: int, none: int, remedy: str) -> Finding:
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding(name, "failed", f"{place}: {error.strerror}", remedy)
    text = f"{free / _GIB:,.1f} GiB free"
    if free >= little:
        return Finding(name, "ok", text)
    return Finding(name, "failed" if free < none else "warning", text, remedy)
