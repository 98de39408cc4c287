"""Whether an engine can run here, found out from its first bytes, before gigabytes of it are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plansmith_server.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["check_validity", "engine_version"]

MAGIC = b"vtrt"
PLAN_MAGIC = b"ftrt"
# As in plans of TensorRT: four bytes of version after the tag, the serialization version and the size.
VERSION_AT = slice(24, 28)
_BUILD_AGAIN = "build the model again with plansmith build --target tensorrt-rtx"
_PROBLEMS = {
    "VERSION_MISMATCH": "it was compiled by another version of TensorRT for RTX: " + _BUILD_AGAIN,
    "UNSUPPORTED_CC": (
        "it was not compiled for this GPU's architecture: " + _BUILD_AGAIN + " and its --compute-capability"
    ),
    "OLD_CUDA_DRIVER": "the NVIDIA driver is too old for it: update the driver",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it: update cuda-bindings and the driver",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it: free some, or build with a smaller batch",
    "MALFORMED_ENGINE": "it is damaged, or only a part of an engine: copy it again",
    "CUDA_ERROR": "CUDA does not answer: check the GPU with nvidia-smi",
}


def engine_version(header: bytes) -> str:
    """The library version in an engine's first bytes, such as `"1.7.1.116"`; empty if it is not an engine."""
    if header[:4] != MAGIC or len(header) < VERSION_AT.stop:
        return ""
    return ".".join(str(byte) for byte in header[VERSION_AT])


def check_validity(path: Path, runtime: Any, trt: Any) -> None:
    """Raise unless the engine at `path` runs on this machine.

    Raises:
        ModelError: it does not; the message says why, and what to do.
    """
    with path.open("rb") as file:
        header = file.read(runtime.engine_header_size)
    built_by = engine_version(header)
    if not built_by:
        kind = "a plan of TensorRT, which the backend tensorrt serves" if header[:4] == PLAN_MAGIC else "no engine"
        raise ModelError(f"{path.name} is {kind}, and the backend tensorrt_rtx serves engines of TensorRT for RTX")
    validity, diagnostics = runtime.get_engine_validity(header)
    if validity != trt.EngineValidity.INVALID:
        return
    members = trt.EngineInvalidityDiagnostics.__members__.items()
    found = [_PROBLEMS.get(name, name) for name, value in members if int(diagnostics) & int(value)]
    why = "; ".join(found) or "the library gives no reason, a missing NVIDIA driver being the usual one"
    raise ModelError(
        f"{path.name}, compiled by TensorRT for RTX {built_by}, does not run here with {trt.__version__}: {why}"
    )
