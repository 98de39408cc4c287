"""NNCF in a process of its own: `python -m plansmith_build.precision.nncf_process FOLDER [search]`.

Reads `model.onnx` and the requests `0.npz`, `1.npz` and so on from the folder, each the names of the inputs and then
their arrays, and writes `quantized.onnx` into it. With `search`, NNCF puts back layers that lose too much: for each
graph on its way this process writes `candidate.onnx` and a line to its output, and reads from its input the share of
the budget that the graph leaves, negative outside of it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx

__all__ = ["main"]


def main(folder: Path, *, search: bool) -> None:
    """Quantize the model for transformers."""
    # NNCF draws bars of its own.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as candidates:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

        def unused_budget(model: onnx.ModelProto, _: object) -> tuple[float, None]:
            onnx.save(model, folder / "candidate.onnx")
            print(file=candidates, flush=True)
            return float(sys.stdin.readline()), None

        requests = [_request(path) for path in sorted(folder.glob("*.npz"), key=lambda path: int(path.stem))]
        model, data = onnx.load(folder / "model.onnx"), nncf.Dataset(requests)
        options = {"model_type": nncf.ModelType.TRANSFORMER, "subset_size": len(requests)}
        if search:
            rows = nncf.Dataset([None])
            model = nncf.quantize_with_accuracy_control(model, data, rows, unused_budget, max_drop=1.0, **options)
        else:
            model = nncf.quantize(model, data, **options)
    onnx.save(model, folder / "quantized.onnx")


def _request(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(path, allow_pickle=False) as arrays:
        names, *values = (arrays[key] for key in arrays.files)
    return dict(zip(names.tolist(), values, strict=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), search=sys.argv[2:] == ["search"])
