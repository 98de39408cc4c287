"""How long searched builds take, and how much memory: ResNet-50, and the 11 MB recogniser of PP-OCRv4.

`python perf/benchmarks/searched_builds.py [--output FOLDER]` builds each with `plansmith build --data`, the search with
all that this machine can run and the trial on a Triton included, and writes `searched_builds.json`. The bars, on two
cores: ResNet-50 in 60 s and 2 GiB, the recogniser in 120 s and 1.5 GiB. ResNet-50 is verified on 128 pictures that it
was not calibrated with. The recogniser (Apache-2.0, from the package rapidocr-onnxruntime) reads drawn lines of text;
its answers are compared with the FP32 model's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from figures_file import read_arguments, write_figures
from peak_memory import run_watched
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from texture_classifier import write_texture_classifier
from wheel_files import take_files

from plansmith_build.commands.build_display import candidates_table
from plansmith_build.repository.manifest import SearchRecord

LINES = 64
MAX_DROP = "0.5%"
RECOGNISER = ("rapidocr-onnxruntime==1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf")
WORDS = ("the", "server", "answers", "each", "row", "as", "if", "it", "were", "alone", "a", "batch", "of", "many")


def write_recogniser(model: Path, data: Path) -> None:
    """The recogniser, and lines of text of the size that it was trained on: FP32 [64, 3, 48, 320]."""
    take_files(*RECOGNISER, {"rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx": model})
    np.savez(data, x=np.stack([_line(seed) for seed in range(LINES)]))


def _line(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (320, 48), (255, 255, 255))
    ImageDraw.Draw(image).text((4, 8), " ".join(rng.choice(WORDS, 5)), (0, 0, 0), ImageFont.load_default(24))
    return (np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1).astype(np.float32)


MODELS = {"resnet50": write_texture_classifier, "recogniser": write_recogniser}


def build(name: str, folder: Path, console: Console) -> dict[str, object]:
    """Build one of them, and print its candidates; gives the figures."""
    model, data = folder / f"{name}.onnx", folder / f"{name}.npz"
    with console.status(f"Making {name} and its data"):
        MODELS[name](model, data)
    built = run_watched(
        [
            *(str(Path(sys.executable).with_name("plansmith")), "build", str(model), "--json"),
            *("--data", str(data), "--max-drop", MAX_DROP, "--repository", str(folder / "model_repository")),
        ]
    )
    search = SearchRecord.model_validate(json.loads(built.output)["manifest"]["search"])
    console.print(candidates_table(search))
    (chosen,) = (candidate for candidate in search.candidates if candidate.status == "chosen")
    base = next(c for c in search.candidates if c.target == "onnxruntime" and c.precision == "fp32")
    figures = {
        "seconds": round(built.seconds, 1),
        "cpu_seconds": round(built.cpu_seconds, 1),
        "peak_gib": round(built.peak_bytes / 2**30, 2),
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
    return figures


def main() -> None:
    """Build them and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=MODELS, help="one of the two models; nothing is written")
    arguments = read_arguments(parser)
    console = Console(highlight=False)
    figures = {}
    with tempfile.TemporaryDirectory(prefix="plansmith-searched-") as folder:
        for name in [arguments.only] if arguments.only else MODELS:
            figures[name] = build(name, Path(folder), console)
    if not arguments.only:
        write_figures(arguments.output / "searched_builds.json", None, figures=figures)


if __name__ == "__main__":
    main()
