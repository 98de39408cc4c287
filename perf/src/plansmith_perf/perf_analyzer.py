"""NVIDIA's perf_analyzer, the load generator in C++, without a container.

The binary ships in old wheels of tritonclient: 2.51.0 is the last that runs with glibc 2.36; it needs the CUDA runtime
library, which PyPI has too, and Debian's libb64. Nothing of it is installed into the environment that runs plansmith.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from plansmith_perf.errors import PerfAnalyzerMissing, PerfError

__all__ = ["PerfAnalyzer", "PerfAnalyzerRow", "install_perf_analyzer"]

PACKAGES = ("tritonclient==2.51.0", "nvidia-cuda-runtime-cu12==12.9.79")
# Far beyond any noise: perf_analyzer would otherwise end with an error where three windows in a row do not agree, and
# whoever compares two servers repeats the measurement in turn anyway.
STABILITY_PERCENT = "1000"
ELSEWHERE = "run it from NVIDIA's tritonserver -py3-sdk container instead"


@dataclass(frozen=True)
class PerfAnalyzerRow:
    """What perf_analyzer measured at one concurrency.

    Attributes:
        concurrency: requests in flight.
        requests_per_second: as the client counted them.
        latency_milliseconds: by percentile; 50, 90, 95 and 99.
    """

    concurrency: int
    requests_per_second: float
    latency_milliseconds: dict[int, float]


@dataclass(frozen=True)
class PerfAnalyzer:
    """An installed perf_analyzer.

    Attributes:
        binary: the program.
        library_path: folders of the shared libraries that it needs.
    """

    binary: Path
    library_path: tuple[Path, ...]

    def run(self, model: str, *, grpc_url: str, concurrency: int, seconds: float = 2.0) -> PerfAnalyzerRow:
        """Keep `concurrency` requests with random inputs in flight over gRPC for three windows of measurement.

        Args:
            model: a model of the server, ready.
            grpc_url: host:port.
            concurrency: requests in flight.
            seconds: length of one window; the mean of the three counts.

        Raises:
            PerfError: perf_analyzer failed; its own words are in the message.
        """
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.csv"
            command = [
                *(str(self.binary), "-m", model, "-u", grpc_url, "-i", "grpc", "--async"),
                *("--concurrency-range", str(concurrency), "--measurement-interval", str(round(seconds * 1000))),
                *("--stability-percentage", STABILITY_PERCENT, "-f", str(report)),
            ]
            libraries = os.pathsep.join(map(str, self.library_path))
            done = subprocess.run(
                command, check=False, capture_output=True, text=True, env={**os.environ, "LD_LIBRARY_PATH": libraries}
            )
            if done.returncode or not report.exists():
                said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
                reasons = [line for line in said if "fail" in line.lower() or "error" in line.lower()] or said[-1:]
                raise PerfError(f"perf_analyzer failed on model {model!r}: {' '.join(reasons) or 'it said nothing'}")
            with report.open(encoding="utf-8") as lines:
                (row,) = csv.DictReader(lines)
        return PerfAnalyzerRow(
            concurrency=concurrency,
            requests_per_second=float(row["Inferences/Second"]),
            latency_milliseconds={percent: float(row[f"p{percent} latency"]) / 1000 for percent in (50, 90, 95, 99)},
        )


def install_perf_analyzer(folder: Path) -> PerfAnalyzer:
    """Bring perf_analyzer into `folder`, unless it is there already.

    Raises:
        PerfAnalyzerMissing: it cannot be installed, or does not start here; the message says what is missing.
    """
    binary = folder / "bin" / "perf_analyzer"
    if not binary.exists():
        _pip_install(folder)
    analyzer = PerfAnalyzer(binary, (folder / "nvidia" / "cuda_runtime" / "lib",))
    binary.chmod(0o755)
    try:
        started = subprocess.run(
            [str(binary), "--version"],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(map(str, analyzer.library_path))},
        )
    except OSError as error:
        raise PerfAnalyzerMissing(f"perf_analyzer cannot run on this machine ({error}); {ELSEWHERE}") from error
    if "libb64" in started.stderr:
        raise PerfAnalyzerMissing("perf_analyzer needs libb64: on Debian or Ubuntu, apt-get install libb64-0d")
    if "Perf Analyzer" not in started.stdout + started.stderr:
        reason = (started.stderr.strip() or "it gave no reason").splitlines()[0]
        raise PerfAnalyzerMissing(f"perf_analyzer does not start here: {reason}; {ELSEWHERE}")
    return analyzer


def _pip_install(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--only-binary=:all:", "--target", str(folder), *PACKAGES],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = (done.stderr.strip() or "pip said nothing").splitlines()[-1]
        raise PerfAnalyzerMissing(f"perf_analyzer could not be installed: {reason}")
