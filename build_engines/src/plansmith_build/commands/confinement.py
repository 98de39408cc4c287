"""A file from outside is loaded and run in a process of its own, with a limit of memory and of time.

Engines compute in C++, where Python can neither interrupt them nor say how much they take, and a file may make them
end their process. The command itself only watches, so Ctrl-C ends a computation at once, a process that died is a
sentence, and its temporary files, those of the libraries included, are removed.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from plansmith_build.errors import VerificationFailed
from plansmith_build.repository.staging import temporary_folder
from plansmith_client.cli import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Limits", "MemoryOption", "TimeOption", "confined"]

_LOOK_SECONDS = 0.05
# How long a process that heeds Ctrl-C may take to remove what it has made and to stop its servers.
_GRACE_SECONDS = 15.0
_HEED_SECONDS = 0.5
_ALIVE, _HEEDED = b".", b"!"
_INTERRUPTED = 130
_PR_SET_PDEATHSIG = 1  # Linux, include/uapi/linux/prctl.h

MemoryOption = Annotated[
    float | None,
    typer.Option(
        "--memory-limit",
        min=0.1,
        help="GiB that the process may take that loads and runs the file.",
        show_default="three quarters of the machine's",
    ),
]
TimeOption = Annotated[float, typer.Option("--time-limit", min=1, help="Seconds that one step may take.")]


@dataclass(frozen=True)
class Limits:
    """What a file may take.

    Attributes:
        memory: GiB; None for three quarters of what the machine or the container has.
        seconds: without a sign of progress.
    """

    memory: float | None = None
    seconds: float = 1800.0

    @property
    def bytes(self) -> int:
        """The limit of memory in bytes."""
        return int(self.memory * 2**30) if self.memory is not None else _machine_bytes() * 3 // 4


def confined(work: Callable[[Callable[[], None]], None], limits: Limits, *, subject: str) -> None:
    """Do what a command does in a child process, and exit as it does.

    Args:
        work: the command; it is given a function to call at each sign of progress, prints its own result, and raises
            what a command raises.
        limits: what it may take.
        subject: the file or repository, for sentences.

    Raises:
        typer.Exit: the child's exit code, where it is not 0.
        VerificationFailed: a limit was reached, or the child died.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    with temporary_folder() as folder:
        signs, writing = os.pipe()
        command = os.getpid()
        child = os.fork()
        if child == 0:
            os.close(signs)
            tempfile.tempdir = str(folder)
            _be_confined(work, writing, command)
        os.close(writing)
        try:
            status = _watch(child, signs, limits, subject)
        except KeyboardInterrupt:
            _interrupt(child, signs)
            raise
        finally:
            os.close(signs)
    if os.WIFSIGNALED(status):
        raise _died(subject, os.WTERMSIG(status))
    code = os.waitstatus_to_exitcode(status)
    if code == _INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise typer.Exit(code)


def _be_confined(work: Callable[[Callable[[], None]], None], writing: int, command: int) -> NoReturn:
    """The child: it ends with its parent, and is alone in its process group, so that Ctrl-C reaches it once."""
    code: object = 1
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != command:
            os._exit(1)

        def heed(number: int, frame: object) -> None:
            os.write(writing, _HEEDED)
            signal.default_int_handler(number, frame)  # type: ignore[arg-type]

        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, heed)

        def alive() -> None:
            os.write(writing, _ALIVE)

        def said() -> None:
            try:
                work(alive)
            except typer.Exit as error:
                sys.exit(error.exit_code)

        run(said)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except SystemExit as error:
        code = error.code
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 0)


def _watch(child: int, signs: int, limits: Limits, subject: str) -> int:
    """Wait for the child's end and return its status; end it where it reaches a limit."""
    moved = time.monotonic()
    largest = limits.bytes
    while True:
        if select.select([signs], [], [], _LOOK_SECONDS)[0]:
            if not os.read(signs, 4096):
                return os.waitpid(child, 0)[1]
            moved = time.monotonic()
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if sum(map(_memory_of, _family(child))) > largest:
            _kill(child)
            raise VerificationFailed(
                f"{subject} could not be loaded and run in {largest / 2**30:,.4g} GiB of memory; --memory-limit "
                "allows more"
            )
        if time.monotonic() - moved > limits.seconds:
            _kill(child)
            raise VerificationFailed(
                f"{subject}: one step of loading and running it took more than {limits.seconds:g} s; --time-limit "
                "allows more"
            )


def _interrupt(child: int, signs: int) -> None:
    """Let the child clean up, if it is not deep in an engine."""
    os.kill(child, signal.SIGINT)
    end = time.monotonic() + _HEED_SECONDS
    heeded = False
    while time.monotonic() < end:
        if select.select([signs], [], [], _LOOK_SECONDS)[0]:
            found = os.read(signs, 4096)
            if not found:
                break
            if _HEEDED in found and not heeded:
                heeded, end = True, end + _GRACE_SECONDS
    _kill(child)


def _kill(child: int) -> None:
    # With what it started, since it leads a group of its own, unless it has only just begun.
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if sys.stderr.isatty():
        # The child's progress display has hidden the cursor.
        sys.stderr.write("\r\x1b[2K\x1b[?25h")


def _died(subject: str, number: int) -> VerificationFailed:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    why = (
        "somebody, or the kernel for want of memory, ended it" if number == signal.SIGKILL else "an engine failed on it"
    )
    return VerificationFailed(f"{subject} ended the process that loads and runs it with {name}: {why}")


def _family(leader: int) -> Iterator[int]:
    """A process and those of its group that it started, such as a quantizer; servers are in groups of their own."""
    yield leader
    for path in Path(f"/proc/{leader}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, path.read_text(encoding="ascii").split()):
                if os.getpgid(child) == leader:
                    yield child


def _memory_of(process: int) -> int:
    """The bytes that a process has written to and that belong to no file."""
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def _machine_bytes() -> int:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            machine = min(machine, int(Path(place).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no container, or `max`
            continue
    return machine
