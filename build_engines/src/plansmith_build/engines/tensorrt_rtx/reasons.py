"""Why NVIDIA's parser or compiler refuses a graph, in sentences: the node, the rule, and what to do about it.

The rules are those that its messages name; a message that fits none is given as it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["explain"]

_ELSEWHERE = "ONNX Runtime's CUDA provider runs it: --target onnxruntime"
_QUANTIZED_OPERATORS = re.compile(r"DynamicQuantizeLinear|MatMulInteger|ConvInteger|QLinear\w+|QGemm|QAttention")
_RULES: Mapping[str, str] = {
    r"Non-zero zero point": (
        "its zero point is not 0, and TensorRT quantizes symmetrically only: quantize with zero points of 0, as INT8 "
        "of --target tensorrt does"
    ),
    r"unsupported input type of UINT8": (
        "it takes UINT8, and TensorRT dequantizes INT8: quantize to INT8 with zero points of 0"
    ),
    r"Quantized constant \((?P<name>.*?)\) is only allowed before DQ": (
        "the INT8 weight {name!r} must go straight into a DequantizeLinear, and another node reads it: put whatever "
        "changes it behind the DequantizeLinear"
    ),
    r"[Ss]cale coefficients must all be positive": (
        "a scale is 0 or negative, and TensorRT takes positive scales only: calibrate again"
    ),
    r"HW-specific datatypes: (?P<types>\w+)": (
        "it computes in {types}, which one of the compute capabilities does not have: BF16 and INT4 need 8.0 or "
        "later, FP8 8.9: name those with --compute-capability"
    ),
    r"operation '(?P<operation>\w+)' for Turing .*?: (?P<what>.+?) is not supported": (
        "{operation} in this precision does not run on Turing (7.5), {what} is not supported there: build with "
        "--precision fp16, or without 7.5"
    ),
    r"must have same input types. `\w+` is of type (?P<one>\w+) and `\w+` is of type (?P<other>\w+)": (
        "its inputs are of the types {one} and {other}, and TensorRT converts nothing by itself: put a Cast before it"
    ),
    r"no optimization profile has been defined|no shapes for the input": (
        "an input has dimensions that vary and the optimization profile gives no sizes for them: name the input in "
        "--profile name:min,opt,max"
    ),
    r"convertDtype": (
        "a tensor has a type that TensorRT does not have: it takes FP32, FP16, BF16, INT64, INT32, INT8, UINT8 and BOOL"
    ),
    r"ScopeType::kUNDEFINED": ("it cannot place an If or Loop of the graph: export the model without control flow"),
    r"reshape changes volume to multiple of original non-zero volume": (
        "a Reshape to fixed sizes fits other sizes of the input only: fix those dimensions of the model, or name them "
        "in --profile"
    ),
    r"equal ranks when condition": (
        "the branches of an If give different numbers of dimensions, and TensorRT wants one: make the branches agree, "
        "or make the condition a constant"
    ),
    r"K exceeds the maximum value allowed \((?P<most>\d+)\)": (
        "it asks for more than the {most} greatest values that TensorRT gives: lower K"
    ),
    r"must be equal for concatenation on axis \d+\. Dimensions are (?P<one>\d+) and (?P<other>\d+)": (
        "in the sizes of the optimization profile it joins parts of {one} and {other}, which fit only in sizes that "
        "the model is made for: name those with --profile name:min,opt,max"
    ),
    r"reshaping failed for tensor: (?P<name>\S+) reshape would change volume (?P<source>\d+) to (?P<target>\d+)": (
        "it reshapes {name!r} to fixed sizes, {source} values to {target}, which fits one size of the input only: fix "
        "that dimension of the model, or name it in --profile"
    ),
}
_PLACE = re.compile(r"\s*(?:In \w+ at )?/_src/\S+:\d+\)*|\s*In \w+$")
# How the libraries begin a message, and what they say of a machine without a driver, which is no fault of the graph.
_HEAD = re.compile(
    r"^(?:\w+::\w+: |\[[^\]]*\]:? ?)?Error Code \d+: (?:API Usage Error|Internal Error|Shape Error|Myelin) ?"
)
_NO_GPU = re.compile(r"[Cc]uda ?Runtime|catchCudaError|CUDA driver|CUDA initialization")
_IN_MESSAGE = re.compile(r"(?:I\w+Layer (?P<layer>[^\s:]+):|operation '(?P<operation>[^']+)')")
LONGEST = 240


def explain(answer: Mapping[str, Any]) -> str:
    """One sentence for what the compiler's process answered where it made no engine."""
    errors = [_of_node(error["node"], error["operator"], error["said"]) for error in answer["errors"]]
    # One rule is often broken by many nodes.
    said = list(dict.fromkeys(errors)) or [_of_log(line) for line in answer["log"] if not _NO_GPU.search(line)]
    more = f" (and {len(said) - 3} more)" if len(said) > 3 else ""  # noqa: PLR2004 - enough to see the kind
    told = "; ".join(said[:3]) or "it gives no reason"
    return f"TensorRT does not take the graph: {told}{more}"


def _of_node(node: str, operator: str, said: str) -> str:
    where = f"node {node!r} ({operator}): " if node else f"a node of the type {operator}: " if operator else ""
    if ruled := _by_rule(said):
        return where + ruled
    if _QUANTIZED_OPERATORS.fullmatch(operator):
        return (
            f"{where}TensorRT has no {operator}: build from the FP32 model, INT8 for TensorRT is made of pairs of "
            "QuantizeLinear and DequantizeLinear"
        )
    if said.strip() == "false" or "plugin" in said.lower():
        return f"{where}TensorRT for RTX has no {operator}: {_ELSEWHERE}"
    return where + _plain(said)


def _of_log(line: str) -> str:
    found = _IN_MESSAGE.search(line)
    name = (found["layer"] or found["operation"]) if found else ""
    return (f"node {name!r}: " if name else "") + (_by_rule(line) or _plain(line))


def _by_rule(said: str) -> str:
    for pattern, sentence in _RULES.items():
        if found := re.search(pattern, said):
            return sentence.format_map(found.groupdict())
    return ""


def _plain(said: str) -> str:
    """The message itself, without places in NVIDIA's source."""
    lines = [line for line in said.splitlines() if line.strip() and not _NO_GPU.search(line)]
    text = " ".join(_PLACE.sub("", _HEAD.sub("", line)).strip() for line in lines)
    return text.strip("() .")[:LONGEST] or "it gives no reason"
