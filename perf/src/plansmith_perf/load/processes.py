"""Starts the worker processes, lets them begin at the same moment, and collects what they recorded."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil

from plansmith_perf.errors import PerfError
from plansmith_perf.load.analysis import Records
from plansmith_perf.load.recording import read_log, to_records

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from plansmith_perf.load.worker import WorkerPlan

__all__ = ["Workers"]

START_SECONDS = 60.0
LEAD_SECONDS = 0.1


class Workers:
    """The processes of one load; leaving the `with` block ends them whatever happened.

    Args:
        plans: one for each process, which runs the plan's module.
        folder: for the plans and what the processes say; exists.
    """

    def __init__(self, plans: Sequence[WorkerPlan], folder: Path) -> None:
        self._plans = plans
        self._complaints = [folder / f"complaints-{number}.txt" for number, _ in enumerate(plans)]
        self._processes: list[subprocess.Popen[str]] = []
        for number, plan in enumerate(plans):
            path = folder / f"plan-{number}.json"
            path.write_text(plan.model_dump_json(), encoding="utf-8")
            with self._complaints[number].open("wb") as complaints:
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-P", "-m", plan.module, str(path)],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        # A file: nobody reads while a load runs, and a full pipe would stop the process for ever.
                        stderr=complaints,
                        text=True,
                        env=_environment(plan),
                        # Ctrl-C reaches the whole group of a terminal: here the parent decides when the workers end.
                        process_group=0,
                    )
                )

    @property
    def processes(self) -> list[psutil.Process]:
        """For measuring what they use."""
        return [psutil.Process(process.pid) for process in self._processes]

    @property
    def running(self) -> bool:
        """Whether any of them still sends or waits for answers."""
        return any(process.poll() is None for process in self._processes)

    def start(self) -> int:
        """Let all begin; returns when, in nanoseconds of `time.monotonic_ns`.

        Raises:
            PerfError: a worker does not start.
        """
        for number, process in enumerate(self._processes):
            assert process.stdout is not None  # noqa: S101 - PIPE was asked for
            readable, _, _ = select.select([process.stdout], [], [], START_SECONDS)
            if not readable or process.stdout.readline().strip() != "ready":
                raise self._failure(number)
        begin = time.monotonic_ns() + int(LEAD_SECONDS * 1e9)
        for process in self._processes:
            assert process.stdin is not None  # noqa: S101
            process.stdin.write(f"{begin}\n")
            process.stdin.flush()
        return begin

    def stop(self) -> None:
        """Let them write down what they have, and no more."""
        for process in self._processes:
            if process.stdin is not None and not process.stdin.closed:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()

    def collect(self, begin: int) -> tuple[Records, list[str]]:
        """Wait for them and read their records.

        Returns:
            The records, and what went wrong with each: "" where nothing did.

        Raises:
            PerfError: a worker failed.
        """
        parts: list[Records] = []
        outcomes: list[str] = []
        for number, (plan, process) in enumerate(zip(self._plans, self._processes, strict=True)):
            # Not communicate(): it closes stdin at once, which is the order to stop.
            if process.wait():
                raise self._failure(number)
            records, said = to_records(*read_log(plan.records), begin)
            parts.append(records)
            outcomes += said
        return Records.join(parts), outcomes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()

    def _failure(self, number: int) -> PerfError:
        process = self._processes[number]
        process.kill()
        process.wait()
        said = self._complaints[number].read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return PerfError(f"a process of the load generator failed: {said[-1] if said else 'it said nothing'}")


def _environment(plan: WorkerPlan) -> dict[str, str] | None:
    """That of the plan's process; None for the present one."""
    if plan.module_folder is None:
        return None
    path = os.pathsep.join(filter(None, [str(plan.module_folder), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}
