"""INT8 by NNCF, Intel's quantizer, for transformers on OpenVINO.

Pairs of Q/DQ as `quantization` writes them, but only where attention bears them, with what is large in the activations
moved into the weights (SmoothQuant) and biases corrected. docs/how-a-build-decides.md has the figures.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.precision.variants import Variant, is_accepted, judged, used_budget
from plansmith_build.reading.graphs import standard_domain

if TYPE_CHECKING:
    from plansmith_build.precision.variants import Judges

__all__ = ["has_attention", "is_installed", "transformer_variant"]

# Each request passes through the graph about three times, with all its intermediate tensors.
MOST_REQUESTS = 16
# For finding layers to put back, after the graph was quantized.
SECONDS_TO_SEARCH = 60.0
# The input of an operator that holds its weights.
_WEIGHTS = {"Gather": 0, "Gemm": 1, "MatMul": 1}
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
    if not is_installed():
        raise ConversionFailed("NNCF is not installed: plansmith brings it, or pip install nncf")
    quantized = _quantized(prepared, judges)
    if quantized is None or not _is_quantized(quantized):
        raise ConversionFailed("NNCF found nothing to quantize")
    layout = f"U8 activations, S8 weights, NNCF {version('nncf')} for transformers"
    whole = replace(judged(quantized, _in_floating_point(quantized), judges), layout=layout)
    if is_accepted(whole, judges) or (quantized := _quantized(prepared, judges, search=True)) is None:
        return whole
    partly = replace(judged(quantized, _in_floating_point(quantized), judges, look=2), layout=layout)
    return min(whole, partly, key=lambda variant: used_budget(variant, judges))


def _quantized(prepared: onnx.ModelProto, judges: Judges, *, search: bool = False) -> onnx.ModelProto | None:
    """The graph from NNCF's process; None where the search for layers to put back takes too long."""
    model = onnx.ModelProto()
    model.CopyFrom(prepared)
    # What is declared of inner tensors is stale once pairs stand between them.
    del model.graph.value_info[:]
    with tempfile.TemporaryDirectory(prefix="plansmith-nncf-", dir=judges.folder) as name:
        folder = Path(name)
        onnx.save(model, folder / "model.onnx")
        for number, request in enumerate(judges.search.requests[:MOST_REQUESTS]):
            np.savez(folder / f"{number}.npz", np.array(list(request)), *request.values())
        with (
            (folder / "log").open("w") as log,
            # Its imports take seconds and hundreds of megabytes.
            subprocess.Popen(
                [sys.executable, "-P", "-m", "plansmith_build.precision.nncf_process", folder, *["search"] * search],
                # Otherwise it reports each use to a server of its maker.
                env={**os.environ, "NNCF_CI": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            ) as process,
        ):
            is_finished = _answer(process, folder / "candidate.onnx", judges)
        if not is_finished:
            return None
        if process.returncode:
            said = (folder / "log").read_text().strip().splitlines() or [f"its process ended with {process.returncode}"]
            raise ConversionFailed(f"NNCF failed: {said[-1][:200]}")
        return onnx.load(folder / "quantized.onnx")


def _answer(process: subprocess.Popen[str], candidate: Path, judges: Judges) -> bool:
    """Say of each graph that NNCF's process asks about how much of the budget it leaves; whether time was enough."""
    until = math.inf
    try:
        for _ in process.stdout or ():
            model = onnx.load(candidate)
            unused = 1 - judges.estimate(model)[0]
            if _is_quantized(model):
                until = min(until, time.monotonic() + SECONDS_TO_SEARCH)
            if unused < 0 and time.monotonic() > until:
                process.kill()
                return False
            print(unused, file=process.stdin, flush=True)
    except BrokenPipeError:
        # It has died; its status is looked at next.
        return True
    except BaseException:
        process.kill()
        raise
    return True


def _is_quantized(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in model.graph.node)


def _in_floating_point(quantized: onnx.ModelProto) -> tuple[str, ...]:
    """The names of the matrices and tables whose weights are not in INT8."""
    weights = {tensor.name for tensor in quantized.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    nodes = (node for node in quantized.graph.node if node.op_type in _WEIGHTS)
    return tuple(node.name for node in nodes if node.input[_WEIGHTS[node.op_type]] in weights)
