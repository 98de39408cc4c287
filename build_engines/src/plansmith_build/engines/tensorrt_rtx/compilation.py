"""Compiling a graph with TensorRT for RTX, which takes no GPU, driver or CUDA."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plansmith_build.engines.tensorrt.plan_check import installed_rtx_version
from plansmith_build.engines.tensorrt_rtx.reasons import explain
from plansmith_build.errors import BuildError

if TYPE_CHECKING:
    from plansmith_build.engines.tensorrt import OptimizationProfile

__all__ = ["CompiledEngine", "EngineFailed", "compile_engine", "library_version", "unavailable_because"]

_PROGRAM = Path(__file__).with_name("compiler.py")


class EngineFailed(BuildError):
    """TensorRT for RTX does not parse or compile a graph; a candidate fails by it, and the build goes on."""


@dataclass(frozen=True)
class CompiledEngine:
    """An engine on disk.

    Attributes:
        path: the file.
        version: of the library that compiled it, and that has to run it, such as `"1.7.1.116"`.
        capabilities: the compute capabilities that it was compiled for; empty for Ampere and later.
        profile: the shapes that it takes.
        seconds: how long that took, without the start of the compiler's process.
        size: of the file, in bytes.
    """

    path: Path
    version: str
    capabilities: tuple[str, ...]
    profile: OptimizationProfile
    seconds: float
    size: int


def compile_engine(
    model: Path, path: Path, profile: OptimizationProfile, capabilities: tuple[str, ...] = ()
) -> CompiledEngine:
    """Compile a graph to an engine.

    Networks are strongly typed: the graph says what is computed in which precision. TF32 is off.

    Args:
        model: the ONNX file; its weight file is found beside it.
        path: where the engine is written.
        profile: the shapes that it is to take; those of inputs without dynamic dimensions are ignored.
        capabilities: the compute capabilities to compile for, as `parse_capabilities` gives them.

    Raises:
        EngineFailed: TensorRT for RTX is not installed, does not take the graph, or crashed; the message names the
            node and says what to do about it.
        OSError: the disk did not take it.
    """
    if missing := unavailable_because():
        raise EngineFailed(missing)
    request = {
        "model": os.fspath(model),
        "engine": os.fspath(path),
        "capabilities": capabilities,
        "profiles": [_shapes(part) for part in profile.each],
    }
    done = subprocess.run(
        # Not the folder of the program first on the path, which has modules of common names.
        [sys.executable, "-P", _PROGRAM],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise EngineFailed(f"TensorRT for RTX {library_version()} {_end(done)}: please report the model to NVIDIA")
    answer = json.loads(done.stdout)
    if "stage" in answer:
        raise EngineFailed(explain(answer))
    return CompiledEngine(path, answer["version"], tuple(capabilities), profile, answer["seconds"], answer["size"])


def _shapes(profile: OptimizationProfile) -> dict[str, list[list[int]]]:
    return {
        name: [list(profile.minimum[name]), list(profile.optimum[name]), list(profile.maximum[name])]
        for name in profile.minimum
    }


def _end(done: subprocess.CompletedProcess[Any]) -> str:
    if done.returncode < 0:
        return f"crashed ({signal.Signals(-done.returncode).name}) while it compiled the graph"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return f"ended with {done.returncode} ({lines[-1][:200] if lines else 'it gave no reason'})"


def unavailable_because() -> str:
    """Why nothing can be compiled here, in one line, or an empty string. It takes no GPU, driver or CUDA."""
    if find_spec("tensorrt_rtx_bindings") is None or not library_version():
        return "TensorRT for RTX is not installed: plansmith[rtx] brings it"
    return ""


def library_version() -> str:
    """The version that compiles, such as `"1.7.1.116"`, which is the one that runs the engine; empty without any."""
    return installed_rtx_version() or ""
