"""The tensors of an ONNX file, by name."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import onnx

    from plansmith_client.tensors import TensorSpec

__all__ = ["GraphTensors", "read_tensors"]


@dataclass(frozen=True)
class GraphTensors:
    """What a graph takes and gives, by name.

    Attributes:
        shapeless: the outputs whose number of dimensions neither the file nor shape inference tells.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    shapeless: frozenset[str]


def read_tensors(path: Path) -> GraphTensors:
    """The inputs and outputs of a model file; shapes that it does not declare are inferred, as the server does.

    Raises:
        BuildError: the file is not an ONNX model, or not one that Triton can serve.
    """
    # Reading a graph needs onnx, which a check of hashes alone should not wait for.
    import onnx.shape_inference  # noqa: PLC0415

    from plansmith_build.portable.repair import listed_weights  # noqa: PLC0415
    from plansmith_build.reading.loading import load_onnx  # noqa: PLC0415
    from plansmith_build.reading.signatures import signature_of  # noqa: PLC0415

    model = load_onnx(path).network.model
    if _shapeless(model):
        # Where inference fails the shapes stay unknown; the runtime has the last word on whether the model is right.
        with suppress(onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            model = onnx.shape_inference.infer_shapes(model)
    signature = signature_of(model, weights=listed_weights(model))
    return GraphTensors(
        {spec.name: spec for spec in signature.inputs},
        {spec.name: spec for spec in signature.outputs},
        _shapeless(model),
    )


def _shapeless(model: onnx.ModelProto) -> frozenset[str]:
    return frozenset(value.name for value in model.graph.output if not value.type.tensor_type.HasField("shape"))
