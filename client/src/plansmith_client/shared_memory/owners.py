"""Names of regions identify their owner, so that regions of killed processes are told from regions in use.

`plansmith-<boot>-<namespaces>-<PID>-<start time>-<random>`: a process identifier is used again, one with the start
time (of `/proc/<pid>/stat`) is not; and both mean something only within their namespaces, which containers have of
their own, and within one boot of one machine: the first namespace has the same number on every Linux. Whatever cannot
be found out counts as in use.
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

__all__ = ["is_abandoned", "make_region_name"]

_PROC = Path("/proc")
_NAME = r"plansmith-(?P<boot>[0-9a-f]{32})-(?P<namespaces>\d+)-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{16}"


def make_region_name() -> str:
    """A name that nobody has used.

    Raises:
        OSError: the system has no /proc of this process's own, and so no way to find out later whether the owner lives.
    """
    pid = os.getpid()
    return f"plansmith-{_boot()}-{_namespaces()}-{pid}-{_start_time(pid)}-{secrets.token_hex(8)}"


def is_abandoned(name: str) -> bool:
    """Whether a region of this name was made by a client of this host whose process has ended."""
    found = re.fullmatch(_NAME, name)
    try:
        if found is None or (found["boot"], found["namespaces"]) != (_boot(), _namespaces()):
            return False
    except (OSError, ValueError):
        return False
    try:
        return _start_time(int(found["pid"])) != int(found["start"])
    except FileNotFoundError:
        # Where /proc shows every process (it need not: hidepid), this one has ended.
        return (_PROC / "1").exists()
    except (OSError, ValueError):
        return False


def _boot() -> str:
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip().replace("-", "")


def _namespaces() -> str:
    """The digits of the namespaces by which processes are numbered, and their start times shifted."""
    if str((_PROC / "self").readlink()) != str(os.getpid()):
        raise FileNotFoundError("/proc shows the processes of another namespace")
    # `pid:[4026531836]`; kernels before 5.6 have none for time.
    places = [_PROC / "self/ns" / kind for kind in ("pid", "time")]
    return "".join(re.sub(r"\D", "", str(place.readlink())) for place in places if place.is_symlink())


def _start_time(pid: int) -> int:
    # Field 22 of proc(5); the name in parentheses before may hold anything.
    stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    return int(stat.rpartition(")")[2].split()[19])
