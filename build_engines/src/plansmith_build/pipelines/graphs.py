"""Steps that are ONNX graphs of standard operators, so that a container without plansmith serves them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx

__all__ = ["GRAPHS"]

# Those of ONNX Runtime 1.12, and of everything since.
_OPSET, _IR_VERSION = 17, 8
_SMALLEST = 1e-12
_MASKS = {"INT64": TensorProto.INT64, "INT32": TensorProto.INT32}
_ACTIVATIONS = {"softmax": "Softmax", "sigmoid": "Sigmoid", "none": "Identity"}

_Tensor = tuple[str, int, "list[str | int]"]


def _classes(*, labels: Sequence[str], top: int, activation: str) -> onnx.ModelProto:
    """The most probable classes of each row, the most probable first, and of equal ones that of the smaller number.

    Takes `scores` (FP32, [rows, classes]). Gives `label` (BYTES) and `probability` (FP32), both [rows, top].

    Args:
        labels: the classes by name.
        top: how many are given.
        activation: what makes probabilities of the scores: `softmax`, `sigmoid`, or `none` where they are some.
    """
    top = min(top, len(labels))
    return _model(
        [
            helper.make_node(_ACTIVATIONS[activation], ["scores"], ["probabilities"]),
            helper.make_node("TopK", ["probabilities", "top"], ["probability", "places"]),
            helper.make_node("Gather", ["labels", "places"], ["label"]),
        ],
        [("scores", TensorProto.FLOAT, ["rows", len(labels)])],
        [("label", TensorProto.STRING, ["rows", top]), ("probability", TensorProto.FLOAT, ["rows", top])],
        {"labels": np.array(labels, np.object_), "top": np.array([top])},
    )


def _embedding(*, size: int, pooling: str, normalize: bool, datatype: str) -> onnx.ModelProto:
    """Pools the vectors of a text's tokens, and scales the result to the length 1; without a token it is zeros.

    Takes `tokens` (FP32, [rows, tokens, size]) and `attention_mask` ([rows, tokens]), or `vector` (FP32, [rows, size])
    for the pooling `none`. Gives `embedding` (FP32, [rows, size]).

    Args:
        size: of the vectors.
        pooling: `mean` or `max` of the tokens that the mask keeps, `first` for the first token's vector, or `none`
            where the model has pooled them.
        normalize: whether the result is scaled.
        datatype: of the mask.
    """
    pooled = [
        helper.make_node("Cast", ["attention_mask"], ["kept"], to=TensorProto.BOOL),
        helper.make_node("Cast", ["kept"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["ones", "second"], ["count"]),
        helper.make_node("Min", ["count", "one"], ["any"]),
        helper.make_node("Unsqueeze", ["kept", "last"], ["column"]),
    ]
    match pooling:
        case "mean":
            pooled += [
                helper.make_node("Where", ["column", "tokens", "zero"], ["given"]),
                helper.make_node("ReduceSum", ["given", "second"], ["sum"], keepdims=0),
                helper.make_node("Max", ["count", "one"], ["divisor"]),
                helper.make_node("Div", ["sum", "divisor"], ["pooled"]),
            ]
        case "max":
            pooled += [
                helper.make_node("Where", ["column", "tokens", "lowest"], ["given"]),
                helper.make_node("ReduceMax", ["given"], ["greatest"], axes=[1], keepdims=0),
                helper.make_node("Mul", ["greatest", "any"], ["pooled"]),
            ]
        case "first":
            pooled += [
                helper.make_node("Gather", ["tokens", "zeroth"], ["first"], axis=1),
                helper.make_node("Mul", ["first", "any"], ["pooled"]),
            ]
        case _:
            pooled = [helper.make_node("Identity", ["vector"], ["pooled"])]
    scaled = [
        helper.make_node("ReduceL2", ["pooled"], ["length"], axes=[1]),
        helper.make_node("Max", ["length", "smallest"], ["scale"]),
        helper.make_node("Div", ["pooled", "scale"], ["embedding"]),
    ]
    width = size if size > 0 else "size"
    inputs: list[_Tensor] = [
        ("tokens", TensorProto.FLOAT, ["rows", "tokens", width]),
        ("attention_mask", _MASKS[datatype], ["rows", "tokens"]),
    ]
    return _model(
        [*pooled, *(scaled if normalize else [helper.make_node("Identity", ["pooled"], ["embedding"])])],
        [("vector", TensorProto.FLOAT, ["rows", width])] if pooling == "none" else inputs,
        [("embedding", TensorProto.FLOAT, ["rows", width])],
        {
            **{"zeroth": np.array(0), "second": np.array([1]), "last": np.array([2])},
            **{"zero": np.float32(0), "one": np.float32(1), "smallest": np.float32(_SMALLEST)},
            "lowest": np.finfo(np.float32).min,
        },
    )


GRAPHS: Mapping[str, Callable[..., onnx.ModelProto]] = {"classes": _classes, "embedding": _embedding}
"""By the kind of a step, from its options to its graph."""


def _model(
    nodes: Sequence[onnx.NodeProto], inputs: Sequence[_Tensor], outputs: Sequence[_Tensor], constants: Mapping[str, object]
) -> onnx.ModelProto:
    read = {name for node in nodes for name in node.input}
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "step",
            [helper.make_tensor_value_info(*tensor) for tensor in inputs],
            [helper.make_tensor_value_info(*tensor) for tensor in outputs],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items() if name in read],
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="plansmith",
    )
    checker.check_model(model, full_check=True)
    return model
