"""What TensorRT for RTX compiles on a machine without a GPU: engines, their sizes and the seconds that they took.

`python perf/benchmarks/compiled_engines.py [--models FOLDER] [--output perf/results]`: the committed digits, the nine
networks of the onnx package as they are, and every ONNX file of the folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import onnx.backend.test
from figures_file import write_figures
from rich.console import Console

from plansmith_build.checking import CheckOptions, check
from plansmith_build.engines.tensorrt import PlanOptions
from plansmith_build.engines.tensorrt_rtx import library_version
from plansmith_build.errors import BuildError
from plansmith_build.search.targets import Target

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "model_repository" / "digits" / "1" / "model.onnx"
LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"
CAPABILITIES = ("8.6", "8.9", "12.0")


def main() -> None:
    """Compile all of them, and print and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="a folder of further ONNX files")
    parser.add_argument("--output", type=Path, help="also write compiled_engines.json into this folder")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    found: dict[str, Any] = {}
    further = sorted(arguments.models.glob("*.onnx")) if arguments.models else []
    for path in (DIGITS, *sorted(LIGHT.glob("light_*.onnx")), *further):
        name = "digits" if path == DIGITS else path.stem
        with console.status(f"Compiling {name}"):
            found[name] = _compile(path)
        console.print(name, found[name])
    if arguments.output:
        write_figures(
            arguments.output / "compiled_engines.json",
            None,
            compiler=f"TensorRT for RTX {library_version()}",
            compute_capabilities=CAPABILITIES,
            models=found,
        )


def _compile(path: Path) -> dict[str, Any]:
    """By precision the size and seconds of the engine, or what was said."""
    options = CheckOptions(
        targets=(Target.TENSORRT,), max_batch_size=8, plan=PlanOptions(compute_capabilities=CAPABILITIES)
    )
    try:
        report = check(path, options)
    except BuildError as error:
        return {"refused": str(error)}
    return {
        answer.precision: {"bytes": answer.size, "seconds": round(answer.seconds or 0, 2)}
        if answer.size
        else {"said": answer.said}
        for answer in report.answers
    }


if __name__ == "__main__":
    main()
