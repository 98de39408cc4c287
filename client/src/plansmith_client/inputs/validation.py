"""Checks a request against the model's metadata before a byte of it is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client.errors import InvalidInput
from plansmith_client.inputs.conversion import UnfitValueError, array_from_value, host_array
from plansmith_client.inputs.device_tensors import device_array_from, placeholder
from plansmith_client.protocol.metadata import shape_fits
from plansmith_client.protocol.operations import ParameterValue, Tensor
from plansmith_client.tensors import datatype_from_numpy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from plansmith_client.protocol.metadata import ModelMetadata
    from plansmith_client.shared_memory.cuda import DeviceArray
    from plansmith_client.tensors import TensorSpec

__all__ = [
    "bind_inputs",
    "check_flag",
    "check_inputs",
    "check_outputs",
    "check_parameters",
    "check_text",
    "has_free_rows",
    "is_whole",
    "output_names",
]

_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1


def bind_inputs(
    metadata: ModelMetadata, positional: Sequence[ArrayLike], named: Mapping[str, ArrayLike]
) -> dict[str, ArrayLike]:
    """Give positional arguments the names of the model's inputs, in the model's order.

    Raises:
        InvalidInput: there are more of them than inputs, or one of them is given by name as well.
    """
    if len(positional) > len(metadata.inputs):
        if not metadata.inputs:
            raise InvalidInput(f"Model {metadata.name!r}: the server does not declare its inputs: pass them by name")
        raise InvalidInput(
            f"Model {metadata.name!r}: given {len(positional)} inputs, expected at most {len(metadata.inputs)}: "
            f"{_listed(metadata.inputs)}"
        )
    bound = dict(zip(metadata.input_names, positional, strict=False))
    if not named:
        return bound
    for name in named:
        if name in bound:
            raise InvalidInput(
                f"Model {metadata.name!r}, input {name!r}: given twice, by position and by name; expected once"
            )
    return {**bound, **named}


def has_free_rows(metadata: ModelMetadata) -> bool:
    """Whether every input takes any number of rows, though the server does not say that it batches.

    So it is with Triton's `max_batch_size: 0` and shapes such as [-1, 4], and with servers that have no such setting.
    """
    return not metadata.max_batch_size and all(spec.shape[:1] == (-1,) for spec in metadata.inputs)


def check_inputs(metadata: ModelMetadata, inputs: Mapping[str, ArrayLike], *, cast: bool = False) -> tuple[Tensor, ...]:
    """The tensors to send, in the model's order; `cast` is that of `plansmith_client.inputs.conversion`.

    A model that declares no inputs, as some servers other than Triton allow, is sent what is given as it is.

    Raises:
        InvalidInput: a name is unknown or missing, a dtype does not fit by the rule of
            `plansmith_client.inputs.conversion`, a shape does not match, or batch dimensions differ or are 0. A batch
            larger than max_batch_size is not refused: it is sent in parts.
    """
    if not metadata.inputs:
        return tuple(_undeclared(metadata, name, value) for name, value in inputs.items())
    checked = []
    for spec in metadata.inputs:
        if spec.name in inputs:
            checked.append(_checked(metadata, spec, inputs[spec.name], cast))
        elif not spec.optional:
            _refuse_unknown(metadata, inputs)
            given = ", ".join(map(repr, inputs)) or "none"
            raise InvalidInput(f"Model {metadata.name!r}, input {spec.name!r}: missing; given {given}, expected {spec}")
    tensors = tuple(checked)
    if len(tensors) != len(inputs):
        _refuse_unknown(metadata, inputs)
    if metadata.max_batch_size:
        _check_batch(metadata, tensors)
    return tensors


def _refuse_unknown(metadata: ModelMetadata, inputs: Mapping[str, ArrayLike]) -> None:
    for name in inputs:
        if name not in metadata.input_names:
            raise InvalidInput(f"Model {metadata.name!r} has no input {name!r}: expected {_listed(metadata.inputs)}")


def check_outputs(metadata: ModelMetadata, outputs: Iterable[str] | None) -> tuple[str, ...] | None:
    """The outputs to ask for; None for all of them.

    Raises:
        InvalidInput: a name is unknown or occurs twice, or there are no names.
    """
    names = output_names(outputs)
    if names is None:
        return None
    known = {spec.name for spec in metadata.outputs}
    for name in names:
        if known and name not in known:
            raise InvalidInput(f"Model {metadata.name!r} has no output {name!r}: expected {_listed(metadata.outputs)}")
    if not names or len(set(names)) != len(names):
        raise InvalidInput(
            f"Model {metadata.name!r}: given the outputs {list(names)}, expected each at most once of "
            f"{_listed(metadata.outputs)}; None asks for all"
        )
    return names


def output_names(outputs: Iterable[str] | None) -> tuple[str, ...] | None:
    """The names of outputs, one alone included; None for all outputs.

    Raises:
        InvalidInput: it is neither a string nor an iterable of strings.
    """
    if outputs is None:
        return None
    try:
        names = (outputs,) if isinstance(outputs, str) else tuple(outputs)
    except TypeError as error:
        raise InvalidInput(f"outputs must be the names of outputs, got {outputs!r}") from error
    for name in names:
        check_text("output name", name)
    return names


def check_parameters(
    metadata: ModelMetadata, parameters: Mapping[str, ParameterValue] | None
) -> dict[str, ParameterValue]:
    """The request's parameters.

    Raises:
        InvalidInput: a name is not a string, or a value is not a bool, an integer of 64 bits, a float or a string.
    """
    if parameters is None:
        return {}
    if not isinstance(parameters, Mapping):
        raise InvalidInput(f"Model {metadata.name!r}: parameters must be a mapping, got {parameters!r}")
    checked = dict(parameters)
    for name, value in checked.items():
        check_text("parameter", name)
        if isinstance(value, str):
            check_text(f"parameter {name!r}", value)
        elif not isinstance(value, (bool, int, float)) or (
            isinstance(value, int) and not _INT64_MIN <= value <= _UINT64_MAX
        ):
            raise InvalidInput(
                f"Model {metadata.name!r}, parameter {name!r}: given {value!r}, "
                "expected a bool, an integer of 64 bits, a float or a string"
            )
    return checked


def check_flag(name: str, value: object) -> None:
    """Refuse an option that is neither on nor off.

    Raises:
        InvalidInput: it is not a truth value.
    """
    if not isinstance(value, bool):
        raise InvalidInput(f"{name} must be True or False, got {value!r}")


def check_text(what: str, text: Any) -> str:
    """The same text, if it is one that can be sent.

    Raises:
        InvalidInput: it is not a string, or not valid Unicode.
    """
    if not isinstance(text, str):
        raise InvalidInput(f"The {what} {text!r} is not a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"The {what} {text!r} is not valid Unicode") from error
    return text


def is_whole(value: object) -> bool:
    """Whether a value is an integer, and not one of the two that are truth values."""
    return isinstance(value, int) and not isinstance(value, bool)


def _checked(metadata: ModelMetadata, spec: TensorSpec, value: ArrayLike, cast: bool) -> Tensor:  # noqa: FBT001
    device: DeviceArray | None = None
    if type(value) is np.ndarray and value.dtype == spec.numpy_dtype and spec.datatype != "BYTES":
        array = value
    else:
        try:
            device = device_array_from(value)
            if device is not None and device.dtype == spec.numpy_dtype:
                array = placeholder(device)
            else:
                array, device = array_from_value(value, spec.datatype, cast=cast), None
        except UnfitValueError as error:
            raise InvalidInput(f"{_given(metadata, spec, value)}: it {error}{_hint(spec, value)}") from error
    shape = array.shape
    if not shape_fits(shape, spec.shape):
        raise InvalidInput(f"{_given(metadata, spec, array)}{_shape_hint(metadata, spec, shape)}")
    return Tensor(spec.name, spec.datatype, array, None, device)


def _hint(spec: TensorSpec, value: ArrayLike) -> str:
    if isinstance(value, Mapping):
        return "; arrays by name go to infer(inputs), or are keywords: model(**inputs)"
    try:
        array_from_value(value, spec.datatype, cast=True)
    except UnfitValueError:
        return ""
    return ", or open the client with cast=True"


def _undeclared(metadata: ModelMetadata, name: str, value: ArrayLike) -> Tensor:
    try:
        datatype = datatype_from_numpy(host_array(value).dtype)
        return Tensor(check_text("input name", name), datatype, array_from_value(value, datatype))
    except (ValueError, InvalidInput) as error:
        raise InvalidInput(f"Model {metadata.name!r}, input {name!r}: {error}") from error


def _check_batch(metadata: ModelMetadata, tensors: tuple[Tensor, ...]) -> None:
    for tensor in tensors:
        batch, expected = tensor.array.shape[0], tensors[0].array.shape[0]
        if batch != expected:
            raise InvalidInput(
                f"Model {metadata.name!r}, input {tensor.name!r}: given a batch of {batch}, expected {expected} "
                f"as in input {tensors[0].name!r} (the first dimension of every input is the batch)"
            )
        if not batch:
            raise InvalidInput(
                f"Model {metadata.name!r}, input {tensor.name!r}: given a batch of 0, expected 1 or more"
            )


def _given(metadata: ModelMetadata, spec: TensorSpec, value: Any) -> str:
    return f"Model {metadata.name!r}, input {spec.name!r}: given {_described(value)}, expected {spec}"


def _described(value: Any) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    return f"a {type(value).__name__}" if dtype is None or not isinstance(shape, tuple) else f"{dtype} {list(shape)}"


def _shape_hint(metadata: ModelMetadata, spec: TensorSpec, shape: tuple[int, ...]) -> str:
    if metadata.max_batch_size and len(shape) == 1 and tuple(spec.shape[1:]) == (1,):
        return " (the first dimension is the batch: for one number an item, array[:, numpy.newaxis])"
    if metadata.max_batch_size and len(shape) == len(spec.shape) - 1:
        return " (the first dimension is the batch: for one item, array[numpy.newaxis])"
    if -1 in spec.shape:
        return " (-1 is any size)"
    return ""


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name!r} {spec}" for spec in specs)
