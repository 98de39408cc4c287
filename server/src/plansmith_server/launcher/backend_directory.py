"""The folder of backends that Triton is started with."""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_server.launcher.triton_wheel import TritonWheel

__all__ = ["BACKENDS", "assemble"]

# The Python-based backends of this package, each a folder of plansmith_server.backends with a model.py.
BACKENDS = ("onnxruntime", "openvino", "pipeline_step", "tensorrt_rtx")


def assemble(folder: Path, wheel: TritonWheel) -> None:
    """Fill `folder` with the Python backend, its stub for this Python, and the backends of this package.

    Files are copied: Triton refuses a backend's library that is a symbolic link out of the folder.
    """
    shutil.copytree(wheel.python_backend, folder / "python")
    shutil.copy2(wheel.stub, folder / "python" / wheel.stub.name)
    for name in BACKENDS:
        (folder / name).mkdir()
        with as_file(files("plansmith_server.backends") / name / "model.py") as source:
            shutil.copy2(source, folder / name / "model.py")
