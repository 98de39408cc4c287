"""NVIDIA's CUDA and cuDNN where pip installed them, for ONNX Runtime's CUDA provider.

`pip install 'onnxruntime-gpu[cuda,cudnn]'` puts them beside ONNX Runtime, where the dynamic loader does not look:
without this the provider is listed, does not start, and a session silently runs on the CPU.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from functools import cache

import onnxruntime

__all__ = ["load_cuda_libraries"]


@cache
def load_cuda_libraries() -> None:
    """Load them once, where this ONNX Runtime was made for them and they are there; the system's, elsewhere."""
    # It prints what is missing, and whoever opens a session says that better.
    with redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
