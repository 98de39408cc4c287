"""Runs perf_analyzer on one load and reads what it writes."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from plansmith_perf.errors import PerfError
from plansmith_perf.perf_analyzer.files import PerfAnalyzerReport, Window, read_report
from plansmith_perf.results.documents import ClosedLoop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from plansmith_perf.results.documents import OpenLoop

__all__ = ["PerfAnalyzer", "Question"]

# Far beyond any noise: perf_analyzer would otherwise end with an error where three windows in a row do not agree, and
# the stability of a measurement is judged from its requests.
STABILITY_PERCENT = "1000"
WINDOWS = 3
# It wants three windows in a row in which something was answered; a machine that stalls for one gets more of them.
_MOST_WINDOWS = 9
_WINDOW = re.compile(
    r"^\s*Pass \[\d+\] (?:throughput: (?P<rate>\S+) infer/sec\. Avg latency: (?P<latency>\d+) usec|cb::Error)",
    re.MULTILINE,
)
# Its words where it did not get them: the second one where the server's statistics, too, have nothing of a window. All
# others are about requests that failed.
_NOT_SETTLED = (
    "No valid requests recorded",
    "failed to find the requested model version",
    "Failed to obtain stable measurement",
)
# It measures windows that are this much longer than it is told, to have the requests at their edges.
_LONGER = 1.2
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Question:
    """What perf_analyzer is to ask.

    Attributes:
        model: of the server.
        target: host:port.
        version: of the model; "" for the server's choice.
        protocol: to speak, without TLS.
        batch_size: rows a request.
        data: its file of inputs; None for random ones of its own.
    """

    model: str
    target: str
    version: str = ""
    protocol: Literal["grpc", "http"] = "grpc"
    batch_size: int = 1
    data: Path | None = None


@dataclass(frozen=True)
class PerfAnalyzer:
    """An installed perf_analyzer.

    Attributes:
        binary: the program.
        library_path: folders of the shared libraries that it needs.
        version: its own.
    """

    binary: Path
    library_path: tuple[Path, ...]
    version: str

    def environment(self) -> dict[str, str]:
        """The environment variables of its process."""
        known = os.environ.get("LD_LIBRARY_PATH", "")
        path = os.pathsep.join(filter(None, [*map(str, self.library_path), known]))
        return {**os.environ, "LD_LIBRARY_PATH": path}

    def run(
        self,
        question: Question,
        load: ClosedLoop | OpenLoop,
        *,
        seconds: float,
        folder: Path,
        each_request: bool = False,
        watch: Callable[[int], None] = lambda _: None,
    ) -> PerfAnalyzerReport:
        """Put one load on a server.

        A run in which perf_analyzer does not find three windows with answers in a row has not failed: its report says
        so, and has the throughput and mean latency of each window.

        Args:
            question: what to ask.
            load: how.
            seconds: length of the measurement, which perf_analyzer makes in three windows.
            folder: for its files; two runs need two.
            each_request: have the times of each request exported, and with them all inputs and outputs as text.
            watch: called with the id of its process, ten times a second while it runs.

        Raises:
            PerfError: perf_analyzer failed, which it also does where a single request fails; its words are in the
                message.
        """
        report, export = folder / "report.csv", folder / "export.json"
        window = max(1, round(seconds * 1000 / WINDOWS / _LONGER))
        command = [
            *(str(self.binary), "-v", "-m", question.model, "-u", question.target, "-i", question.protocol, "--async"),
            *("--measurement-interval", str(window), "--max-trials", str(_MOST_WINDOWS)),
            *("--stability-percentage", STABILITY_PERCENT, "-b", str(question.batch_size), "-f", str(report)),
            *(("-x", question.version) if question.version else ()),
            *(("--input-data", str(question.data)) if question.data else ()),
            *(("--profile-export-file", str(export)) if each_request else ()),
            *_load_words(load),
        ]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment()
        ) as process:
            try:
                said = _watched(process, watch)
            except BaseException:
                process.kill()
                raise
        windows = _windows(said)
        if process.returncode or not report.exists():
            lines = [line.strip() for line in said.splitlines() if line.strip()]
            reasons = [line for line in lines if "fail" in line.lower() or "error" in line.lower()] or lines[-1:]
            told = [line for line in lines if any(words in line for words in _NOT_SETTLED)]
            if told and set(reasons) <= set(told):
                return PerfAnalyzerReport.of_windows(windows)
            raise PerfError(
                f"perf_analyzer failed on model {question.model!r}: {' '.join(reasons) or 'it said nothing'}"
            )
        return read_report(report, export if each_request else None, windows)


def _load_words(load: ClosedLoop | OpenLoop) -> tuple[str, ...]:
    if isinstance(load, ClosedLoop):
        return ("--concurrency-range", str(load.concurrency))
    return ("--request-rate-range", f"{load.rate:g}", "--request-distribution", load.arrivals)


def _windows(said: str) -> list[Window]:
    """What it said of each window, in order."""
    return [
        Window(float(found["rate"]), float(found["latency"])) if found["rate"] else Window(0.0, None)
        for found in _WINDOW.finditer(said)
    ]


def _watched(process: subprocess.Popen[str], watch: Callable[[int], None]) -> str:
    while True:
        try:
            said, _ = process.communicate(timeout=_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            watch(process.pid)
        else:
            return said
