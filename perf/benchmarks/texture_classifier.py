"""A real classifier in the shape of ResNet-50, without a download.

The onnx package brings ResNet-50 with constant weights. Here each gets a random weight, scaled as for training (He),
the last one of each residual branch smaller, as trained networks have it; and the classifier on top is fitted by least
squares to pictures of textures, each class a direction and a wavelength of stripes. So its accuracy is that of a model
that works, and falls when its numbers are rounded too much.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx.backend.test
import onnxruntime
from onnx import numpy_helper

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CLASSES", "INPUT", "SIDE", "texture_images", "write_texture_classifier"]

INPUT = "gpu_0/data_0"
CLASSES = 24
SIDE = 224
TRAINING_ROWS = 384
BRANCH_GAIN = 0.25
RIDGE = 1e-3
LIGHT_MODEL = Path(onnx.backend.test.__file__).parent / "data" / "light" / "light_resnet50.onnx"


def texture_images(rows: int, *, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Noisy stripes: images FP32 [rows, 3, 224, 224] and their classes INT64 [rows]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, rows)
    vertical, horizontal = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    images = np.empty((rows, 3, SIDE, SIDE), dtype=np.float32)
    for row, label in enumerate(labels):
        angle = np.pi * (label % 8) / 8 + rng.normal(0, 0.05)
        wavelength = (6, 12, 24)[label // 8] * rng.uniform(0.95, 1.05)
        phase = rng.uniform(0, 2 * np.pi)
        stripes = np.sin(2 * np.pi * (horizontal * np.cos(angle) + vertical * np.sin(angle)) / wavelength + phase)
        colour = rng.uniform(0.7, 1.3, (3, 1, 1))
        images[row] = colour * stripes + rng.normal(0, 0.8, (3, SIDE, SIDE))
    return images, labels


def write_texture_classifier(path: Path, data: Path) -> None:
    """Make the model, about 100 MB, and pictures to calibrate it with; some seconds for the features of its training.

    Args:
        path: of the model.
        data: .npz of 256 pictures that it was not fitted to, `INPUT`, and their classes, `labels`.
    """
    model = onnx.load(LIGHT_MODEL)
    _materialise(model.graph, np.random.default_rng(0))
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    images, labels = texture_images(TRAINING_ROWS, seed=1)
    features = _features(model, gemm.input[0], images)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    matrix, bias = _fit(features, labels, int(weights[gemm.input[1]].dims[0]))
    weights[gemm.input[1]].CopyFrom(numpy_helper.from_array(matrix, gemm.input[1]))
    weights[gemm.input[2]].CopyFrom(numpy_helper.from_array(bias, gemm.input[2]))
    images, labels = texture_images(256, seed=99)
    np.savez(data, **{INPUT: images, "labels": labels})
    onnx.save(model, path)


def _materialise(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    """A random weight in place of each constant one; the nodes that made them are gone."""
    shapes = {
        node.output[0]: numpy_helper.to_array(next(t for t in graph.initializer if t.name == node.input[0]))
        for node in graph.node
        if node.op_type == "ConstantOfShape"
    }
    made_by = {node.output[0]: node for node in graph.node}
    last_of_branch = set()
    for node in graph.node:
        if node.op_type == "Sum":
            branches = [made_by[name] for name in node.input if made_by[name].op_type == "BatchNormalization"]
            last_of_branch.add(branches[0].input[1])
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    drawn: dict[str, NDArray[np.float32]] = {}
    for node in graph.node:
        for position, name in enumerate(node.input[1:], start=1):
            shape = shapes.get(name)
            if shape is None and name in initializers and initializers[name].data_type == onnx.TensorProto.FLOAT:
                shape = np.array(initializers[name].dims)
            if shape is not None and node.op_type in {"Conv", "BatchNormalization", "Gemm"}:
                gain = BRANCH_GAIN if name in last_of_branch else 1.0
                drawn[name] = _draw(node.op_type, position, tuple(int(size) for size in shape), gain, rng)
    kept_nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    used = {name for node in kept_nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used and tensor.name not in drawn]
    inputs = [value for value in graph.input if value.name in used]
    listed = {value.name for value in inputs}
    for name, values in drawn.items():
        kept.append(numpy_helper.from_array(values, name))
        if name not in listed:
            # IR version 3 wants every initializer listed.
            inputs.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, values.shape))
    for field, values in [(graph.node, kept_nodes), (graph.initializer, kept), (graph.input, inputs)]:
        del field[:]
        field.extend(values)


def _draw(
    operator: str, position: int, shape: tuple[int, ...], gain: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    values = rng.standard_normal(shape, dtype=np.float32)
    match operator, position:
        case "Conv", 1:
            values *= np.sqrt(2 / np.prod(shape[1:]))
        case "BatchNormalization", 1:
            values = gain * (1 + values / 10)
        case "BatchNormalization", 4:
            values = 1 + 0.5 * np.tanh(values)
        case _:
            values /= 10
    return values.astype(np.float32)


def _features(model: onnx.ModelProto, name: str, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the classifier reads: [rows, 2048]."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    whole.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image_input = session.get_inputs()[0].name
    return np.concatenate([session.run([name], {image_input: image[None]})[0] for image in images])


def _fit(
    features: NDArray[np.float32], labels: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights [classes, features] and biases [classes] of a classifier, by ridge regression on one-hot targets."""
    mean = features.mean(axis=0)
    centred = (features - mean).astype(np.float64)
    targets = np.zeros((len(labels), classes))
    targets[np.arange(len(labels)), labels] = 1
    targets[:, :CLASSES] -= 1 / CLASSES
    kernel = centred @ centred.T
    ridge = RIDGE * np.trace(kernel) / len(kernel)
    matrix: NDArray[Any] = (centred.T @ np.linalg.solve(kernel + ridge * np.eye(len(kernel)), targets)).T * 10
    bias = -(matrix @ mean)
    bias[CLASSES:] = -10
    return matrix.astype(np.float32), bias.astype(np.float32)
