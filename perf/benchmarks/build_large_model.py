"""How much memory it takes to build a model that is larger than a protobuf message may be.

`python perf/benchmarks/build_large_model.py [--gigabytes 2.4]`: a stack of matrices with external weights. The bar: at
most 2.5 times the model's size, all processes together.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from peak_memory import run_watched
from rich.console import Console

WIDTH = 4096
MATRIX_BYTES = WIDTH * WIDTH * 4


def write_large_model(path: Path, *, layers: int, seed: int = 0) -> int:
    """Write a model of `count` matrices with its weights in a file next to it; returns its size in bytes.

    One matrix is drawn and written again and again, each time turned by some rows, so that making it is quick.
    """
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((WIDTH, WIDTH), dtype=np.float32) * np.float32(np.sqrt(2 / WIDTH))
    weights = path.with_suffix(".weights")
    nodes, tensors = [], []
    with weights.open("wb") as file:
        for layer in range(layers):
            tensor = onnx.TensorProto(name=f"w{layer}", data_type=onnx.TensorProto.FLOAT, dims=[WIDTH, WIDTH])
            tensor.data_location = onnx.TensorProto.EXTERNAL
            place = {"location": weights.name, "offset": file.tell(), "length": MATRIX_BYTES}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            file.write(np.roll(matrix, layer, axis=0).tobytes())
            tensors.append(tensor)
            source = "x" if layer == 0 else f"r{layer - 1}"
            target = "y" if layer == layers - 1 else f"r{layer}"
            nodes.append(onnx.helper.make_node("MatMul", [source, tensor.name], [f"m{layer}"], name=f"matmul_{layer}"))
            nodes.append(onnx.helper.make_node("Relu", [f"m{layer}"], [target], name=f"relu_{layer}"))
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", WIDTH]) for name in ("x", "y")]
    graph = onnx.helper.make_graph(nodes, "large", values[:1], values[1:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path.stat().st_size + weights.stat().st_size


def main() -> None:
    """Make it, build it, and print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.4)
    parser.add_argument("--data", help="also search for a faster version, with this data, such as random:8")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="plansmith-large-") as name:
        folder = Path(name)
        with console.status("Making the model"):
            size = write_large_model(
                folder / "large.onnx", layers=max(1, round(arguments.gigabytes * 1e9 / MATRIX_BYTES))
            )
        searching = ["--data", arguments.data, "--target", "onnxruntime"] if arguments.data else []
        built = run_watched(
            [
                *(str(Path(sys.executable).with_name("plansmith")), "build", str(folder / "large.onnx"), "--json"),
                *("--repository", str(folder / "model_repository"), *searching),
            ]
        )
        files = json.loads(built.output)["manifest"]["files"]
        console.print_json(
            data={
                "model_gb": round(size / 1e9, 2),
                "published_gb": round(sum(file["size"] for file in files) / 1e9, 2),
                "seconds": round(built.seconds, 1),
                "peak_gb": round(built.peak_bytes / 1e9, 2),
                "peak_ratio": round(built.peak_bytes / size, 2),
            }
        )


if __name__ == "__main__":
    main()
