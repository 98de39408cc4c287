"""Whether NVIDIA's compiler is installed, and which version of it."""

from __future__ import annotations

from importlib.util import find_spec

from plansmith_build.engines.tensorrt.plan_check import installed_rtx_version

__all__ = ["library_version", "unavailable_because"]


def unavailable_because() -> str:
    """Why nothing can be compiled here, in one line, or an empty string. It takes no GPU, driver or CUDA."""
    if find_spec("tensorrt_rtx_bindings") is None or not library_version():
        return "TensorRT for RTX is not installed: plansmith[rtx] brings it"
    return ""


def library_version() -> str:
    """The version that compiles, such as `"1.7.1.116"`, which is the one that runs the engine; empty without any."""
    return installed_rtx_version() or ""
