"""From a PyTorch module, or a program of torch.export, to ONNX."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import onnx

from plansmith_build.errors import InvalidOption
from plansmith_build.exporting.errors import ExportFailed, UnsuitableModel
from plansmith_build.exporting.frameworks import quiet, require
from plansmith_build.exporting.torch_tensors import array_from_tensor, named_outputs, tensors_like, with_rows
from plansmith_build.exporting.writing import check_path, export_file, staged

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from plansmith_build.exporting.result import ExportResult
    from plansmith_build.exporting.writing import Sample

__all__ = ["EXTERNAL_BYTES", "export_pytorch"]

EXTERNAL_BYTES = 3 * 2**29
"""Weights of more bytes than this (1.5 GiB) are written to a file beside the model: ONNX files end at 2 GiB."""

_ROWS = 3
_PACKAGES = ("torch", "onnxscript")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def export_pytorch(
    module: Any,
    example_inputs: Any,
    path: Path | str,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_batch: bool = True,
    dynamic_axes: Mapping[str | int, Sequence[int]] | None = None,
    opset: int | None = None,
    external_data: bool | None = None,
    seed: int = 0,
) -> ExportResult:
    """Write a PyTorch module as ONNX and check that it computes the same.

    The module is exported by torch.onnx's dynamo exporter in evaluation mode, and left in the mode that it was in. The
    file is compared with the module on the examples and on random inputs; where the batch is dynamic, also with other
    numbers of rows. It appears whole or not at all; what was at `path` is replaced.

    Args:
        module: a `torch.nn.Module`, or a `torch.export.ExportedProgram`, whose dynamic dimensions are its own.
        example_inputs: a tensor, a tuple of tensors in the order of `forward`'s parameters, or a mapping of tensors by
            the names of its parameters; None for a program that has its own.
        path: the .onnx file to write.
        input_names: in the order of the inputs; by default the names of `forward`'s parameters.
        output_names: in the order of the outputs; by default the keys of a dictionary, `output` of one tensor,
            `output_0`, `output_1`, ... of several.
        dynamic_batch: whether the first dimension of every input may have any size.
        dynamic_axes: further dimensions that may have any size, by the name or number of the input.
        opset: operator set of the standard domain; by default the exporter's own choice.
        external_data: whether the weights go to a file of their own; None: where they are larger than
            `EXTERNAL_BYTES`.
        seed: for the random inputs.

    Raises:
        MissingPackage: torch or onnxscript is not installed.
        UnsuitableModel: it is no module, or the examples do not fit it.
        InvalidOption: the path or an axis cannot be used.
        ExportFailed: torch cannot turn the module into ONNX.
        VerificationFailed: the file does not compute what the module computes.

    Example:
        ```python
        export_pytorch(module, torch.zeros(1, 3, 224, 224), "model.onnx")
        ```
    """
    torch = require("torch")
    require("onnxscript")
    target = check_path(path)
    program = isinstance(module, torch.export.ExportedProgram)
    if not program and not isinstance(module, torch.nn.Module):
        raise UnsuitableModel(
            f"a {type(module).__name__} is no PyTorch model: give a torch.nn.Module, or a torch.export.ExportedProgram"
        )
    tensors, keywords = _examples(module if program else None, example_inputs)
    runner = module.module() if program else module
    training = False if program else module.training
    if not program:
        module.eval()
    try:
        with staged(target) as made, quiet(), torch.no_grad():
            answers = _run(runner, tensors, keywords)
            outputs = named_outputs(answers, output_names)
            shapes = None
            if not program and (dynamic_batch or dynamic_axes):
                axes = dynamic_axes or {}
                flat = _dynamic_shapes(tensors, keywords, batch=dynamic_batch, further=axes)
                shapes = dict(zip(keywords, flat, strict=True)) if keywords else _as_passed(module, flat)
                if dynamic_batch:
                    # torch.export takes a dimension of one row for one that is always one.
                    tensors = with_rows(tensors, max(2, _rows_of(tensors)))
            _write(
                module,
                tensors,
                keywords,
                made,
                shapes=shapes,
                opset=opset,
                input_names=input_names,
                output_names=list(outputs),
                external=_bytes_of(module) > EXTERNAL_BYTES if external_data is None else external_data,
            )
            names = _finish(made, batch=dynamic_batch and not program, opset=opset)
            if len(names) != len(tensors):
                raise ExportFailed(
                    f"the module has {len(tensors)} inputs and the exported graph {len(names)} ({', '.join(names)}): "
                    "an input that the module does not use has no effect, so take it out of forward"
                )
            rows = (1, _ROWS) if shapes is not None and dynamic_batch else (None,)
            candidates = [tensors, *(tensors_like(tensors, count, seed + number) for number, count in enumerate(rows))]
            samples = [_sample(runner, values, keywords, names, list(outputs)) for values in candidates]
            return export_file(made, target, samples, packages=_PACKAGES, names="the module")
    finally:
        if training:
            module.train()


def _examples(program: Any, given: Any) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """The example tensors, and the names of those that are passed by name: all of them or none."""
    torch = require("torch")
    if given is None:
        if program is None or program.example_inputs is None:
            raise UnsuitableModel("exporting a PyTorch module needs example inputs: give a tensor for each input")
        positional, named = program.example_inputs
        given = dict(named) if named and not positional else tuple(positional)
    if isinstance(given, torch.Tensor):
        given = (given,)
    keywords = tuple(given) if isinstance(given, Mapping) else ()
    tensors = tuple(given.values()) if isinstance(given, Mapping) else tuple(given)
    for position, tensor in enumerate(tensors):
        if not isinstance(tensor, torch.Tensor):
            name = repr(keywords[position]) if keywords else str(position)
            raise UnsuitableModel(f"example input {name} is a {type(tensor).__name__}: give a tensor for each input")
    if not tensors:
        raise UnsuitableModel("exporting a PyTorch module needs example inputs: give a tensor for each input")
    return tensors, keywords


def _run(module: Any, tensors: Sequence[Any], keywords: Sequence[str]) -> Any:
    try:
        if keywords:
            return module(**dict(zip(keywords, tensors, strict=True)))
        return module(*tensors)
    except Exception as error:
        raise UnsuitableModel(
            f"the module does not run on the example inputs: {type(error).__name__}: {_sentence(str(error))}"
        ) from error


def _rows_of(tensors: Sequence[Any]) -> int:
    rows = {int(tensor.shape[0]) for tensor in tensors if tensor.ndim}
    if len(rows) != 1 or 0 in rows:
        sizes = ", ".join(str(list(tensor.shape)) for tensor in tensors)
        raise InvalidOption(
            f"the example inputs are {sizes}, which is no batch of as many rows each: "
            "give as many of each, or export without a dynamic batch"
        )
    return rows.pop()


def _dynamic_shapes(
    tensors: Sequence[Any],
    keywords: Sequence[str],
    *,
    batch: bool,
    further: Mapping[str | int, Sequence[int]],
) -> list[dict[int, Any]]:
    torch = require("torch")
    names = list(keywords)
    for key in further:
        if key not in (names if isinstance(key, str) else range(len(tensors))):
            known = ", ".join(names) if names else f"numbers from 0 to {len(tensors) - 1}"
            raise InvalidOption(f"there is no input {key!r} to give dynamic axes: the inputs are {known}")
    shapes: list[dict[int, Any]] = []
    for number, tensor in enumerate(tensors):
        asked = further.get(number, further.get(names[number], ()) if names else ())
        axes = {*asked, *([0] if batch and tensor.ndim else [])}
        if any(not 0 <= axis < tensor.ndim for axis in axes):
            raise InvalidOption(f"input {number} has {tensor.ndim} dimensions, so its axes {sorted(axes)} cannot be")
        shapes.append(dict.fromkeys(sorted(axes), torch.export.Dim.DYNAMIC))
    return shapes


def _as_passed(module: Any, shapes: list[dict[int, Any]]) -> tuple[Any, ...]:
    """Shapes in the structure of forward's parameters: those that `*tensors` takes are one of them."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    kinds = [parameter.kind for parameter in parameters]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(shapes)
    own = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:own], tuple(shapes[own:]))


