"""The nine well-known networks that the onnx package brings: their files, their expected outputs, and real weights.

Their weights are constants, made by `ConstantOfShape` nodes, so they answer nearly the same to everything: a right
answer shows that the graph runs. With random weights put in, it shows that it computes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx.backend.test
from onnx import numpy_helper

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "distinct_rows",
    "golden",
    "light_model_names",
    "light_model_path",
    "searched_light_model_names",
    "with_random_weights",
]

LARGEST_DRAW = 2**22 - 3
# Residual additions and normalisations leave the signal larger than these classifiers can take: the softmax of large
# numbers is 1 for one class, whatever the image. Found by trying, so that the largest probability is clearly below 1.
LOGIT_GAINS = {"light_inception_v2": 0.2, "light_resnet50": 0.002, "light_shufflenet": 0.002}
FOLDER = Path(onnx.backend.test.__file__).parent / "data" / "light"


def light_model_names() -> tuple[str, ...]:
    """`light_resnet50` and the eight others."""
    return tuple(sorted(path.stem for path in FOLDER.glob("light_*.onnx")))


def searched_light_model_names() -> tuple[str, ...]:
    """Four that differ most in their layers, for what takes minutes with all nine: TEST_ALL_NETWORKS=1 is for those."""
    if os.environ.get("TEST_ALL_NETWORKS"):
        return light_model_names()
    return "light_bvlc_alexnet", "light_inception_v2", "light_resnet50", "light_shufflenet"


def light_model_path(name: str) -> Path:
    """The network as the onnx package brings it: IR version 3, weights listed as inputs, one row."""
    return FOLDER / f"{name}.onnx"


def golden(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The input that the expected output belongs to, and that output: FP32, one row each, by tensor name."""
    model = onnx.load(light_model_path(name))
    image = _image_input(model)
    shape = tuple(dimension.dim_value for dimension in image.type.tensor_type.shape.dim)
    count = int(np.prod(shape))
    expected = onnx.TensorProto.FromString((FOLDER / f"{name}_output_0.pb").read_bytes())
    inputs = {image.name: (np.arange(count).reshape(shape) / count).astype(np.float32)}
    return inputs, {model.graph.output[0].name: numpy_helper.to_array(expected)}


def distinct_rows(name: str, rows: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of `rows` rows, each of another brightness and contrast, so that no two rows get the same answer."""
    image = _image_input(onnx.load(light_model_path(name)))
    shape = tuple(dimension.dim_value for dimension in image.type.tensor_type.shape.dim)[1:]
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((rows, *shape), dtype=np.float32)
    ramp = np.arange(1, rows + 1, dtype=np.float32).reshape(-1, *[1] * len(shape))
    channels = rng.standard_normal((rows, shape[0], 1, 1), dtype=np.float32)
    return {image.name: noise * ramp / rows + channels}


def with_random_weights(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write the network with a random weight in place of each constant one.

    Weights of Conv and Gemm are He-scaled, so that the signal neither dies nor explodes on its way; the variances of
    BatchNormalization are positive. Everything else about the file is left as it is.

    Args:
        name: one of `light_model_names()`.
        folder: where to write; the file is up to 574 MB large.
        seed: makes the weights repeatable.
    """
    model = onnx.load(light_model_path(name))
    rng = np.random.default_rng(seed)
    roles = _roles(model.graph)
    gain = LOGIT_GAINS.get(name, 1.0)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    shape_of_constant = {
        node.output[0]: tuple(int(size) for size in numpy_helper.to_array(initializers[node.input[0]]))
        for node in model.graph.node
        if node.op_type == "ConstantOfShape" and node.input[0] in initializers
    }
    replaced = {}
    for weight, role in roles:
        shape = shape_of_constant.get(weight)
        if shape is None and weight in initializers:
            tensor = initializers[weight]
            shape = tuple(tensor.dims) if tensor.data_type == onnx.TensorProto.FLOAT else None
        if shape is not None:
            replaced[weight] = numpy_helper.from_array(_random(role, shape, gain, rng), weight)

    kept_nodes = [node for node in model.graph.node if node.output[0] not in replaced]
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in replaced]
    shapes_only = {name for node in model.graph.node for name in node.input} - {
        name for node in kept_nodes for name in node.input
    }
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(kept_nodes)
    model.graph.initializer.extend(tensor for tensor in kept if tensor.name not in shapes_only)
    model.graph.initializer.extend(replaced.values())
    inputs = [value for value in model.graph.input if value.name not in shapes_only]
    listed = {value.name for value in inputs}
    inputs += [
        onnx.helper.make_tensor_value_info(weight, onnx.TensorProto.FLOAT, tensor.dims)
        for weight, tensor in replaced.items()
        if weight not in listed  # IR version 3 wants every initializer listed
    ]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    return path


def _image_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    weights = {tensor.name for tensor in model.graph.initializer}
    (image,) = (value for value in model.graph.input if value.name not in weights)
    return image


def _roles(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """Each tensor that some node reads as a weight, and what for."""
    made_from = {node.output[0]: node for node in graph.node}
    positions = {
        "Conv": {1: "filter", 2: "offset"},
        "Gemm": {1: "matrix", 2: "offset"},
        "BatchNormalization": {1: "scale", 2: "offset", 3: "offset", 4: "variance"},
        "Mul": {1: "scale"},
        "Add": {1: "offset"},
    }
    seen = set()
    for node in graph.node:
        for position, role in positions.get(node.op_type, {}).items():
            if position >= len(node.input):
                continue
            name = node.input[position]
            # A vector that is given further dimensions before it is used is still that vector.
            while name in made_from and made_from[name].op_type in {"Unsqueeze", "Reshape"}:
                name = made_from[name].input[0]
            if name not in seen:
                seen.add(name)
                yield name, role


def _random(role: str, shape: tuple[int, ...], gain: float, rng: np.random.Generator) -> np.ndarray:
    # Drawing a hundred million numbers takes seconds; a prime number of them, repeated, has no two rows alike.
    values = np.resize(rng.standard_normal(min(int(np.prod(shape)), LARGEST_DRAW), dtype=np.float32), shape)
    match role:
        case "filter":
            values *= np.sqrt(2 / np.prod(shape[1:]))
        case "matrix":
            values *= gain * np.sqrt(2 / shape[-1])
        case "scale":
            values = 1 + values / 10
        case "variance":
            values = 1 + 0.5 * np.tanh(values)
        case _:
            values /= 10
    return values.astype(np.float32, copy=False)
