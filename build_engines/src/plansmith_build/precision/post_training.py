"""INT8 by NNCF, Intel's quantizer, for transformers on OpenVINO.

Pairs of Q/DQ as `quantization` writes them, but only where attention bears them, with what is large in the activations
moved into the weights (SmoothQuant) and biases corrected. docs/how-a-build-decides.md has the figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.precision.variants import Conversion
from plansmith_build.reading.graphs import standard_domain

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from plansmith_build.precision.variants import Judges

__all__ = ["has_attention", "is_installed", "transformer_conversion"]

# Each request passes through the graph about three times, with all its intermediate tensors.
MOST_REQUESTS = 16
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


@contextmanager
def transformer_conversion(prepared: onnx.ModelProto, judges: Judges) -> Iterator[Conversion[onnx.ModelProto]]:
    """Matrices and tables in INT8, made by a process that runs as long as the context lasts.

    Which ones stay in FP32 is not left to NNCF's accuracy-aware mode: it puts weights back as they were before
    SmoothQuant, and leaves what SmoothQuant multiplies their inputs with (3.4.0, in graphs of ONNX and of OpenVINO).

    Args:
        prepared: from `preparation.prepare`.
        judges: a part of their calibration rows is what NNCF sees.

    Raises:
        ConversionFailed: NNCF is not installed; or, when it is asked for a graph, failed.
    """
    if not is_installed():
        raise ConversionFailed("NNCF is not installed: plansmith brings it, or pip install nncf")
    weights = {tensor.name for tensor in prepared.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    nodes = (node for node in prepared.graph.node if node.op_type in _WEIGHTS)
    layers = tuple(node.name for node in nodes if node.input[_WEIGHTS[node.op_type]] in weights)
    with _nncf(prepared, judges) as make:
        yield Conversion(make, layers, f"U8 activations, S8 weights, NNCF {version('nncf')} for transformers")


@contextmanager
def _nncf(prepared: onnx.ModelProto, judges: Judges) -> Iterator[Callable[[Collection[str]], onnx.ModelProto]]:
    """Makes the graph, from the names of the nodes that stay as they are, in one process for all graphs of a search."""
    model = deepcopy(prepared)
    # What is declared of inner tensors is stale once pairs stand between them.
    del model.graph.value_info[:]
    with tempfile.TemporaryDirectory(prefix="plansmith-nncf-", dir=judges.folder) as name:
        folder = Path(name)
        onnx.save(model, folder / "model.onnx")
        for number, request in enumerate(judges.search.requests[:MOST_REQUESTS]):
            np.savez(folder / f"{number}.npz", np.array(list(request)), *request.values())
        # Its imports take seconds and hundreds of megabytes.
        with (
            (folder / "log.txt").open("wb") as log,
            subprocess.Popen(
                [sys.executable, "-P", "-m", "plansmith_build.precision.nncf_process", str(folder)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # Otherwise it reports each use to a server of its maker.
                env={**os.environ, "NNCF_CI": "1"},
            ) as process,
        ):
            try:
                yield partial(_quantized, process, folder)
            finally:
                process.kill()


def _quantized(process: subprocess.Popen[bytes], folder: Path, keep: Collection[str]) -> onnx.ModelProto:
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - see above
    with suppress(BrokenPipeError):
        process.stdin.write(json.dumps(sorted(keep)).encode() + b"\n")
    reply = process.stdout.readline()
    if reply:
        said = json.loads(reply)
    else:
        lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
        said = (lines or [f"its process ended with {process.wait()}"])[-1]
    if said:
        raise ConversionFailed(f"NNCF failed: {' '.join(said.split())[:200]}")
    return onnx.load(folder / "quantized.onnx")
