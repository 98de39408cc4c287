"""Runs a peer's server as a process of its own that never outlives this one, nor does anything it has started."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil

from peers import launcher
from plansmith_perf.errors import PerfError
from plansmith_perf.load.usage import family_of
from plansmith_server.launcher import supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Self

__all__ = ["PeerFailed", "PeerProcess"]

_GRACE_SECONDS = 5.0
_START_SECONDS = 120.0
_POLL_SECONDS = 0.1
_SHOWN_CHARACTERS = 300
# What would send a peer to another environment's packages.
_MISLEADING = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


class PeerFailed(PerfError):
    """A peer's server did not start, or went away."""


class PeerProcess:
    """A running program; leaving the `with` block ends it and its descendants.

    Args:
        command: program and arguments.
        folder: its working directory, and where its log goes.
        variables: added to the present environment.

    Raises:
        PeerFailed: it cannot be started.
    """

    def __init__(self, command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> None:
        self._log = folder / "peer.log"
        inherited = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
        # The supervisor also ends a server whose starter was killed.
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", supervisor.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={**inherited, "PYTHONUNBUFFERED": "1", **variables},
            # Ctrl-C in a terminal reaches a whole group: here the parent decides when a peer ends.
            start_new_session=True,
        )
        assert self._supervisor.stdin is not None  # noqa: S101 - PIPE was asked for
        assert self._supervisor.stdout is not None  # noqa: S101
        order = {
            "command": [sys.executable, "-I", "-S", launcher.__file__, *command],
            "log": str(self._log),
            "directory": str(folder),
            "grace": _GRACE_SECONDS,
        }
        self._supervisor.stdin.write(json.dumps(order).encode() + b"\n")
        self._supervisor.stdin.flush()
        answer = json.loads(self._supervisor.stdout.readline() or b"{}")
        if "pid" not in answer:
            self._close()
            raise PeerFailed(f"{command[0]} cannot be started: {answer.get('error', 'the supervisor ended')}")
        self._pid = int(answer["pid"])

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._supervisor.poll() is None and psutil.pid_exists(self._pid)

    @property
    def processes(self) -> list[psutil.Process]:
        """It and its descendants at this moment."""
        return family_of(self._pid)

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready` says so.

        Raises:
            PeerFailed: the program ends before, or takes too long.
        """
        deadline = time.monotonic() + _START_SECONDS
        while not ready():
            if not self.running:
                raise PeerFailed(f"its server ended while it started: {self.last_words()}")
            if time.monotonic() > deadline:
                raise PeerFailed(f"its server was not ready after {_START_SECONDS:g} s: {self.last_words()}")
            time.sleep(_POLL_SECONDS)

    def last_words(self) -> str:
        """The end of its log, in one line."""
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            lines = []
        said = [line.strip() for line in lines if line.strip()]
        return said[-1][:_SHOWN_CHARACTERS] if said else "it logged nothing"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Some servers give their workers sessions of their own, where the supervisor does not look.
        family = self.processes
        with contextlib.suppress(OSError, ValueError):
            assert self._supervisor.stdin is not None  # noqa: S101
            os.write(self._supervisor.stdin.fileno(), b"s")
        try:
            self._supervisor.wait(2 * _GRACE_SECONDS + 2)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._close()

    def _close(self) -> None:
        self._supervisor.wait()
        for pipe in (self._supervisor.stdin, self._supervisor.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
