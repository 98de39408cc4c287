"""How long it takes, and how much memory, to build the fastest accurate ResNet-50; and how much faster it is.

`python perf/benchmarks/build_resnet50.py [--json FILE]`: INT8 and all else that this CPU gains by, verified on 128
pictures that it was not calibrated with. The bars, on two cores: 90 s, 3 GiB, three times ONNX Runtime FP32 in process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from figures_file import write_figures
from peak_memory import run_watched
from rich.console import Console
from texture_classifier import texture_images, write_texture_classifier

from plansmith_build.commands.build_display import candidates_table
from plansmith_build.repository.manifest import SearchRecord

ROWS = 256
MAX_DROP = "0.5%"


def main() -> None:
    """Make the model and its data, build it, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="plansmith-resnet50-") as name:
        folder = Path(name)
        with console.status("Making ResNet-50 and its pictures"):
            write_texture_classifier(folder / "resnet50.onnx")
            images, labels = texture_images(ROWS, seed=99)
            np.savez(folder / "calibration.npz", **{"gpu_0/data_0": images, "labels": labels})
        built = run_watched(
            [
                *(str(Path(sys.executable).with_name("plansmith")), "build", str(folder / "resnet50.onnx"), "--json"),
                *("--data", str(folder / "calibration.npz"), "--max-drop", MAX_DROP),
                *("--repository", str(folder / "model_repository")),
            ]
        )
        search = SearchRecord.model_validate(json.loads(built.output)["manifest"]["search"])
        console.print(candidates_table(search))
        (chosen,) = (candidate for candidate in search.candidates if candidate.status == "chosen")
        base = next(c for c in search.candidates if c.target == "onnxruntime" and c.precision == "fp32")
        figures = {
            "seconds": round(built.seconds, 1),
            "peak_gib": round(built.peak_bytes / 2**30, 2),
            "cores": search.cores,
            "chosen": f"{chosen.target} {chosen.precision}",
            "top1": chosen.accuracy.top1 if chosen.accuracy else None,
            "fp32_top1": search.fp32.top1,
            "rows_per_second": chosen.rows_per_second,
            "fp32_rows_per_second": chosen.fp32_rows_per_second,
            "ratio_in_process": chosen.ratio_to_fp32,
            "served_rows_per_second": chosen.served_rows_per_second,
            "fp32_served_rows_per_second": base.served_rows_per_second,
        }
        console.print_json(data=figures)
        if arguments.json:
            write_figures(arguments.json, None, figures=figures)


if __name__ == "__main__":
    main()
