"""NNCF in a process of its own: `python -m plansmith_build.precision.nncf_process FOLDER`.

Reads `model.onnx`, the names of the nodes that stay as they are from `keep.json`, and the requests `0.npz`, `1.npz` and
so on from the folder, each the names of the inputs and then their arrays, and writes `quantized.onnx` into it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx

__all__ = ["main"]


def main(folder: Path) -> None:
    """Quantize the model for transformers."""
    requests = [_request(path) for path in sorted(folder.glob("*.npz"), key=lambda path: int(path.stem))]
    keep = json.loads((folder / "keep.json").read_text())
    quantized = nncf.quantize(
        onnx.load(folder / "model.onnx"),
        nncf.Dataset(requests),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(requests),
        ignored_scope=nncf.IgnoredScope(names=keep),
    )
    onnx.save(quantized, folder / "quantized.onnx")


def _request(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(path, allow_pickle=False) as arrays:
        names, *values = (arrays[key] for key in arrays.files)
    return dict(zip(names.tolist(), values, strict=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
