"""Checks at load time that a configuration matches its model, as strictly as the native backends do."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from plansmith_server.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from plansmith_server.backends.config import ConfigTensor, ModelConfig
    from plansmith_server.backends.signature import Signature, TensorInfo

__all__ = ["check"]


def check(config: ModelConfig, signature: Signature, *, converts: bool = False) -> None:
    """Raise unless a model with `signature` can be served as `config` says.

    Args:
        config: of the model.
        signature: of the model.
        converts: whether the runtime can change the types of tensors and a fixed first dimension.

    Raises:
        ModelError: they do not match; the message names the tensor and both sides.
    """
    if config.unsupported:
        raise ModelError(f"{config.unsupported[0]} is not supported by this server's backends: use a Triton container")
    _check_names("input", config.inputs)
    _check_names("output", config.outputs)
    inputs = {tensor.name: tensor for tensor in (*signature.inputs, *signature.optional_inputs)}
    optional = {tensor.name for tensor in signature.optional_inputs}
    outputs = {tensor.name: tensor for tensor in signature.outputs}
    for tensor in config.run_inputs:
        _check_tensor("input", tensor, inputs, config.max_batch_size, converts=converts)
        if tensor.optional and config.max_batch_size > 0:
            raise ModelError(f"input {tensor.name!r} is optional, which needs max_batch_size 0")
        if tensor.optional and tensor.name not in optional:
            raise ModelError(f"input {tensor.name!r} is optional in the configuration but required by the model")
    unknown = sorted(config.control_inputs - inputs.keys())
    if unknown:
        raise ModelError(f"the model has no input {unknown[0]!r}; it has {', '.join(inputs) or 'none'}")
    configured = {tensor.name for tensor in config.run_inputs} | config.control_inputs
    forgotten = [tensor.name for tensor in signature.inputs if tensor.name not in configured]
    if forgotten:
        raise ModelError(f"the model has an input {forgotten[0]!r}, which the configuration omits")
    for tensor in config.run_outputs:
        _check_tensor("output", tensor, outputs, config.max_batch_size, converts=converts)


def _check_names(kind: str, tensors: Iterable[ConfigTensor]) -> None:
    name, count = max(Counter(tensor.name for tensor in tensors).items(), key=lambda item: item[1], default=("", 0))
    if count > 1:
        raise ModelError(f"{kind} {name!r} is declared {count} times: keep one of them")


def _check_tensor(
    kind: str, tensor: ConfigTensor, known: Mapping[str, TensorInfo], max_batch_size: int, *, converts: bool
) -> None:
    name = tensor.name
    if name not in known:
        raise ModelError(f"the model has no {kind} {name!r}; it has {', '.join(known) or 'none'}")
    if tensor.data_type != known[name].data_type and not converts:
        raise ModelError(
            f"{kind} {name!r} is {tensor.data_type} in the configuration and {known[name].data_type} in the model"
        )
    shape = known[name].shape
    if not shape:
        # A scalar is configured as dims [1]; a tensor of unknown rank can be anything.
        if shape == () and (max_batch_size > 0 or any(dim != 1 for dim in tensor.shape)):
            raise ModelError(f"{kind} {name!r} is a scalar in the model: set its dims to [ 1 ] and max_batch_size to 0")
        return
    configured = ((-1,) if max_batch_size > 0 else ()) + tensor.shape
    model = ((-1,) if converts and max_batch_size > 0 else shape[:1]) + shape[1:]
    if len(configured) != len(model) or not all(_compatible(*pair) for pair in zip(configured, model, strict=True)):
        batch = " (the first is the batch)" if max_batch_size > 0 else ""
        raise ModelError(
            f"{kind} {name!r} has shape {_show(configured)} in the configuration{batch} and {_show(shape)} in the model"
        )


def _compatible(configured: int, dimension: int | str) -> bool:
    return isinstance(dimension, str) or dimension < 0 or configured == dimension


def _show(shape: tuple[int | str, ...]) -> str:
    return "[" + ", ".join("-1" if isinstance(dim, str) else str(dim) for dim in shape) + "]"
