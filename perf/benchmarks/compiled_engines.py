"""What TensorRT for RTX compiles on a machine without a GPU: engines, their sizes and the seconds that they took.

`python perf/benchmarks/compiled_engines.py [--models FOLDER] [--output perf/results]`: the committed digits, the nine
networks of the onnx package as they are, and every ONNX file of the folder.

With `--modelopt PYTHON`, which has nvidia-modelopt, the files that `--compare` names are also quantized by
ModelOpt and by plansmith from the same inputs: sizes of engines for compute capability 8.9, and how far the answers to
other inputs are from those in FP32. Inputs are random, which says little of accuracy on real data.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx.backend.test
from figures_file import write_figures
from rich.console import Console

from plansmith_build.checking import CheckOptions, check
from plansmith_build.checking.graphs import PrecisionGraphs
from plansmith_build.engines.onnxruntime import Session
from plansmith_build.engines.tensorrt import PlanOptions, profile_for
from plansmith_build.engines.tensorrt_rtx import compile_engine, library_version
from plansmith_build.errors import BuildError
from plansmith_build.portable.portable_model import Batching, make_portable
from plansmith_build.portable.reference import run_reference
from plansmith_build.progress import silent
from plansmith_build.reading.loading import load_onnx
from plansmith_build.reading.signatures import signature_of
from plansmith_build.search.targets import Device, Pairing, Precision, Target

if TYPE_CHECKING:
    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.engines.tensorrt import OptimizationProfile
    from plansmith_build.reading.signatures import Signature

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "model_repository" / "digits" / "1" / "model.onnx"
LIGHT = Path(onnx.backend.test.__file__).parent / "data" / "light"
CAPABILITIES = ("8.6", "8.9", "12.0")
WITH_FP8 = CAPABILITIES[1:]
ROWS = 16
# What ModelOpt calls them.
MODES = {Precision.INT8_FP16: "int8", Precision.W4A16: "int4", Precision.FP8: "fp8"}


def main() -> None:
    """Compile all of them, and print and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="a folder of further ONNX files")
    parser.add_argument("--output", type=Path, help="also write compiled_engines.json into this folder")
    parser.add_argument("--modelopt", type=Path, help="a Python that has nvidia-modelopt: compare its quantizer")
    parser.add_argument("--compare", nargs="*", default=[], help="names of the files of --models to compare it on")
    parser.add_argument(
        "--only", nargs="*", help="compile these models alone; --output keeps what it has of the others"
    )
    arguments = parser.parse_args()
    console = Console(highlight=False)
    further = sorted(arguments.models.glob("*.onnx")) if arguments.models else []
    named = {"digits": DIGITS, **{path.stem: path for path in (*sorted(LIGHT.glob("light_*.onnx")), *further)}}
    before = arguments.output / "compiled_engines.json" if arguments.output else None
    found = json.loads(before.read_text(encoding="utf-8")) if before is not None and before.exists() else {}
    models, quantizers = found.get("models", {}), found.get("quantizers", {})
    for name, path in named.items():
        if arguments.only is not None and name not in arguments.only:
            continue
        with console.status(f"Compiling {name}"):
            models[name] = _compile(path)
        console.print(name, models[name])
        _write(arguments.output, models, quantizers)
    for name in arguments.compare if arguments.modelopt else ():
        with console.status(f"Quantizing {name}"):
            quantizers[name] = _compare_quantizers(named[name], arguments.modelopt)
        console.print(name, quantizers[name])
        _write(arguments.output, models, quantizers)


def _write(folder: Path | None, models: dict[str, Any], quantizers: dict[str, Any]) -> None:
    if folder is None:
        return
    write_figures(
        folder / "compiled_engines.json",
        None,
        compiler=f"TensorRT for RTX {library_version()}",
        compute_capabilities=CAPABILITIES,
        models=models,
        quantizers=quantizers,
    )


