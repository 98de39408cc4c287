"""Names of regions that tell whose they are, so that what a killed process left can be told from what is in use.

`plansmith-<PID namespace>-<PID>-<start time>-<random>`: a process identifier is used again, one with the start time
(of `/proc/<pid>/stat`) is not; and it means something only within its namespace, which containers have of their own.
"""

from __future__ import annotations

import os
import re
import secrets
from functools import cache
from pathlib import Path

__all__ = ["is_abandoned", "make_region_name"]

_NAME = re.compile(r"plansmith-(?P<namespace>\d+)-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{16}")


def make_region_name() -> str:
    """A name that nobody has used.

    Raises:
        OSError: the system has no /proc, and so no way to find out later whether the owner lives.
    """
    return f"plansmith-{_namespace(os.getpid())}-{os.getpid()}-{_start_time(os.getpid())}-{secrets.token_hex(8)}"


def is_abandoned(name: str) -> bool:
    """Whether a region of this name was made by a client of this host whose process has ended."""
    found = _NAME.fullmatch(name)
    try:
        if found is None or int(found["namespace"]) != _namespace(os.getpid()):
            return False
        return _start_time(int(found["pid"])) != int(found["start"])
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False


@cache
def _namespace(pid: int) -> int:
    # `pid:[4026531836]`; keyed by the process, since a fork may be in another one.
    return int(str(Path(f"/proc/{pid}/ns/pid").readlink()).partition("[")[2].rstrip("]"))


def _start_time(pid: int) -> int:
    # Field 22 of proc(5); the name in parentheses before may hold anything.
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19])
