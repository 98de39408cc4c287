"""Take the picture of the README: the first minutes with plansmith, as a terminal shows them.

The commands are run for real, in an empty folder with the files of `plansmith demo`:

    python examples/digits/first_minutes.py --output docs/first-minutes.svg
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console
from rich.text import Text

from plansmith.demo.picture import save_images, save_terminal
from plansmith.demo.program import FILES

WIDTH = 88
BUILD = "plansmith build digits.onnx --data images --preprocess channels=GRAY,layout=NHW,scale=16/255"
SERVE = "plansmith serve"
ASK = "plansmith infer digits three.png"
# Of a build's summary; the rest is for those who have a reason to read it.
SHOWN = ("published", "verified", "accuracy", "configs/cpu.pbtxt")


def take(folder: Path, console: Console) -> None:
    """Run the three commands in `folder`, and show what they print on `console`."""
    shutil.copy(FILES / "digits.onnx", folder)
    with np.load(FILES / "held_out.npz") as held_out:
        save_images(held_out["images"], held_out["labels"], folder)

    _show(console, BUILD, _shortened(_run(BUILD, folder)))
    ports = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    with subprocess.Popen(
        [*_program(SERVE), *ports], cwd=folder, env=_environment(), stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            lines: list[str] = []
            for line in server.stdout or ():
                lines.append(line.rstrip())
                if line.startswith("ready"):
                    break
            url = next(line for line in lines if line.startswith("gRPC")).split()[1]
            # What a user sees who leaves the ports as they are.
            where = "gRPC 127.0.0.1:8001 · HTTP http://127.0.0.1:8000 · metrics http://127.0.0.1:8002/metrics"
            _show(console, SERVE, "\n".join(where if line.startswith("gRPC") else line for line in lines))
            _show(console, f"{ASK}    # from another terminal", _run(f"{ASK} --url {url}", folder))
        finally:
            server.send_signal(signal.SIGINT)


def _shortened(said: str) -> str:
    """The table of candidates, and of the summary the lines that a first reader wants."""
    table, _, summary = said.partition("\n\n")
    kept: list[str] = []
    wanted = False
    for line in summary.splitlines():
        if line and not line.startswith(" "):
            wanted = line.startswith(SHOWN)
        if wanted and line.strip():
            kept.append(line.rstrip())
    candidates = itertools.takewhile(lambda line: "not possible here" not in line, table.splitlines())
    return "\n".join([*candidates, "", *kept])


def _program(command: str) -> list[str]:
    name, *words = shlex.split(command)
    return [str(Path(sys.executable).with_name(name)), *words]


def _environment() -> dict[str, str]:
    return {**os.environ, "COLUMNS": str(WIDTH), "NO_COLOR": "1"}


def _run(command: str, folder: Path) -> str:
    done = subprocess.run(
        _program(command), cwd=folder, env=_environment(), check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.replace(str(folder), "~")


def _show(console: Console, command: str, said: str) -> None:
    console.print(Text.assemble(("$ ", "dim"), (command, "bold")))
    console.print(Text(said.rstrip()))
    console.print()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("docs/first-minutes.svg"), help="the picture [%(default)s]")
    output = parser.parse_args().output
    terminal = Console(record=True, width=WIDTH + 8, file=io.StringIO())
    with TemporaryDirectory() as place:
        take(Path(place).resolve(), terminal)
    save_terminal(terminal, output, title="The first minutes with plansmith")