def _write(
    module: Any,
    tensors: Sequence[Any],
    keywords: Sequence[str],
    made: Path,
    *,
    shapes: Any,
    opset: int | None,
    input_names: Sequence[str] | None,
    output_names: Sequence[str],
    external: bool,
) -> None:
    torch = require("torch")
    positional = () if keywords else tuple(tensors)
    named = dict(zip(keywords, tensors, strict=True)) if keywords else None
    try:
        written = torch.onnx.export(
            module,
            positional,
            kwargs=named,
            dynamo=True,
            dynamic_shapes=shapes,
            opset_version=opset,
            input_names=list(input_names) if input_names is not None else None,
            output_names=list(output_names),
            verbose=False,
        )
        written.save(made, external_data=external)
    except Exception as error:
        raise ExportFailed(
            f"torch.onnx cannot export the module: {_reason(error, dynamic=shapes is not None)}"
        ) from error


def _finish(made: Path, *, batch: bool, opset: int | None) -> list[str]:
    """Give the batch dimension its name, and the names of the inputs."""
    model = onnx.load(made, load_external_data=False)
    for imported in model.opset_import:
        if opset is not None and imported.domain == "" and imported.version != opset:
            raise ExportFailed(
                f"torch.onnx wrote operator set {imported.version}, which it cannot convert to {opset}: "
                f"ask for {imported.version}, or for none"
            )
    if batch:
        symbols = {
            value.type.tensor_type.shape.dim[0].dim_param
            for value in model.graph.input
            if value.type.tensor_type.shape.dim
        } - {""}
        if len(symbols) == 1:
            _rename_symbol(model, symbols.pop(), "batch")
            onnx.save(model, made)
    return [value.name for value in model.graph.input]


