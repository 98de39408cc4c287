"""ONNX Runtime as a backend, imported by the time that a model needs it.

Triton starts a process for each configuration, to complete it, before those that run the model. Where there is
nothing to complete, that process imports no runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_server.backends.engine import Runtime
from plansmith_server.backends.model_file import find_model_file

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_server.backends.engine import Engine, Instance
    from plansmith_server.backends.signature import Signature

__all__ = ["RUNTIME"]


def _read_signature(folder: Path, model_file: str) -> Signature:
    from plansmith_server.backends.onnx_signature import read_onnx_signature  # noqa: PLC0415 - see above

    return read_onnx_signature(find_model_file(folder, model_file))


def _load(instance: Instance) -> Engine:
    from plansmith_server.backends.onnxruntime.engine import OnnxRuntimeEngine  # noqa: PLC0415 - see above

    return OnnxRuntimeEngine(instance)


RUNTIME = Runtime(name="ONNX Runtime", read_signature=_read_signature, load=_load, fixed_batch_allowed=False)
