"""How many threads an instance of a model gets unless its configuration says."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["available_cores", "threads_per_instance"]

CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> int:
    """The cores that this process may use: its affinity, and the CPU limit of its container."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = CGROUP_LIMIT.read_text(encoding="ascii").split()
        limit = int(quota) // int(period)
    except (OSError, ValueError):  # no cgroup v2, or the quota is "max"
        return cores
    return max(1, min(cores, limit))


def threads_per_instance(instances: int) -> int:
    """An equal share of the cores for each of a model's instances, at least one.

    The runtimes' own default is every core for every instance: with several instances, which run at the same time,
    they then take turns on the same cores and all become slower.
    """
    return max(1, available_cores() // instances)