def _rename_symbol(model: onnx.ModelProto, old: str, new: str) -> None:
    word = re.compile(rf"\b{re.escape(old)}\b")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = word.sub(new, dimension.dim_param)


def _sample(
    runner: Any, tensors: Sequence[Any], keywords: Sequence[str], inputs: Sequence[str], outputs: Sequence[str]
) -> Sample:
    answers = named_outputs(_run(runner, tensors, keywords), outputs)
    again = named_outputs(_run(runner, tensors, keywords), outputs)
    torch = require("torch")
    for name, tensor in answers.items():
        if not torch.equal(torch.nan_to_num(tensor), torch.nan_to_num(again[name])):
            raise UnsuitableModel(
                f"output {name!r} of the module has other values each time, so nothing can be compared with it: "
                "take the random layers out for inference"
            )
    return (
        dict(zip(inputs, map(array_from_tensor, tensors), strict=True)),
        {name: array_from_tensor(tensor) for name, tensor in answers.items()},
    )


def _bytes_of(module: Any) -> int:
    values = module.state_dict.values() if hasattr(module, "graph_module") else module.state_dict().values()
    return sum(tensor.nbytes for tensor in values if hasattr(tensor, "nbytes"))


def _reason(error: BaseException, *, dynamic: bool) -> str:
    """The innermost cause in one sentence: torch wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = _sentence(str(error))
    fixed = any(words in str(error) for words in ("Constraints violated", "specialized", "static shape"))
    advice = " The module fixes a size that was to be dynamic: export it without a dynamic batch"
    return f"{type(error).__name__}: {said}{advice if dynamic and fixed else ''}"


def _sentence(text: str) -> str:
    lines = [line.strip() for line in _ANSI.sub("", text).splitlines() if line.strip()]
    return " ".join(lines[:3])[:300]
