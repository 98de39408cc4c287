"""What this machine's CPU computes fast."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

__all__ = ["cores", "deciding_flags", "has_fast_bfloat16", "has_vnni"]

# As /proc/cpuinfo names them, on x86 and on ARM.
_VNNI = {"avx512_vnni", "avx_vnni", "amx_int8"}
_BFLOAT16 = {"avx512_bf16", "amx_bf16"}
_DECIDING = {"avx2", "avx512f", *_VNNI, *_BFLOAT16, "asimddp", "i8mm", "bf16", "sve"}


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def has_vnni() -> bool:
    """Whether products of 8-bit numbers are added up without saturation."""
    return not _flags().isdisjoint(_VNNI)


def has_fast_bfloat16() -> bool:
    """Whether BF16 is multiplied by the CPU itself."""
    return not _flags().isdisjoint(_BFLOAT16)


def deciding_flags() -> tuple[str, ...]:
    """What this CPU has of the instructions that decide which engine and precision is the fastest, by name."""
    return tuple(sorted(_flags() & _DECIDING))


@cache
def _flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(flags.partition(":")[2].split())
