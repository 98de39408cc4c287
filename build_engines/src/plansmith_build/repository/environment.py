"""The machine that builds: what the choice of a candidate depends on, and whether another machine is of its kind."""

from __future__ import annotations

import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from plansmith_build.engines.cpu_features import deciding_flags
from plansmith_build.repository.manifest import Environment

__all__ = ["missing_here", "this_environment"]

TOOLS = ("onnx", "onnxruntime", "onnxslim", "onnxconverter-common", "numpy", "protobuf")
ENGINES = ("onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu12-libs")
_DRIVER = Path("/proc/driver/nvidia")


def this_environment(driver: Path = _DRIVER) -> Environment:
    """What this process runs on."""
    return Environment(
        plansmith=version("plansmith-build"),
        python=sys.version.split()[0],
        tools={name: found for name in (*TOOLS, *ENGINES) if (found := _version(name))},
        system=f"{platform.system()} {platform.machine()}",
        cpu=_first(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo")) or platform.processor(),
        cpu_flags=deciding_flags(),
        gpus=_gpus(driver),
        driver=_first(r"Module.*?\s(\d+\.[\d.]+)\s", driver / "version"),
    )


def missing_here(chosen_on: Environment, device: str, driver: Path = _DRIVER) -> str:
    """How this machine is less than the one that chose for a device, "cpu" or "gpu"; empty where it is as good."""
    system = f"{platform.system()} {platform.machine()}"
    if chosen_on.system != system:
        return f"this machine is {system}"
    if device == "gpu":
        # Without NVIDIA's files in /proc, as in some containers, a build does not know its GPUs.
        others = sorted({*_gpus(driver)} - {*chosen_on.gpus}) if chosen_on.gpus else []
        return f"this machine has {', '.join(others)}" if others else ""
    missing = sorted(set(chosen_on.cpu_flags) - set(deciding_flags()))
    return f"this CPU has no {', '.join(missing)}" if missing else ""


def _gpus(driver: Path) -> tuple[str, ...]:
    return tuple(_first(r"^Model:\s*(.+)$", path) for path in sorted(driver.glob("gpus/*/information")))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _first(pattern: str, path: Path) -> str:
    """What the first match in a file says, or an empty string."""
    try:
        match = re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return ""
    return match[1].strip() if match else ""
