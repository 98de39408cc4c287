"""Runs one Triton server and cleans up behind it, whatever happens to the program that wanted it.

Started by plansmith_server.process as a process of its own, with the standard library alone:

- stdin, first line: a JSON object with `command`, `log` (a file to append to), `directory` (removed if the parent
  dies) and `grace` (seconds).
- stdin, afterwards: `s` stops the server within `grace` seconds, `k` kills it. The end of stdin, or another parent,
  means that the parent died: the server is stopped and `directory` removed.
- stdout: a JSON line {"pid": ...} once the server runs, {"status": ...} when it has ended (negative: the signal).

Triton's backends are processes of their own that talk to it through files in /dev/shm. A server that is killed, or
that stops while a backend hangs, leaves both behind; hence the process group, the subreaper and the list of files.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["main"]

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lives on Linux
REGION = re.compile(rf"{SHARED_MEMORY}/(triton_\w+_shm_region_[0-9a-f-]+)")
TICK_SECONDS = 0.25
SWEEP_SECONDS = 5.0

libc = ctypes.CDLL(None)


class Server:
    """A running tritonserver with its stubs and its regions of shared memory."""

    def __init__(self, command: list[str], log: str) -> None:
        supervisor = os.getpid()

        def die_with_supervisor() -> None:
            # Should even this process be killed: the server ends, and its stubs notice that within a second.
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != supervisor:
                os._exit(1)

        with Path(log).open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=die_with_supervisor,  # noqa: PLW1509 - there are no threads here
            )
        self.regions: set[str] = set()
        self._seen = 0

    def note_regions(self) -> None:
        """Remember which regions of shared memory are the server's."""
        changed = SHARED_MEMORY.stat().st_mtime_ns
        if changed != self._seen:
            self._seen = changed
            self.regions |= _regions_of(self.process.pid)

    def sweep(self) -> None:
        """Kill what is left of the process group and remove its regions of shared memory."""
        group = self.process.pid
        for pid in _members(group):
            self.regions |= _regions_of(pid)
        deadline = time.monotonic() + SWEEP_SECONDS
        while time.monotonic() < deadline:
            try:
                os.killpg(group, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                break
            # The server's own status must reach Popen; what it left behind has nobody else to collect it.
            if self.process.poll() is not None:
                _reap()
            time.sleep(0.01)
        for region in self.regions:
            (SHARED_MEMORY / region).unlink(missing_ok=True)


def main() -> None:
    """Do what the module's description says."""
    parent = os.getppid()
    line = sys.stdin.buffer.readline()
    if not line:
        return
    order = json.loads(line)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        server = Server(order["command"], order["log"])
    except OSError as error:
        _say({"error": str(error)})
        return
    _say({"pid": server.process.pid})
    reason = _watch(server, parent, deadline=None)
    if reason in {"stop", "orphan"}:
        server.process.send_signal(signal.SIGTERM)
        _watch(server, parent, deadline=time.monotonic() + order["grace"])
    server.sweep()
    status = server.process.wait()
    if os.getppid() != parent:
        shutil.rmtree(order["directory"], ignore_errors=True)
    _say({"status": status})


def _watch(server: Server, parent: int, deadline: float | None) -> str:
    """Wait until the server ends, the parent says something or is gone, or `deadline` is reached."""
    orphaned = False
    while server.process.poll() is None:
        if deadline is not None and time.monotonic() >= deadline:
            return "late"
        server.note_regions()
        if orphaned or os.getppid() != parent:
            if deadline is None:
                return "orphan"
            time.sleep(TICK_SECONDS)
            continue
        if select.select([sys.stdin], [], [], TICK_SECONDS)[0]:
            word = os.read(sys.stdin.fileno(), 1)
            if word == b"k":
                return "kill"
            if word == b"s" and deadline is None:
                return "stop"
            orphaned = word == b""
    return "ended"


def _regions_of(pid: int) -> set[str]:
    try:
        return set(REGION.findall(Path(f"/proc/{pid}/maps").read_text(errors="replace")))
    except OSError:
        return set()


def _members(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                # The command's name, in parentheses, may hold spaces; state, parent and group follow it.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == group:
                    found.append(int(entry.name))
    return found


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _say(line: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    main()
