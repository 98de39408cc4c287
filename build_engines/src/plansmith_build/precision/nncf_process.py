"""NNCF in a process of its own: `python -m plansmith_build.precision.nncf_process FOLDER`.

Reads `model.onnx` and the requests `0.npz`, `1.npz` and so on from the folder, each the names of the inputs and then
their arrays. For each line of standard input, the names of the nodes that stay as they are (JSON), it writes
`quantized.onnx` into the folder and a line to standard output: why it could not (JSON), or an empty string.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import onnx

__all__ = ["main"]


def main(folder: Path) -> None:
    """Quantize the model for transformers, once for each line."""
    replies = os.fdopen(os.dup(1), "w")
    # It draws bars of its own.
    os.dup2(2, 1)
    requests = [_request(path) for path in sorted(folder.glob("*.npz"), key=lambda path: int(path.stem))]
    for line in sys.stdin:
        problem = ""
        try:
            quantized = nncf.quantize(
                onnx.load(folder / "model.onnx"),
                nncf.Dataset(requests),
                model_type=nncf.ModelType.TRANSFORMER,
                subset_size=len(requests),
                ignored_scope=nncf.IgnoredScope(names=json.loads(line)),
            )
            onnx.save(quantized, folder / "quantized.onnx")
        except Exception as error:  # noqa: BLE001 - the next line may have none
            problem = f"{type(error).__name__}: {error}"
        print(json.dumps(problem), file=replies, flush=True)


def _request(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(path, allow_pickle=False) as arrays:
        names, *values = (arrays[key] for key in arrays.files)
    return dict(zip(names.tolist(), values, strict=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
