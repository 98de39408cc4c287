"""Small ONNX models for the tests of `plansmith build`, each written as text or with onnx's helpers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.parser

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ADD", "HEADER", "litter", "snapshot", "write", "write_external"]

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
ADD = "add (float[N, 4] a, float[N, 4] b) => (float[N, 4] sum) { sum = Add (a, b) }"


def write(path: Path, text: str, *, header: str = HEADER) -> Path:
    """Write the model that `text` describes in ONNX's textual syntax."""
    onnx.save(onnx.parser.parse_model(header + text), path)
    return path


def write_external(path: Path, location: str = "weights.bin", *, rows: int = 64) -> Path:
    """Write a model whose only weight is stored in `location`; the weight file is written beside it."""
    weight = np.random.default_rng(0).standard_normal((rows, 3)).astype(np.float32)
    model = onnx.parser.parse_model(f"{HEADER} linear (float[N, {rows}] x) => (float[N, 3] y) {{ y = MatMul (x, w) }}")
    (path.parent / "weights.bin").write_bytes(weight.tobytes())
    tensor = model.graph.initializer.add(name="w", data_type=onnx.TensorProto.FLOAT, dims=weight.shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": str(weight.nbytes)}.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def litter(repository: Path) -> list[Path]:
    """What builders left beside a repository, but for the model folder that the last version replaced."""
    builders = sorted(repository.parent.glob(".*.plansmith/build-*"))
    kept = {".plansmith-build", "replaced"}
    replaced = [path for path in builders if {entry.name for entry in path.iterdir()} == kept]
    return [path for path in builders if path not in replaced[:1]]
