"""Everything that can be measured of the committed models, in one report: `make bench`, some minutes.

For each model of model_repository: a closed loop in three rounds, an open loop at half of the throughput found, the
highest rate within p99=50ms, and what `plansmith bench compare` compares, on a real server that is started and stopped
here. The results and report.html lie in the output folder.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
from pathlib import Path

from figures_file import read_arguments
from rich.console import Console

from plansmith_perf.results.documents import read_result
from plansmith_server import ServerOptions, TritonServer

REPOSITORY = Path(__file__).parents[2] / "model_repository"
SLO = "p99=50ms"


# The exit code of `plansmith bench --slo` where no rate keeps the SLO: a result like any other.
SLO_MISSED = 3


def plansmith(*words: object) -> None:
    """Run the command; its tables are for the user."""
    command = [str(Path(sys.executable).with_name("plansmith")), *map(str, words)]
    code = subprocess.run(command, check=False).returncode
    if code not in (0, SLO_MISSED):
        sys.exit(code)


def measure(model: str, output: Path) -> list[Path]:
    """Measure one model; returns the files of the results."""
    files = {kind: output / f"{model}-{kind}.json" for kind in ("closed", "open", "slo", "peers")}
    options = ServerOptions(repository=REPOSITORY, http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer(options) as server:
        bench = ("bench", "run", model, "--url", server.grpc_url)
        plansmith(*bench, "--concurrency", "1,4,16,64", "--rounds", "3", "--seconds", "3", "-o", files["closed"])
        highest = max(measured.throughput for measured in read_result(files["closed"]).measurements)
        plansmith(*bench, "--rate", f"{highest / 2:.0f}", "--seconds", "5", "-o", files["open"])
        # A p99 takes 1,000 answers, and the first step of the search is one request at a time.
        alone = min(measured.throughput for measured in read_result(files["closed"]).measurements)
        seconds = max(2, math.ceil(1500 / alone))
        plansmith(*bench, "--slo", SLO, "--seconds", seconds, "--warmup", "0.5", "-o", files["slo"])
    rounds = ("--rounds", "3", "--seconds", "2", "--warmup", "0.5")
    plansmith("bench", "compare", model, "--repository", REPOSITORY, *rounds, "-o", files["peers"])
    return list(files.values())


def main() -> None:
    """Measure all, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    output = read_arguments(parser).output
    started = time.monotonic()
    models = sorted(path.parent.name for path in REPOSITORY.glob("*/config.pbtxt"))
    files = [file for model in models for file in measure(model, output)]
    plansmith("bench", "report", *files, "--output", output / "report.html")
    Console(highlight=False).print(f"Measured {', '.join(models)} in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
