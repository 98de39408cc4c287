"""An ONNX graph with torch's operators: what a program that was written in PyTorch computes.

Only the operators of plain convolutional and fully connected networks are known. Any other is refused by name, and so
is an attribute that has no counterpart here: a wrong answer would be shown as PyTorch's.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import numpy_helper

from plansmith_perf.peers.peer import PeerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from plansmith_perf.peers.engines import Compute

__all__ = ["load_torch_graph"]

Attributes = dict[str, Any]

_TAKEN = {
    "AveragePool": {"auto_pad", "count_include_pad", "kernel_shape", "pads", "strides"},
    "BatchNormalization": {"epsilon"},
    "Constant": {"value"},
    "Conv": {"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"},
    "Flatten": {"axis"},
    "Gemm": {"alpha", "beta", "transA", "transB"},
    "MaxPool": {"auto_pad", "kernel_shape", "pads", "strides"},
    "Softmax": {"axis"},
}
_WITHOUT_EFFECT: Mapping[str, tuple[Any, ...]] = {
    "allowzero": (0,),
    "ceil_mode": (0,),
    "dilations": ([1, 1],),
    "spatial": (1,),
    "storage_order": (0,),
    "training_mode": (0,),
}
_STANDARD = ("", "ai.onnx")
# Of training alone.
_MEANINGLESS = {"momentum"}
_SOFTMAX_OF_ONE_AXIS = 13
_TWO_DIMENSIONS = 2


def load_torch_graph(file: Path, outputs: Sequence[str]) -> Compute:
    """Load a model; it runs in inference mode.

    Args:
        file: an ONNX file.
        outputs: names of those that are wanted.

    Raises:
        PeerUnavailable: torch is not installed, or the graph has an operator or attribute that is not known here.
    """
    try:
        import torch  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 - optional
    except ImportError as error:
        raise PeerUnavailable("torch is not installed: pip install torch") from error
    model = onnx.load(str(file))
    graph = model.graph
    opset = next((entry.version for entry in model.opset_import if entry.domain in _STANDARD), 1)
    operators = _operators(torch, opset)
    unknown = sorted({_full_name(node) for node in graph.node} - operators.keys())
    if unknown:
        raise PeerUnavailable(f"the operator {unknown[0]} has no counterpart here")
    for node in graph.node:
        _check(node)
    constants = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    steps = [
        (
            operators[node.op_type],
            list(node.input),
            list(node.output),
            {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute},
        )
        for node in graph.node
    ]

    def compute(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        values = dict(constants)
        values |= {name: torch.from_numpy(np.require(array, requirements="W")) for name, array in inputs.items()}
        with torch.inference_mode():
            for operator, names, results, attributes in steps:
                # An optional input that is left out has an empty name.
                values[results[0]] = operator([values[name] if name else None for name in names], attributes)
        return [values[name].numpy() for name in outputs]

    return compute


def _operators(torch: Any, opset: int) -> Mapping[str, Callable[[list[Any], Attributes], Any]]:
    functional = torch.nn.functional
    return {
        "Add": lambda x, _: x[0] + x[1],
        "BatchNormalization": lambda x, a: functional.batch_norm(
            x[0], x[3], x[4], x[1], x[2], eps=a.get("epsilon", 1e-5)
        ),
        "Constant": lambda _, a: torch.from_numpy(numpy_helper.to_array(a["value"]).copy()),
        "Conv": lambda x, a: _convolve(functional, x, a),
        "Div": lambda x, _: _divide(torch, x),
        "Flatten": lambda x, a: x[0].reshape(math.prod(x[0].shape[: a.get("axis", 1)]), -1),
        "Gemm": _gemm,
        "GlobalAveragePool": lambda x, _: x[0].mean(dim=tuple(range(2, x[0].ndim)), keepdim=True),
        "AveragePool": lambda x, a: functional.avg_pool2d(
            x[0],
            a["kernel_shape"],
            a.get("strides", 1),
            _symmetric(a),
            count_include_pad=bool(a.get("count_include_pad", 0)),
        ),
        "Identity": lambda x, _: x[0],
        "MatMul": lambda x, _: x[0] @ x[1],
        "MaxPool": lambda x, a: functional.max_pool2d(x[0], a["kernel_shape"], a.get("strides", 1), _symmetric(a)),
        "Mul": lambda x, _: x[0] * x[1],
        "Relu": lambda x, _: functional.relu(x[0]),
        "Reshape": lambda x, _: x[0].reshape(
            [x[0].shape[axis] if size == 0 else size for axis, size in enumerate(x[1].tolist())]
        ),
        "Sigmoid": lambda x, _: x[0].sigmoid(),
        "Softmax": _softmax if opset >= _SOFTMAX_OF_ONE_AXIS else _softmax_of_several_axes,
        "Sub": lambda x, _: x[0] - x[1],
        "Sum": lambda x, _: sum(x[1:], x[0]),
        "Tanh": lambda x, _: x[0].tanh(),
    }


def _full_name(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in _STANDARD else f"{node.domain}.{node.op_type}"


def _check(node: onnx.NodeProto) -> None:
    """Refuse what the operators here would pass over."""
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    for name, value in attributes.items():
        taken = name in _TAKEN.get(node.op_type, ()) or name in _MEANINGLESS
        if not taken and value not in _WITHOUT_EFFECT.get(name, ()):
            raise PeerUnavailable(f"the operator {node.op_type} with {name}={value} has no counterpart here")
    if sum(map(bool, node.output)) != 1:
        raise PeerUnavailable(f"the operator {node.op_type} with more than one output has no counterpart here")
    if len(attributes.get("kernel_shape", (0, 0))) != _TWO_DIMENSIONS:
        raise PeerUnavailable(f"the operator {node.op_type} in other than two dimensions has no counterpart here")
    if node.op_type in ("AveragePool", "Conv", "MaxPool"):
        _symmetric(attributes)


def _softmax(x: list[Any], attributes: Attributes) -> Any:
    return x[0].softmax(attributes.get("axis", -1))


def _softmax_of_several_axes(x: list[Any], attributes: Attributes) -> Any:
    """Before opset 13: over all axes from this one on, as if they were one."""
    return x[0].flatten(attributes.get("axis", 1)).softmax(-1).reshape(x[0].shape)


def _divide(torch: Any, x: list[Any]) -> Any:
    # ONNX truncates towards zero where torch would give a fraction.
    return x[0] / x[1] if x[0].is_floating_point() else torch.div(x[0], x[1], rounding_mode="trunc")


def _convolve(functional: Any, x: list[Any], attributes: Attributes) -> Any:
    return functional.conv2d(
        x[0],
        x[1],
        x[2] if len(x) > 2 else None,  # noqa: PLR2004 - the bias is the third
        stride=attributes.get("strides", 1),
        padding=_symmetric(attributes),
        dilation=attributes.get("dilations", 1),
        groups=attributes.get("group", 1),
    )


def _gemm(x: list[Any], attributes: Attributes) -> Any:
    left = x[0].T if attributes.get("transA") else x[0]
    right = x[1].T if attributes.get("transB") else x[1]
    product = attributes.get("alpha", 1.0) * (left @ right)
    return product + attributes.get("beta", 1.0) * x[2] if len(x) > 2 else product  # noqa: PLR2004


def _symmetric(attributes: Attributes) -> list[int]:
    """The padding of the beginning, which must be that of the end."""
    pads = list(attributes.get("pads", [0, 0, 0, 0]))
    half = len(pads) // 2
    if pads[:half] != pads[half:] or attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise PeerUnavailable("padding that differs between the sides has no counterpart here")
    return pads[:half]
