"""`plansmith ...` in processes that begin with others' libraries imported, for which each new Python takes a second.

`ForkedCommands` starts this file as a program, which imports them and forks for each command line: a process of its own
still, which imports plansmith, runs its entry point and ends as Python ends.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["ForkedCommands"]

# Others' libraries that the commands import. Not those with threads of their own, which a fork does not have: without
# them, ONNX Runtime waits for ever when a process ends.
LIBRARIES = (
    "PIL.Image",
    "google.protobuf.json_format",
    "google.protobuf.text_format",
    "grpc.aio",
    "onnx.reference",
    "psutil",
    "pydantic",
    "rich.markdown",
    "rich.progress",
    "rich.syntax",
    "rich.table",
    "sympy",
    "tritonclient.grpc",
    "tritonclient.http",
    "typer",
)


class ForkedCommands:
    """Runs command lines, also several at once.

    Args:
        command: the path of `plansmith`, of which every process believes that it was started with it.
        environment: of all of them.
    """

    def __init__(self, command: Path, environment: Mapping[str, str]) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                # Without the folder of this file in the path, where its neighbours would be found.
                [sys.executable, "-P", __file__, str(theirs.fileno()), command],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
            )

    def close(self) -> None:
        """End the process that forks."""
        self._orders.close()
        self._process.wait()

    def run(self, words: Sequence[str], folder: Path, timeout: float) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` does, with the output captured.

        Args:
            words: after `plansmith`.
            folder: where it runs.
            timeout: seconds, after which it is killed.

        Raises:
            subprocess.TimeoutExpired: it was killed.
        """
        pipes = [os.pipe() for _ in ("status", "stdout", "stderr")]
        readers, writers = zip(*pipes, strict=True)
        try:
            socket.send_fds(self._orders, [json.dumps([*words, str(folder)]).encode()], writers)
        finally:
            for writer in writers:
                os.close(writer)
        ended, said = _read(readers, time.monotonic() + timeout)
        numbers = [int(line) for line in said[0].split()]
        if not ended:
            os.kill(numbers[0], signal.SIGKILL)
            raise subprocess.TimeoutExpired(list(words), timeout, *said[1:])
        return subprocess.CompletedProcess(list(words), numbers[1], *(text.decode() for text in said[1:]))


def _read(readers: Sequence[int], deadline: float) -> tuple[bool, list[bytes]]:
    """What is written to some pipes until nobody can write any more, and whether that was before the deadline."""
    said = dict.fromkeys(readers, b"")
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        for reader in readers:
            stack.callback(os.close, reader)
            selector.register(reader, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                return False, list(said.values())
            for key, _ in ready:
                found = os.read(key.fd, 2**16)
                said[key.fd] += found
                if not found:
                    selector.unregister(key.fd)
    return True, list(said.values())


def _forked(orders: socket.socket) -> list[str]:
    """Forks at each order and tells how the process ended; returns in each of these, with the words that it is for."""
    running: dict[int, tuple[int, int]] = {}
    while True:
        ready = select.select([orders.fileno(), *running], [], [])[0]
        for ended in running.keys() & set(ready):
            pid, status = running.pop(ended)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            _tell(status, code)
            os.close(status)
            os.close(ended)
        if orders.fileno() not in ready:
            continue
        words, passed, _, _ = socket.recv_fds(orders, 2**18, 3)
        if not words:
            sys.exit()
        status, *streams = passed
        pid = os.fork()
        if pid == 0:
            for number, stream in enumerate(streams, 1):
                os.dup2(stream, number)
            for descriptor in (*passed, *running, *(place for _, place in running.values())):
                os.close(descriptor)
            orders.close()
            return json.loads(words)
        for stream in streams:
            os.close(stream)
        _tell(status, pid)
        running[os.pidfd_open(pid)] = (pid, status)


def _tell(status: int, number: int) -> None:
    # Whoever waited too long no longer reads it.
    with contextlib.suppress(BrokenPipeError):
        os.write(status, f"{number}\n".encode())


def _program() -> None:
    orders = socket.socket(fileno=int(sys.argv[1]))
    for name in LIBRARIES:
        import_module(name)
    # What is there is not looked through again in each process, and so is not copied for it either.
    gc.freeze()
    *words, folder = _forked(orders)
    # Python has looked at what the descriptors were when it began.
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.chdir(folder)
    sys.argv = [sys.argv[2], *words]
    import_module("plansmith_client.cli").main()


if __name__ == "__main__":
    _program()
