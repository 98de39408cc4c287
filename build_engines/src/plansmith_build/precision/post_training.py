"""INT8 by NNCF, Intel's quantizer, for transformers on OpenVINO.

Pairs of Q/DQ as `quantization` writes them, but only where attention bears them, with what is large in the activations
moved into the weights (SmoothQuant) and biases corrected. docs/how-a-build-decides.md has the figures.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import onnx

from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.precision.variants import Variant, inside_budget
from plansmith_build.reading.graphs import standard_domain

if TYPE_CHECKING:
    from collections.abc import Collection

    from plansmith_build.precision.variants import Judges

__all__ = ["has_attention", "is_installed", "transformer_variant"]

# Each request passes through the graph about three times, with all its intermediate tensors.
MOST_REQUESTS = 16
_TELEMETRY_OFF = "NNCF_CI"
# What may stand between a softmax and the product with its result.
_PASSING = {"Cast", "Dropout", "Identity", "Mul", "Reshape", "Transpose"}


def is_installed() -> bool:
    """Whether NNCF can be imported."""
    return find_spec("nncf") is not None


def has_attention(model: onnx.ModelProto) -> bool:
    """Whether the graph multiplies what a softmax gives with what else it has computed, as transformers do."""
    nodes = [node for node in model.graph.node if not standard_domain(node.domain)]
    makers = {name: node for node in nodes for name in node.output}
    fixed = {tensor.name for tensor in model.graph.initializer}

    def computed(name: str) -> bool:
        return name not in fixed and (name not in makers or makers[name].op_type != "Constant")

    products = [node for node in nodes if node.op_type == "MatMul" and all(map(computed, node.input))]
    for name in {name for node in products for name in node.input}:
        node = makers.get(name)
        while node is not None and node.op_type in _PASSING:
            node = makers.get(node.input[0])
        if node is not None and node.op_type == "Softmax":
            return True
    return any(node.op_type == "Attention" for node in nodes)


def transformer_variant(prepared: onnx.ModelProto, judges: Judges) -> Variant:
    """The graph in INT8, layers that lose too much with their inputs left in FP32.

    Args:
        prepared: from `preparation.prepare`.
        judges: judge the graph; a part of the calibration rows is what NNCF sees.

    Raises:
        ConversionFailed: NNCF is not installed, or failed.
    """
    quantized = _quantized(prepared, judges)
    read = _pairs(quantized).keys()
    layers = tuple(node.name for node in quantized.graph.node if read & set(node.input))
    if not layers:
        raise ConversionFailed("NNCF found nothing to quantize")
    variant = inside_budget(partial(_with_exact_inputs, quantized), layers, judges)
    return replace(variant, layout=f"U8 activations, S8 weights, NNCF {version('nncf')} for transformers")


def _quantized(prepared: onnx.ModelProto, judges: Judges) -> onnx.ModelProto:
    nncf = _imported()
    copy = onnx.ModelProto()
    copy.CopyFrom(prepared)
    # What is declared of inner tensors is stale once pairs stand between them.
    del copy.graph.value_info[:]
    requests = list(judges.search.requests[:MOST_REQUESTS])
    logger = logging.getLogger("nncf")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        # It draws bars of its own.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            quantized: onnx.ModelProto = nncf.quantize(
                copy, nncf.Dataset(requests), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(requests)
            )
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise ConversionFailed(f"NNCF failed: {type(error).__name__}: {said}") from error
    finally:
        logger.setLevel(before)
    return quantized


def _imported() -> Any:
    """NNCF, which otherwise reports each use to a server of its maker.

    Raises:
        ConversionFailed: it is not installed.
    """
    if not is_installed():
        raise ConversionFailed("NNCF is not installed: plansmith brings it, or pip install nncf")
    before = os.environ.get(_TELEMETRY_OFF)
    os.environ[_TELEMETRY_OFF] = "1"
    try:
        import nncf  # noqa: PLC0415 - seconds of imports, only where there is a transformer
    finally:
        if before is None:
            del os.environ[_TELEMETRY_OFF]
    return nncf


def _pairs(model: onnx.ModelProto) -> dict[str, str]:
    """What stands before each pair of Q/DQ, by what stands behind it; weights have no pair, they are stored in INT8."""
    before = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    return {
        node.output[0]: before[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in before
    }


def _with_exact_inputs(quantized: onnx.ModelProto, keep: Collection[str]) -> onnx.ModelProto:
    """A copy in which some layers read what they read before it was quantized."""
    pairs = _pairs(quantized)
    copy = onnx.ModelProto()
    copy.CopyFrom(quantized)
    for node in copy.graph.node:
        if node.name in keep:
            for place, name in enumerate(node.input):
                node.input[place] = pairs.get(name, name)
    return copy
