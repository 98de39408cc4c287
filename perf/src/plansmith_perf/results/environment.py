"""Describes where something was measured."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from plansmith_perf.results.documents import Environment

__all__ = ["describe_environment"]

_PACKAGES = (
    *("plansmith-perf", "plansmith-client", "grpcio", "numpy", "tritonclient"),
    *("nvidia-pytriton", "onnxruntime", "onnxruntime-gpu", "openvino"),
)


def describe_environment(server: str) -> Environment:
    """This machine and the packages that take part.

    Args:
        server: name and version of the server, as it calls itself.
    """
    return Environment(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages={name: found for name in _PACKAGES if (found := _version(name))},
        server=server,
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