def _compile(path: Path) -> dict[str, Any]:
    """By precision the size and seconds of the engine, or what was said."""
    options = CheckOptions(
        targets=(Target.TENSORRT,),
        precisions=tuple(precision for precision in Precision if precision is not Precision.FP8),
        max_batch_size=8,
        plan=PlanOptions(compute_capabilities=CAPABILITIES),
    )
    eight = replace(options, precisions=(Precision.FP8,), plan=PlanOptions(compute_capabilities=WITH_FP8))
    try:
        answers = list(check(path, options).answers)
        # The same matrices, on fewer GPUs.
        if any(answer.size for answer in answers if answer.precision is Precision.W8A16):
            answers += check(path, eight).answers
    except BuildError as error:
        return {"refused": str(error)}
    return {
        answer.precision: {"bytes": answer.size, "seconds": round(answer.seconds or 0, 2)}
        if answer.size
        else {"said": answer.said}
        for answer in answers
    }


def _compare_quantizers(path: Path, python: Path) -> dict[str, Any]:
    """By precision, what plansmith's and ModelOpt's graphs of a network become."""
    file = load_onnx(path)
    signature = signature_of(file.network.model)
    seen, unseen = (_rows(signature, seed) for seed in (0, 1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = run_reference(file, signature, seed=0)
        portable, _ = make_portable(file, reference, folder, batching=Batching(), optimized=True, progress=silent)
        signature = signature_of(portable.network.model)
        exact = Session(portable.files[0], signature, optimized=False).run(unseen)
        profile = profile_for(signature, max_batch_size=8, observed={name: array.shape for name, array in seen.items()})
        graphs = PrecisionGraphs(portable.network, portable.files[0], [seen], folder)
        np.savez(folder / "seen.npz", **seen)
        found: dict[str, Any] = {}
        for precision, mode in MODES.items():
            try:
                ours = graphs.path_for(Pairing(Target.TENSORRT, Device.GPU, precision))
            except BuildError:
                # Nothing in it that the precision is for.
                continue
            theirs = folder / f"modelopt.{mode}.onnx"
            command = [
                python,
                Path(__file__).with_name("modelopt_quantizer.py"),
                portable.files[0],
                folder / "seen.npz",
            ]
            done = subprocess.run([*command, mode, theirs], check=False, capture_output=True, text=True)
            found[precision] = {"plansmith": _quantized(ours, signature, profile, unseen, exact)}
            found[precision]["modelopt"] = (
                {"said": done.stderr.strip().splitlines()[-1]}
                if done.returncode
                else {"version": done.stdout.split()[-1], **_quantized(theirs, signature, profile, unseen, exact)}
            )
    return found


def _quantized(
    path: Path, signature: Signature, profile: OptimizationProfile, inputs: Arrays, exact: Arrays
) -> dict[str, Any]:
    """The size of the engine, how many QuantizeLinear and DequantizeLinear there are, and the noise in decibels."""
    operators = [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]
    found: dict[str, Any] = {
        "pairs": operators.count("QuantizeLinear"),
        "weights": operators.count("DequantizeLinear") - operators.count("QuantizeLinear"),
    }
    try:
        found["bytes"] = compile_engine(path, path.with_suffix(".engine"), profile, ("8.9",)).size
        found["decibels"] = _decibels(exact, Session(path, signature, optimized=False).run(inputs))
    except BuildError as error:
        found["said"] = str(error)
    return found


def _decibels(exact: Arrays, answers: Arrays) -> float:
    """Signal to noise of the worst output: 20 is an error of a tenth, 40 of a hundredth."""
    ratios = [
        np.sum(np.square(wanted, dtype=np.float64))
        / max(np.sum(np.square(answers[name] - wanted, dtype=np.float64)), 1e-30)
        for name, wanted in exact.items()
    ]
    return round(10 * math.log10(min(ratios)), 1)


def _rows(signature: Signature, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    rows: dict[str, Any] = {}
    for spec in signature.inputs:
        shape = (ROWS, *(32 if size < 0 else size for size in spec.shape[1:]))
        whole = spec.datatype.startswith("INT")
        rows[spec.name] = (
            rng.integers(1, 2 if "mask" in spec.name else 1000, shape) if whole else rng.random(shape, np.float32)
        )
    return rows


if __name__ == "__main__":
    main()
