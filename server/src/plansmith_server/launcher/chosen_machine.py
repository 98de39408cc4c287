"""Whether this machine is of the kind of the one on which a configuration was chosen for its speed."""

from __future__ import annotations

import json
import platform
from pathlib import Path

__all__ = ["machine_warning"]

CPUINFO = Path("/proc/cpuinfo")


def machine_warning(model: Path, config: str, cpuinfo: Path = CPUINFO) -> str:
    """What to say of a configuration that was chosen on a CPU which had more than this one; else an empty string.

    `plansmith build` writes into a version's manifest.json on which machine it measured; without one nothing is said.

    Args:
        model: the model's folder.
        config: the configuration that is used, relative to it.
        cpuinfo: where the system tells of its CPU.
    """
    try:
        newest = max(int(entry.name) for entry in model.iterdir() if entry.name.isascii() and entry.name.isdecimal())
        manifest = json.loads((model / str(newest) / "manifest.json").read_bytes())
        measured = any(
            candidate["config"] == config and candidate["device"] == "cpu" and candidate["rows_per_second"]
            for candidate in manifest["search"]["candidates"]
        )
        environment = manifest["environment"]
        system, cpu, flags = str(environment["system"]), str(environment["cpu"]), set(environment["cpu_flags"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    here = f"{platform.system()} {platform.machine()}"
    missing = sorted(map(str, flags - _flags(cpuinfo)))
    if not measured or (system == here and not missing):
        return ""
    why = f"this CPU has no {', '.join(missing)}" if system == here else f"this machine is {here}"
    return (
        f"{model.name}/{config} was chosen on another kind of machine ({cpu}), and {why}: it may be slower and less "
        "accurate here than its manifest says. Build on the kind of machine that serves it, or serve the portable "
        "model with --config-name none"
    )


def _flags(cpuinfo: Path) -> set[str]:
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    # On x86 and on ARM.
    return set(next((line for line in lines if line.startswith(("flags", "Features"))), "").partition(":")[2].split())
