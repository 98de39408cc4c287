"""OpenVINO as a backend, imported by the time that a model needs it.

Triton starts a process for each configuration, to complete it, before those that run the model. Where there is
nothing to complete, that process imports no runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_server.backends.engine import Runtime

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_server.backends.engine import Engine, Instance
    from plansmith_server.backends.signature import Signature

__all__ = ["RUNTIME"]


def _read_signature(folder: Path, model_file: str) -> Signature:
    from plansmith_server.backends.openvino.engine import read_signature  # noqa: PLC0415 - see above

    return read_signature(folder, model_file)


def _load(instance: Instance) -> Engine:
    from plansmith_server.backends.openvino.engine import OpenVinoEngine  # noqa: PLC0415 - see above

    return OpenVinoEngine(instance)


RUNTIME = Runtime(name="OpenVINO", read_signature=_read_signature, load=_load, fixed_batch_allowed=True)
