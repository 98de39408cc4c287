"""What this machine's CPU computes fast."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

__all__ = ["cores", "has_fast_bfloat16", "has_vnni"]


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def has_vnni() -> bool:
    """Whether products of 8-bit numbers are added up without saturation."""
    return not _flags().isdisjoint({"avx512_vnni", "avx_vnni", "amx_int8"})


def has_fast_bfloat16() -> bool:
    """Whether BF16 is multiplied by the CPU itself."""
    return not _flags().isdisjoint({"avx512_bf16", "amx_bf16"})


@cache
def _flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())
