"""Finds perf_analyzer, or brings it without a container.

NVIDIA's `-py3-sdk` containers have it on the PATH. The binary also ships in old wheels of tritonclient: 2.51.0 is the
last that runs with glibc 2.36; it needs the CUDA runtime library, which PyPI has too, and Debian's libb64. Nothing of
it is installed into the environment that runs plansmith.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from plansmith_build.repository.staging import temporary_folder
from plansmith_perf.errors import PerfAnalyzerMissing
from plansmith_perf.perf_analyzer.program import PerfAnalyzer

__all__ = ["install_perf_analyzer"]

PACKAGES = ("tritonclient==2.51.0", "nvidia-cuda-runtime-cu12==12.9.79")
ELSEWHERE = "run it from NVIDIA's tritonserver -py3-sdk container instead"


def install_perf_analyzer() -> PerfAnalyzer:
    """The perf_analyzer on the PATH; without one that in the user's cache, which is brought there once.

    Raises:
        PerfAnalyzerMissing: it cannot be installed, or does not start here; the message says what is missing.
    """
    found = shutil.which("perf_analyzer")
    if found is not None:
        return _started(Path(found), ())
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(cache, "plansmith", "perf_analyzer")
    if not folder.exists():
        try:
            _install(folder)
        except OSError as error:
            raise PerfAnalyzerMissing(
                f"perf_analyzer cannot be kept in {folder.parent} ({error.strerror}): set XDG_CACHE_HOME to a folder "
                f"with room that you may write to, or {ELSEWHERE}"
            ) from error
    return _started(folder / "bin" / "perf_analyzer", (folder / "nvidia" / "cuda_runtime" / "lib",))


def _started(binary: Path, library_path: tuple[Path, ...]) -> PerfAnalyzer:
    analyzer = PerfAnalyzer(binary, library_path, "")
    try:
        started = subprocess.run(
            [str(binary), "--version"], check=False, capture_output=True, text=True, env=analyzer.environment()
        )
    except OSError as error:
        raise PerfAnalyzerMissing(f"perf_analyzer cannot run on this machine ({error}); {ELSEWHERE}") from error
    if "libb64" in started.stderr:
        raise PerfAnalyzerMissing("perf_analyzer needs libb64: on Debian or Ubuntu, apt-get install libb64-0d")
    version = re.search(r"Perf Analyzer Version (\S+)", started.stdout + started.stderr)
    if version is None:
        reason = (started.stderr.strip() or "it gave no reason").splitlines()[0]
        raise PerfAnalyzerMissing(f"perf_analyzer does not start here: {reason}; {ELSEWHERE}")
    return PerfAnalyzer(binary, library_path, version[1])


def _install(folder: Path) -> None:
    """Bring it, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-P", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    with temporary_folder(folder) as staged:
        target = staged / "perf_analyzer"
        done = subprocess.run(
            [*command, "--only-binary=:all:", "--target", str(target), *PACKAGES],
            check=False,
            capture_output=True,
            text=True,
            # What pip unpacks goes with the folder where both are killed.
            env={**os.environ, "TMPDIR": str(staged)},
        )
        if done.returncode:
            reason = (done.stderr.strip() or "pip said nothing").splitlines()[-1]
            raise PerfAnalyzerMissing(f"perf_analyzer could not be installed: {reason}; {ELSEWHERE}")
        (target / "bin" / "perf_analyzer").chmod(0o755)
        if not folder.exists():
            target.rename(folder)
