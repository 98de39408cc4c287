"""From a PyTorch module, or a program of torch.export, to ONNX."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from plansmith_build.errors import InvalidOption
from plansmith_build.exporting.errors import ExportFailed, UnsuitableModel
from plansmith_build.exporting.frameworks import quiet, require
from plansmith_build.exporting.torch_exporter import finish_file, first_lines, write_file
from plansmith_build.exporting.torch_tensors import array_from_tensor, named_outputs, tensors_like, with_rows
from plansmith_build.exporting.writing import check_path, export_file, staged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from plansmith_build.exporting.writing import ExportResult, Sample

__all__ = ["EXTERNAL_BYTES", "export_pytorch"]

EXTERNAL_BYTES = 3 * 2**29
"""Weights of more bytes than this (1.5 GiB) are written to a file next to the model: ONNX files end at 2 GiB."""

_ROWS = 3
_NO_EXAMPLES = (
    "exporting a PyTorch module needs example inputs, a tensor for each input: let the function `return model, example`"
    ", or `return model, (first, second)`"
)
_PACKAGES = ("torch", "onnxscript")


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
        output_names: in the order of the outputs; by default the keys of a dictionary (`x_output` where `x` is an
            input), `output` of one tensor, `output_0`, `output_1`, ... of several.
        dynamic_batch: whether the first dimension of every input may have any size.
        dynamic_axes: further dimensions that may have any size, by the name or number of the input; of a module.
        opset: operator set of the standard domain; by default the exporter's own choice.
        external_data: whether the weights go to a file of their own; None: where they are larger than
            `EXTERNAL_BYTES`.
        seed: for the random inputs.

    Raises:
        MissingPackage: torch or onnxscript is not installed.
        UnsuitableModel: it is not a module, or the examples do not fit it.
        InvalidOption: the path, a name or an axis cannot be used.
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
            f"a {type(module).__name__} is not a PyTorch model: give torch.nn.Module or torch.export.ExportedProgram"
        )
    if program and dynamic_axes:
        raise InvalidOption(
            "a program of torch.export says itself which dimensions vary: give dynamic_shapes to torch.export.export"
        )
    tensors, keywords = _examples(module, example_inputs, program=program)
    if input_names is not None and (len(set(input_names)) != len(tensors) or "" in input_names):
        raise InvalidOption(
            f"the module has {len(tensors)} inputs, and the input names are {list(input_names)}: name each differently"
        )
    runner = module.module() if program else module
    modes = [] if program else [(part, part.training) for part in module.modules()]
    if not program:
        module.eval()
    try:
        with staged(target) as made, quiet(), torch.no_grad():
            answers = _run(runner, tensors, keywords)
            taken = set(input_names or keywords or ([] if program else inspect.signature(module.forward).parameters))
            outputs = _output_names(named_outputs(answers, output_names), taken, given=output_names is not None)
            shapes = None
            if not program and (dynamic_batch or dynamic_axes):
                parameters = keywords or _parameters_of(module, len(tensors)) or tuple(input_names or ())
                renamed: dict[str | int, str] = dict(zip(input_names or (), parameters, strict=False))
                axes = {renamed.get(key, key): dimensions for key, dimensions in (dynamic_axes or {}).items()}
                flat = _dynamic_shapes(tensors, parameters, batch=dynamic_batch, further=axes)
                shapes = dict(zip(keywords, flat, strict=True)) if keywords else _as_passed(module, flat)
                if dynamic_batch:
                    # torch.export takes a dimension of one row for one that is always one.
                    tensors = with_rows(tensors, max(2, _rows_of(tensors)))
            write_file(
                module,
                tensors,
                keywords,
                made,
                shapes=shapes,
                opset=opset,
                input_names=input_names,
                outputs=len(outputs),
                external=_bytes_of(module) > EXTERNAL_BYTES if external_data is None else external_data,
            )
            names = finish_file(made, outputs, batch=dynamic_batch and not program, opset=opset)
            if len(names) != len(tensors):
                raise ExportFailed(
                    f"the module has {len(tensors)} inputs and the exported graph {len(names)} ({', '.join(names)}): "
                    "the exported graph has no input for it: remove it from forward"
                )
            rows = (1, _ROWS) if shapes is not None and dynamic_batch else (None,)
            candidates = [tensors, *(tensors_like(tensors, count, seed + number) for number, count in enumerate(rows))]
            samples = [_sample(runner, values, keywords, names, outputs) for values in candidates]
            return export_file(made, target, samples, packages=_PACKAGES, names="the module")
    finally:
        # Each by itself: a part may have been frozen while the whole was in training.
        for part, training in modes:
            part.training = training


def _examples(module: Any, given: Any, *, program: bool) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """The example tensors, and the names of those that are passed by name: all of them or none."""
    torch = require("torch")
    if given is None:
        if not program or module.example_inputs is None:
            raise UnsuitableModel(_NO_EXAMPLES)
        positional, named = module.example_inputs
        given = dict(named) if named and not positional else tuple(positional)
    if isinstance(given, torch.Tensor):
        given = (given,)
    if isinstance(given, Mapping) and not program:
        # The graph has them in the order of forward's parameters.
        order = list(inspect.signature(module.forward).parameters)
        given = dict(sorted(given.items(), key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order)))
    keywords = tuple(given) if isinstance(given, Mapping) else ()
    tensors = tuple(given.values()) if isinstance(given, Mapping) else tuple(given)
    for position, tensor in enumerate(tensors):
        if not isinstance(tensor, torch.Tensor):
            name = repr(keywords[position]) if keywords else str(position)
            raise UnsuitableModel(f"example input {name} is a {type(tensor).__name__}: give a tensor for each input")
    if not tensors:
        raise UnsuitableModel(_NO_EXAMPLES)
    return tensors, keywords


def _run(module: Any, tensors: Sequence[Any], keywords: Sequence[str]) -> Any:
    try:
        if keywords:
            return module(**dict(zip(keywords, tensors, strict=True)))
        return module(*tensors)
    except Exception as error:
        raise UnsuitableModel(
            f"the module does not run on the example inputs: {type(error).__name__}: {first_lines(str(error))}"
        ) from error


def _output_names(names: Iterable[str], taken: set[str], *, given: bool) -> list[str]:
    """Names that no input has: in a graph every name is that of one tensor."""
    for name in names:
        if given and name in taken:
            raise InvalidOption(
                f"{name!r} is the name of an input, and cannot be that of an output too: choose another"
            )
    return [f"{name}_output" if name in taken else name for name in names]


def _rows_of(tensors: Sequence[Any]) -> int:
    rows = {int(tensor.shape[0]) for tensor in tensors if tensor.ndim}
    if len(rows) != 1 or 0 in rows:
        sizes = ", ".join(str(list(tensor.shape)) for tensor in tensors)
        raise InvalidOption(
            f"the example inputs are {sizes}, which do not all have the same number of rows: "
            "give as many of each, or export without a dynamic batch"
        )
    return rows.pop()


def _dynamic_shapes(
    tensors: Sequence[Any],
    names: Sequence[str],
    *,
    batch: bool,
    further: Mapping[str | int, Sequence[int]],
) -> list[dict[int, Any]]:
    torch = require("torch")
    for key in further:
        if key not in (names if isinstance(key, str) else range(len(tensors))):
            known = ", ".join(names) if names else f"numbers from 0 to {len(tensors) - 1}"
            raise InvalidOption(f"there is no input {key!r} to give dynamic axes: the inputs are {known}")
    shapes: list[dict[int, Any]] = []
    for number, tensor in enumerate(tensors):
        asked = further.get(number, further.get(names[number], ()) if names else ())
        axes = {*asked, *([0] if batch and tensor.ndim else [])}
        if any(not 0 <= axis < tensor.ndim for axis in axes):
            raise InvalidOption(
                f"input {number} has {tensor.ndim} dimensions: its dynamic axes must be from 0 to {tensor.ndim - 1}, "
                f"got {sorted(axes)}"
            )
        shapes.append(dict.fromkeys(sorted(axes), torch.export.Dim.DYNAMIC))
    return shapes


def _parameters_of(module: Any, count: int) -> tuple[str, ...]:
    """The names of forward's first parameters; none where one parameter takes several tensors."""
    parameters = list(inspect.signature(module.forward).parameters.values())[:count]
    several = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters)
    return () if several else tuple(parameter.name for parameter in parameters)


def _as_passed(module: Any, shapes: list[dict[int, Any]]) -> tuple[Any, ...]:
    """Shapes in the structure of forward's parameters: those that `*tensors` takes are one of them."""
    parameters = list(inspect.signature(module.forward).parameters.values())
    kinds = [parameter.kind for parameter in parameters]
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        return tuple(shapes)
    own = kinds.index(inspect.Parameter.VAR_POSITIONAL)
    return (*shapes[:own], tuple(shapes[own:]))


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
