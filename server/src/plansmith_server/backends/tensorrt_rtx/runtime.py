"""TensorRT for RTX as a backend: what is missing is said before anything is imported that needs it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from plansmith_server.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_server.backends.engine import Engine, Instance
    from plansmith_server.backends.signature import Signature

__all__ = ["load", "read_signature"]


def load(instance: Instance) -> Engine:
    """Load an engine.

    Raises:
        ModelError: a package, a GPU or the file is missing, or does not fit.
    """
    for module, package in {"tensorrt_rtx_bindings": "tensorrt-rtx-cu12-bindings", "cuda": "cuda-bindings"}.items():
        if find_spec(module) is None:
            raise ModelError(f"engines of TensorRT for RTX need the package {package}: plansmith[rtx] brings it")
    if instance.kind != "GPU":
        raise ModelError(
            "an engine of TensorRT for RTX runs on an RTX GPU, and this instance is on the CPU: serve the model with "
            "another configuration, such as --config-name cpu"
        )
    import tensorrt_rtx_bindings as trt  # noqa: PLC0415 - 230 MB of libraries, for this backend alone
    from cuda.bindings import runtime as cuda  # noqa: PLC0415

    from plansmith_server.backends.tensorrt_rtx.engine import RtxEngine  # noqa: PLC0415

    return RtxEngine(instance, trt, cuda)


def read_signature(folder: Path, model_file: str) -> Signature:
    """Refuse, as no engine tells its signature without its GPU.

    Raises:
        ModelError: always.
    """
    raise ModelError(
        f"version {folder.name} needs a configuration with the inputs and outputs of {model_file or 'its engine'}: an "
        "engine tells them only on the GPU that runs it. plansmith build writes them"
    )
