"""A small convolutional classifier that works: noisy stripes in, their direction out; and one that INT8 breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CLASSES", "stripes", "write_data", "write_stripes_classifier"]

CLASSES = 4
SIDE = 32
CHANNELS = 32


def stripes(rows: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images FP32 [rows, 3, 32, 32] and the direction of their stripes, INT64 [rows]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, rows)
    vertical, horizontal = np.mgrid[0:SIDE, 0:SIDE]
    angles = np.pi * labels[:, None, None] / CLASSES
    waves = np.sin(horizontal * np.cos(angles) + vertical * np.sin(angles) + rng.uniform(0, 6, (rows, 1, 1)))
    images = waves[:, None] + rng.normal(0, 0.5, (rows, 3, SIDE, SIDE))
    return images.astype(np.float32), labels.astype(np.int64)


def write_data(path: Path, rows: int = 128, *, seed: int = 1, labels: bool = True) -> Path:
    """An .npz of stripes."""
    images, classes = stripes(rows, seed=seed)
    np.savez(path, images=images, **({"labels": classes} if labels else {}))
    return path


def write_stripes_classifier(path: Path, *, fragile: bool = False) -> Path:
    """Three convolutions with random weights, and a classifier fitted to what they make of stripes.

    Args:
        path: where to write.
        fragile: one channel in the middle is a thousand times as large as the others and is taken back afterwards:
            nothing to FP32, and the end of one INT8 scale for all of them.
    """
    rng = np.random.default_rng(0)
    spread = np.ones(CHANNELS, dtype=np.float32)
    if fragile:
        spread[0] = 1000
    tensors = {
        "w1": _he(rng, (CHANNELS, 3, 3, 3)),
        "w2": _he(rng, (CHANNELS, CHANNELS, 3, 3)) * spread[:, None, None, None],
        "w3": _he(rng, (CHANNELS, CHANNELS, 3, 3)) / spread[None, :, None, None],
        "b1": np.zeros(CHANNELS, dtype=np.float32),
        "matrix": np.zeros((CLASSES, CHANNELS), dtype=np.float32),
        "offset": np.zeros(CLASSES, dtype=np.float32),
    }
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        stripes (float[N, 3, {SIDE}, {SIDE}] images) => (float[N, {CLASSES}] scores) {{
            c1 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (images, w1, b1)
            r1 = Relu (c1)
            c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
            r2 = Relu (c2)
            c3 = Conv <pads = [1, 1, 1, 1]> (r2, w3)
            r3 = Relu (c3)
            pooled = GlobalAveragePool (r3)
            features = Flatten (pooled)
            scores = Gemm <transB = 1> (features, matrix, offset)
        }}"""
    )
    for name, node in zip(["first", "", "middle", "", "last", "", "", "", "classifier"], model.graph.node, strict=True):
        node.name = name or f"{node.op_type}_{node.output[0]}"
    images, labels = stripes(512, seed=7)
    tensors["matrix"], tensors["offset"] = _fit(_features(model, tensors, images), labels)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    onnx.save(model, path)
    return path


def _he(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)


def _features(model: onnx.ModelProto, tensors: dict[str, np.ndarray], images: np.ndarray) -> np.ndarray:
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    whole.graph.output.append(onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["features"], {"images": images})[0]


def _fit(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    wide = np.hstack([features, np.ones((len(features), 1))])
    solution = np.linalg.lstsq(wide, np.eye(CLASSES)[labels], rcond=None)[0] * 10
    return solution[:-1].T.astype(np.float32), solution[-1].astype(np.float32)
