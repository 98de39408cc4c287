"""Runs one Triton server and cleans up behind it, whatever happens to the program that wanted it.

Started by plansmith_server.launcher.process as a process of its own, with the standard library alone:

- stdin, first line: a JSON object with `command`, `log` (a file to append to), `directory` (removed if the parent
  dies), `grace` (seconds) and, for Triton, `lock` (a descriptor that the server inherits) and `backends`: true to stop
  the server when one of its child processes dies.
- stdin, afterwards: `s` stops the server within `grace` seconds, `k` kills it. The end of stdin, or another parent,
  means that the parent died: the server is stopped and `directory` removed.
- stdout: a JSON line {"pid": ...} once the server runs; {"backend": ..., "status": ...} with the words of the command
  of a child process that has died, where that is why the server was stopped; {"status": ...} when the server has ended.
  A negative status is a signal.

Triton's backends are processes of their own that talk to it through files in /dev/shm, whose names begin with that of
`directory`. A server that is killed, or that stops while a backend hangs, leaves both behind; hence the process group,
the subreaper and those names.

Triton 2.51 neither replaces a backend process that dies nor reports it: the model remains "ready" and each request to
it fails. Nothing outside can replace the process, unload the model (except in explicit control) or correct the
readiness, so the server is stopped: health checks and whoever waits for its end then notice.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["main", "remove_regions"]

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lives on Linux
IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
TICK_SECONDS = 0.25
SWEEP_SECONDS = 5.0
# Triton collects a child that ends as it should at once, and one that died while it loaded a model soon. Counted in
# looks and not in seconds: after all of them were frozen, Triton has its time.
LOOK_SECONDS = 0.5
LOOKS_AT_THE_DEAD = 10


class Server:
    """A running tritonserver with its stubs and its regions of shared memory, which are called `run` and more."""

    def __init__(self, command: list[str], log: str, run: str, inherited: list[int]) -> None:
        supervisor = os.getpid()
        libc = ctypes.CDLL(None)

        def die_with_supervisor() -> None:
            # Should even this process be killed: the server ends, and its stubs notice that within a second.
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            # Ignored signals stay ignored in a new program, and one without handlers could then not be stopped.
            for number in IGNORED:
                signal.signal(number, signal.SIG_DFL)
            if os.getppid() != supervisor:
                os._exit(1)

        with Path(log).open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
                pass_fds=inherited,
                preexec_fn=die_with_supervisor,  # noqa: PLW1509 - there are no threads here
            )
        self.run = run
        self.dead_backend: dict[str, object] | None = None
        self._seen = 0
        self._commands: dict[int, list[str]] = {}
        self._looks: dict[int, int] = {}
        self._next_look = 0.0

    def close_regions(self) -> None:
        """Let no other user read the server's regions of shared memory: Triton makes them so, whatever the umask."""
        changed = SHARED_MEMORY.stat().st_mtime_ns
        if changed != self._seen:
            self._seen = changed
            for region in _regions_of(self.run):
                # Another user may have put a link under such a name.
                with contextlib.suppress(OSError):
                    descriptor = os.open(region, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                    os.fchmod(descriptor, 0o600)
                    os.close(descriptor)

    def note_backends(self) -> None:
        """Look for a child of the server that has died and that nobody collects: it becomes `dead_backend`."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        looks = {}
        for pid in _children(self.process.pid):
            # Between the fork and the exec it is still called like the server or the shell; the dead have no words.
            self._commands[pid] = _command(pid) or self._commands.get(pid, [])
            code = _exit_code(pid)
            if code is None:
                continue
            looks[pid] = self._looks.get(pid, 0) + 1
            if looks[pid] > LOOKS_AT_THE_DEAD:
                status = os.waitstatus_to_exitcode(code)
                self.dead_backend = {"backend": self._commands[pid], "status": status}
        self._looks = looks
        self._commands = {pid: words for pid, words in self._commands.items() if Path(f"/proc/{pid}").exists()}

    def sweep(self) -> None:
        """Kill what is left of the process group and remove its regions of shared memory."""
        group = self.process.pid
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
        remove_regions(self.run)


def main() -> None:
    """Do what the module's description says."""
    parent = os.getppid()
    line = _read_line()
    if not line:
        return
    order = json.loads(line)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    try:
        server = Server(
            order["command"], order["log"], Path(order["directory"]).name, [order["lock"]] if "lock" in order else []
        )
    except OSError as error:
        _say({"error": str(error)})
        return
    _say({"pid": server.process.pid})
    reason = _watch(server, parent, deadline=None, backends=order.get("backends", False))
    if server.dead_backend is not None:
        _say(server.dead_backend)
    if reason in {"stop", "orphan", "backend"}:
        server.process.send_signal(signal.SIGTERM)
        _watch(server, parent, deadline=time.monotonic() + order["grace"])
    server.sweep()
    status = server.process.wait()
    if os.getppid() != parent:
        shutil.rmtree(order["directory"], ignore_errors=True)
    _say({"status": status})


def _read_line() -> bytes:
    # Byte by byte: a word that follows at once must not be left in a buffer.
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(sys.stdin.fileno(), 1)):
        line += byte
    return line


def _watch(server: Server, parent: int, deadline: float | None, *, backends: bool = False) -> str:
    """Wait until the server or one of its backends ends, the parent speaks or is gone, or `deadline` is reached."""
    orphaned = False
    while server.process.poll() is None:
        if deadline is not None and time.monotonic() >= deadline:
            return "late"
        server.close_regions()
        if backends:
            server.note_backends()
            if server.dead_backend is not None:
                return "backend"
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


def remove_regions(run: str) -> None:
    """Remove what a run has left in shared memory.

    Args:
        run: the name of its folder, with which those of its regions begin.
    """
    for region in _regions_of(run):
        with contextlib.suppress(OSError):
            if region.lstat().st_uid == os.geteuid():
                region.unlink()


def _regions_of(run: str) -> list[Path]:
    return list(SHARED_MEMORY.glob(f"{run}-*"))


def _children(pid: int) -> list[int]:
    """The processes that any thread of `pid` has started."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _exit_code(pid: int) -> int | None:
    """The wait status of a process that has ended and that its parent has not collected; None for any other."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        if fields[0] == "Z":
            return int(fields[-1])
    return None


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _say(line: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    main()
