"""Engines of TensorRT for RTX: NVIDIA's own parser and compiler, which need no GPU.

They say in seconds what TensorRT will say to a graph on a machine with a GPU, and what they make runs on RTX GPUs.
Nothing here imports the bindings before they are needed, and only in a process of its own.
"""

from __future__ import annotations

from plansmith_build.engines.tensorrt_rtx.capabilities import WITH_FP8, in_words, parse_capabilities
from plansmith_build.engines.tensorrt_rtx.compilation import (
    CompiledEngine,
    EngineFailed,
    compile_engine,
    library_version,
    unavailable_because,
)

__all__ = [
    "WITH_FP8",
    "CompiledEngine",
    "EngineFailed",
    "compile_engine",
    "in_words",
    "library_version",
    "parse_capabilities",
    "unavailable_because",
]
