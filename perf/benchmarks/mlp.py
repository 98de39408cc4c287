"""The MLP 64-128-10 of the benchmarks, with random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.parser

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_mlp"]

NETWORK = """
<ir_version: 8, opset_import: ["" : 17]>
mlp (float[N, 64] x) => (float[N, 10] y)
{
  hidden = Gemm (x, w1, b1)
  active = Relu (hidden)
  y = Gemm (active, w2, b2)
}
"""


def write_mlp(path: Path) -> None:
    """Write the network: x FP32 [N, 64] to y FP32 [N, 10]."""
    network = onnx.parser.parse_model(NETWORK)
    random = np.random.default_rng(0)
    for name, shape in {"w1": (64, 128), "b1": (128,), "w2": (128, 10), "b2": (10,)}.items():
        weights = random.standard_normal(shape).astype(np.float32)
        network.graph.initializer.append(onnx.numpy_helper.from_array(weights, name))
    onnx.save(network, path)
