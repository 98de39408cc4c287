"""How a plan is built."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from plansmith_build.errors import InvalidOption

__all__ = ["HardwareCompatibility", "PlanOptions", "default_timing_cache"]

HIGHEST_LEVEL = 5


class HardwareCompatibility(StrEnum):
    """Which other architectures a plan runs on; both costs speed, since vendor libraries' kernels are left out."""

    NONE = "none"
    AMPERE_PLUS = "ampere_plus"
    SAME_COMPUTE_CAPABILITY = "same_compute_capability"


@dataclass(frozen=True)
class PlanOptions:
    """How a plan is built.

    Attributes:
        optimization_level: from 0, quick to build, to 5, quick to run.
        workspace_bytes: the memory that kernels may use at most; None for all of the device's.
        timing_cache: a file of kernel timings that is read and written, so that the next build is faster. Each kind of
            GPU and each version of TensorRT has its own, with its name before the file's ending. None to keep none.
        hardware_compatibility: which other architectures the plan is to run on.
        version_compatible: whether later TensorRT versions may run it; the server must be started with
            `--backend-config=tensorrt,version-compatible=true`.
        strip_weights: whether weights are left out, to be put back from the ONNX file by `refit_plan`, so that plans
            for several architectures share one set.
        sparse_weights: whether kernels for weights that are 2:4 sparse may be used.
        profile: the user's own optimization profile, as `parse_profile` reads it; empty to derive it.
        compute_capabilities: what TensorRT for RTX compiles for; empty for Ampere and later.

    Raises:
        InvalidOption: a value is out of range, or two do not go together.
    """

    optimization_level: int = 3
    workspace_bytes: int | None = None
    timing_cache: Path | None = None
    hardware_compatibility: HardwareCompatibility = HardwareCompatibility.NONE
    version_compatible: bool = False
    strip_weights: bool = False
    sparse_weights: bool = False
    profile: str = ""
    compute_capabilities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.optimization_level <= HIGHEST_LEVEL:
            raise InvalidOption(
                f"--optimization-level must be from 0 to {HIGHEST_LEVEL}, got {self.optimization_level}"
            )
        if self.workspace_bytes is not None and self.workspace_bytes <= 0:
            raise InvalidOption(f"--workspace must be at least 1 MiB, got {self.workspace_bytes} bytes")


def default_timing_cache() -> Path:
    """A file in the user's cache folder; TensorRT itself checks that what is in it fits device and version."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "plansmith" / "tensorrt-timing.cache"
