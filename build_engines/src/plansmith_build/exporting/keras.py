"""From a Keras 3 model to ONNX.

The model runs on Keras's PyTorch backend, whose tensors the dynamo exporter of torch.onnx can follow with a dynamic
batch; Keras's own exporter fixes it, or needs TensorFlow. A model that was trained on another backend is saved as
`.keras`, which belongs to none, and loaded with `KERAS_BACKEND=torch`.
"""

from __future__ import annotations

import math
import os
import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from plansmith_build.exporting.errors import UnsuitableModel
from plansmith_build.exporting.frameworks import quiet, require, versions_of
from plansmith_build.exporting.pytorch import export_pytorch

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_build.exporting.writing import ExportResult

__all__ = ["export_keras", "require_keras"]

# How Keras calls an input that has no name, in a model and in a file: the numbers count through the whole process.
_COUNTED = re.compile(r"(keras_tensor|input_layer)(_\d+)?")
# A dimension that varies, other than the batch, gets sizes that differ, so that none is taken for another.
_FIRST_DYNAMIC_SIZE = 8


def require_keras() -> Any:
    """Keras on its PyTorch backend.

    Raises:
        MissingPackage: keras or torch is not installed.
        UnsuitableModel: Keras already runs on another backend in this process.
    """
    require("torch", "Keras")
    require("onnxscript", "Keras")
    if "keras" not in sys.modules:
        # The backend is chosen once, when Keras is imported.
        os.environ["KERAS_BACKEND"] = "torch"
    keras = require("keras", "Keras")
    backend = keras.backend.backend()
    if backend != "torch":
        raise UnsuitableModel(
            f"Keras runs on {backend} here, and is exported from PyTorch: save the model as .keras, and export that "
            "with KERAS_BACKEND=torch"
        )
    return keras


def export_keras(
    model: Any,
    path: Path | str,
    *,
    example_inputs: Any = None,
    dynamic_batch: bool = True,
    opset: int | None = None,
    external_data: bool | None = None,
    seed: int = 0,
) -> ExportResult:
    """Write a Keras model as ONNX and check that it computes the same.

    Args:
        model: a `keras.Model` that is built, on Keras's PyTorch backend. Its inputs and outputs keep their names;
            inputs without one are `input`, or `input_0`, `input_1` and so on.
        path: the .onnx file to write.
        example_inputs: an array for each input, in the model's order, with two rows or more; by default zeros and
            ones, in the shapes that the model declares.
        dynamic_batch: whether the first dimension may have any size. Other dimensions are dynamic where the model
            declares them as None.
        opset: operator set of the standard domain; by default the exporter's own choice.
        external_data: whether the weights go to a file of their own; None: where they are large.
        seed: for the random inputs.

    Raises:
        MissingPackage: keras, torch or onnxscript is not installed.
        UnsuitableModel: it is not a built Keras model, or Keras runs on another backend.
        ExportFailed: torch cannot turn the model into ONNX.
        VerificationFailed: the file does not compute what the model computes.

    Example:
        ```python
        export_keras(keras.saving.load_model("model.keras"), "model.onnx")
        ```
    """
    keras = require_keras()
    torch = require("torch")
    if not isinstance(model, keras.Model):
        raise UnsuitableModel(f"a {type(model).__name__} is not a Keras model: give a keras.Model")
    specs = _inputs(keras, model)
    if example_inputs is None:
        examples = [_example(spec) for spec in specs]
    else:
        given = example_inputs if isinstance(example_inputs, (list, tuple)) else [example_inputs]
        if len(given) != len(specs):
            raise UnsuitableModel(f"the model has {len(specs)} inputs, and {len(given)} examples were given")
        examples = [torch.as_tensor(array) for array in given]
    structure = getattr(model, "_inputs_struct", None)

    class Flat(torch.nn.Module):  # type: ignore[misc, name-defined]
        """The model with a flat list of inputs, whatever structure it takes them in."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            # Without a declared structure the model takes one tensor.
            inputs = keras.tree.pack_sequence_as(structure, list(tensors)) if structure is not None else tensors[0]
            given = self.model(inputs, training=False)
            return tuple(keras.tree.flatten(given))

    flat = Flat().eval()
    names = _input_names(specs)
    with quiet():
        output_names = _output_names(keras, model)
    axes = {
        number: [axis for axis, size in enumerate(spec.shape) if size is None and axis > 0]
        for number, spec in enumerate(specs)
    }
    result = export_pytorch(
        flat,
        tuple(examples),
        path,
        input_names=names,
        output_names=output_names,
        dynamic_batch=dynamic_batch,
        dynamic_axes={number: dynamic for number, dynamic in axes.items() if dynamic},
        opset=opset,
        external_data=external_data,
        seed=seed,
    )
    return replace(result, versions={**versions_of("keras"), **result.versions})


def _inputs(keras: Any, model: Any) -> list[Any]:
    if not model.built or getattr(model, "inputs", None) is None:
        raise UnsuitableModel(
            "the Keras model does not know its inputs yet: begin it with keras.Input, or call model.build(shape)"
        )
    specs: list[Any] = keras.tree.flatten(model.inputs)
    return specs


def _input_names(specs: list[Any]) -> list[str]:
    """Their names, the same in every process."""
    plain = ["input"] if len(specs) == 1 else [f"input_{number}" for number in range(len(specs))]
    return [name if _COUNTED.fullmatch(spec.name) else spec.name for name, spec in zip(plain, specs, strict=True)]


def _output_names(keras: Any, model: Any) -> list[str] | None:
    """The keys of a dictionary of outputs, the layers' names of several, and `output` for one."""
    struct = getattr(model, "_outputs_struct", None)
    if isinstance(struct, dict):
        # Keras flattens a dictionary in the order of its sorted keys.
        return sorted(struct)
    names = list(getattr(model, "output_names", None) or [])
    outputs = keras.tree.flatten(model.outputs)
    if len(outputs) < 2 or len(set(names)) != len(outputs):  # noqa: PLR2004
        return None
    return names


def _example(spec: Any) -> Any:
    torch = require("torch")
    shape = [
        size if size is not None else 2 if axis == 0 else _FIRST_DYNAMIC_SIZE + axis
        for axis, size in enumerate(spec.shape)
    ]
    # Zeros and ones are valid of every vocabulary and every colour.
    return (torch.arange(math.prod(shape)).reshape(shape) % 2).to(getattr(torch, spec.dtype))
