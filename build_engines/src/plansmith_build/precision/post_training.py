"""INT8 by NNCF, Intel's quantizer, for transformers on OpenVINO.

Pairs of Q/DQ as `quantization` writes them, but only where attention bears them, with what is large in the activations
moved into the weights (SmoothQuant) and biases corrected. docs/how-a-build-decides.md has the figures.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import time
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import onnx

from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.precision.variants import Variant, is_accepted, judged, used_budget
from plansmith_build.reading.graphs import standard_domain

if TYPE_CHECKING:
    from collections.abc import Callable

    from plansmith_build.precision.variants import Judges

__all__ = ["has_attention", "is_installed", "transformer_variant"]

# Each request passes through the graph about three times, with all its intermediate tensors.
MOST_REQUESTS = 16
# For finding layers to put back, after the graph was quantized.
SECONDS_TO_SEARCH = 60.0
# The input of an operator that holds its weights.
_WEIGHTS = {"Gather": 0, "Gemm": 1, "MatMul": 1}
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
    """The graph in INT8, matrices that lose too much left in FP32 by NNCF's own search for them.

    It knows the weights as they were before SmoothQuant and rounding, which the search of `variants` does not.

    Args:
        prepared: from `preparation.prepare`.
        judges: judge the graph; a part of the calibration rows is what NNCF sees, all are what it keeps to.

    Raises:
        ConversionFailed: NNCF is not installed, failed, or found nothing to quantize.
    """
    nncf, options = _imported(), _options(judges)
    quantized = _called(prepared, partial(nncf.quantize, **options))
    if not _is_quantized(quantized):
        raise ConversionFailed("NNCF found nothing to quantize")
    layout = f"U8 activations, S8 weights, NNCF {version('nncf')} for transformers"
    whole = replace(judged(quantized, _in_floating_point(quantized), judges), layout=layout)
    if is_accepted(whole, judges):
        return whole
    search = partial(
        nncf.quantize_with_accuracy_control,
        **options,
        validation_dataset=nncf.Dataset([None]),
        validation_fn=_Search(judges).unused_budget,
        max_drop=1.0,
    )
    try:
        quantized = _called(prepared, search)
    except _TimeIsUpError:
        return whole
    partly = replace(judged(quantized, _in_floating_point(quantized), judges, look=2), layout=layout)
    return min(whole, partly, key=lambda variant: used_budget(variant, judges))


def _options(judges: Judges) -> dict[str, Any]:
    nncf = _imported()
    requests = list(judges.search.requests[:MOST_REQUESTS])
    return {
        "calibration_dataset": nncf.Dataset(requests),
        "model_type": nncf.ModelType.TRANSFORMER,
        "subset_size": len(requests),
    }


def _called(prepared: onnx.ModelProto, quantize: Callable[[onnx.ModelProto], onnx.ModelProto]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(prepared)
    # What is declared of inner tensors is stale once pairs stand between them.
    del copy.graph.value_info[:]
    logger = logging.getLogger("nncf")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        # It draws bars of its own.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return quantize(copy)
    except _TimeIsUpError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise ConversionFailed(f"NNCF failed: {type(error).__name__}: {said}") from error
    finally:
        logger.setLevel(before)


class _TimeIsUpError(Exception):
    """NNCF has looked for long enough at which layers to put back."""


class _Search:
    """Judges what NNCF makes on its way: the graph as it was, the quantized one, and such with some layers put back."""

    def __init__(self, judges: Judges) -> None:
        self._judges, self._until = judges, math.inf

    def unused_budget(self, model: onnx.ModelProto, _: object) -> tuple[float, None]:
        """The share of the budget that is left on the calibration rows, negative outside of it.

        Raises:
            _TimeIsUpError: the search has taken too long.
        """
        unused = 1 - self._judges.estimate(model)[0]
        if _is_quantized(model):
            self._until = min(self._until, time.monotonic() + SECONDS_TO_SEARCH)
        if unused < 0 and time.monotonic() > self._until:
            raise _TimeIsUpError
        return unused, None


def _is_quantized(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def _in_floating_point(quantized: onnx.ModelProto) -> tuple[str, ...]:
    """The names of the matrices and tables whose weights are not in INT8."""
    weights = {tensor.name for tensor in quantized.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    nodes = (node for node in quantized.graph.node if node.op_type in _WEIGHTS)
    return tuple(node.name for node in nodes if node.input[_WEIGHTS[node.op_type]] in weights)


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
