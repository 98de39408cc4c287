"""`make demo`: train a classifier, then do with it what `plansmith demo` does with the one that it brings.

Everything is made below one folder, out/demo by default; nothing outside it changes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from train import train

from plansmith.demo.program import run, step

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder to work in [%(default)s]")
    output = parser.parse_args().output
    console = Console(record=True)
    with step(console, "Training a classifier on scikit-learn's digits"):
        train(output)
    run(output, output, console)
