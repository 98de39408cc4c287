"""Whether this machine is of the kind of the one on which a configuration was chosen for its speed."""

from __future__ import annotations

import json
import platform
from pathlib import Path

__all__ = ["machine_warning"]

CPUINFO = Path("/proc/cpuinfo")
DRIVER = Path("/proc/driver/nvidia")


def machine_warning(model: Path, config: str, cpuinfo: Path = CPUINFO, driver: Path = DRIVER) -> str:
    """What to say of a configuration that was chosen on a CPU which had more, or on other GPUs; else an empty string.

    `plansmith build` writes into a version's manifest.json on which machine it measured; without one nothing is said.
    """
    try:
        newest = max(int(entry.name) for entry in model.iterdir() if entry.name.isascii() and entry.name.isdecimal())
        manifest = json.loads((model / str(newest) / "manifest.json").read_bytes())
        measured = {
            candidate["device"]
            for candidate in manifest["search"]["candidates"]
            if candidate["config"] == config and candidate["rows_per_second"]
        }
        environment = manifest["environment"]
        system, cpu, flags = str(environment["system"]), str(environment["cpu"]), set(environment["cpu_flags"])
        gpus = [str(name) for name in environment.get("gpus", ())]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, AttributeError):
        return ""
    here = f"{platform.system()} {platform.machine()}"
    missing = sorted(map(str, flags - _flags(cpuinfo))) if "cpu" in measured else []
    others = sorted(_gpus(driver) - set(gpus)) if "gpu" in measured and gpus else []
    if measured and system != here:
        why = f"this machine is {here}"
    elif missing:
        why = f"this CPU has no {', '.join(missing)}"
    elif others:
        cpu, why = ", ".join(gpus), f"this machine has {', '.join(others)}"
    else:
        return ""
    return (
        f"{model.name}/{config} was chosen on another kind of machine ({cpu}), and {why}: it may be slower and less "
        "accurate here than its manifest says. Build on the kind of machine that serves it, or serve the portable "
        "model with --config-name none"
    )


def _gpus(driver: Path) -> set[str]:
    told = (line.partition(":") for path in driver.glob("gpus/*/information") for line in _lines(path))
    return {value.strip() for key, _, value in told if key == "Model"}


def _flags(cpuinfo: Path) -> set[str]:
    # On x86 and on ARM.
    found = next((line for line in _lines(cpuinfo) if line.startswith(("flags", "Features"))), "")
    return set(found.partition(":")[2].split())


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
