"""Whether plans can be built on this machine, and for which architectures."""

from __future__ import annotations

from importlib.util import find_spec

__all__ = ["devices_by_compute_capability", "unavailable_because"]


def unavailable_because() -> str:
    """Why no plan can be built here, in one line, or an empty string."""
    if find_spec("tensorrt") is None:
        return "the package tensorrt is not installed: use the builder service of docker-compose.yml"
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        return "the package cuda-bindings is not installed: pip install cuda-bindings"
    return "" if devices_by_compute_capability() else "there is no NVIDIA GPU here"


def devices_by_compute_capability() -> dict[str, int]:
    """For each compute capability, such as "9.0", the number of the first device that has it."""
    from cuda.bindings import runtime as cuda  # noqa: PLC0415 - only where it is installed

    try:
        status, count = cuda.cudaGetDeviceCount()
    except RuntimeError:
        # The driver's library is missing altogether.
        return {}
    if status != cuda.cudaError_t.cudaSuccess:
        return {}
    found: dict[str, int] = {}
    for device in range(count):
        _, major = cuda.cudaDeviceGetAttribute(cuda.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor, device)
        _, minor = cuda.cudaDeviceGetAttribute(cuda.cudaDeviceAttr.cudaDevAttrComputeCapabilityMinor, device)
        found.setdefault(f"{major}.{minor}", device)
    return found
