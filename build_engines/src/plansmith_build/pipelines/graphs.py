"""Steps that are ONNX graphs of standard operators, so that a container without plansmith serves them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from onnx import checker, numpy_helper, parser

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import onnx

__all__ = ["GRAPHS"]

# Every ONNX Runtime since 1.12 takes these.
_VERSIONS = '<ir_version: 8, opset_import: ["" : 17], producer_name: "plansmith">'
_ACTIVATIONS = {"softmax": "Softmax", "sigmoid": "Sigmoid", "none": "Identity"}
# Where ONNX's name is not the protocol's in lower case.
_TYPES = {"FP16": "float16", "BF16": "bfloat16", "FP32": "float", "FP64": "double"}
_TOKENS = """
    one = Constant <value_float = 1.0> ()
    second = Constant <value_ints = [1]> ()
    kept = Cast <to = 9> (attention_mask)
    ones = Cast <to = 1> (kept)
    count = ReduceSum (ones, second)
    any = Min (count, one)
    last = Constant <value_ints = [2]> ()
    column = Unsqueeze (kept, last)
"""
_POOLINGS = {
    "mean": """
    zero = Constant <value_float = 0.0> ()
    given = Where (column, tokens, zero)
    sum = ReduceSum <keepdims = 0> (given, second)
    divisor = Max (count, one)
    pooled = Div (sum, divisor)
""",
    "max": """
    lowest = Constant <value_float = -3e38> ()
    given = Where (column, tokens, lowest)
    greatest = ReduceMax <axes = [1], keepdims = 0> (given)
    pooled = Mul (greatest, any)
""",
    "first": """
    place = Constant <value_int = 0> ()
    first = Gather <axis = 1> (tokens, place)
    pooled = Mul (first, any)
""",
}
_SCALED = """
    length = ReduceL2 <axes = [1]> (pooled)
    smallest = Constant <value_float = 1e-12> ()
    scale = Max (length, smallest)
    embedding = Div (pooled, scale)
"""


def _classes(*, labels: Sequence[str], top: int, activation: str) -> onnx.ModelProto:
    """The most probable classes of each row, the most probable first, and of equal ones that of the smaller number.

    Takes `scores` (FP32, [rows, classes]). Gives `label` (BYTES) and `probability` (FP32), both [rows, top].
    """
    top = min(top, len(labels))
    model = parser.parse_model(f"""{_VERSIONS}
step (float[rows, {len(labels)}] scores) => (string[rows, {top}] label, float[rows, {top}] probability) {{
    probabilities = {_ACTIVATIONS[activation]} (scores)
    top = Constant <value_ints = [{top}]> ()
    probability, places = TopK (probabilities, top)
    label = Gather (labels, places)
}}""")
    model.graph.initializer.append(numpy_helper.from_array(np.array(labels, np.object_), "labels"))
    checker.check_model(model, full_check=True)
    return model


def _embedding(*, size: int, pooling: str, normalize: bool, datatype: str) -> onnx.ModelProto:
    """Pools the vectors of a text's tokens, and scales the result to the length 1.

    Takes `tokens` (FP32, [rows, tokens, size]) and `attention_mask` ([rows, tokens]), or `vector` (FP32, [rows, size])
    for the pooling `none`. Gives `embedding` (FP32, [rows, size]); zeros where the mask keeps no token.
    """
    width = size if size > 0 else "size"
    mask = _TYPES.get(datatype, datatype.lower())
    inputs = f"float[rows, tokens, {width}] tokens, {mask}[rows, tokens] attention_mask"
    pooled = "pooled = Identity (vector)" if pooling == "none" else _TOKENS + _POOLINGS[pooling]
    model = parser.parse_model(f"""{_VERSIONS}
step ({f"float[rows, {width}] vector" if pooling == "none" else inputs}) => (float[rows, {width}] embedding) {{
    {pooled}{_SCALED if normalize else "    embedding = Identity (pooled)"}
}}""")
    checker.check_model(model, full_check=True)
    return model


GRAPHS: Mapping[str, Callable[..., onnx.ModelProto]] = {"classes": _classes, "embedding": _embedding}
"""By the kind of a step, from its options to its graph."""
