"""A missing or partial configuration, completed from the model's signature.

The rules are those of Triton's native ONNX Runtime backend (its `ModelState::AutoCompleteConfig`), with two
differences: a model batches only if `Signature.is_batched`, and tensors with only a name are completed.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from plansmith_server.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from plansmith_server.backends.signature import Signature, TensorInfo

__all__ = ["DEFAULT_MAX_BATCH_SIZE", "complete", "is_complete"]

logger = logging.getLogger(__name__)

# The native backend's `default-max-batch-size`.
DEFAULT_MAX_BATCH_SIZE = 4
SCHEDULERS = ("dynamic_batching", "sequence_batching", "ensemble_scheduling")


def is_complete(config: Mapping[str, Any]) -> bool:
    """Whether the configuration gives the type and dims of all its inputs and outputs."""
    return all(
        config.get(key) and all(_has_type(tensor) and tensor.get("dims") for tensor in config[key])
        for key in ("input", "output")
    )


def complete(config: Mapping[str, Any], signature: Signature, *, fixed_batch_allowed: bool = False) -> dict[str, Any]:
    """The fields to add to `config`, or to replace in it.

    Args:
        config: the JSON object of ModelConfig, with at least `name`; nothing in it is changed.
        signature: of the model.
        fixed_batch_allowed: whether the runtime can give a fixed first dimension any size.

    Returns:
        `max_batch_size`, `input`, `output`, and `dynamic_batching` where it is turned on.

    Raises:
        ModelError: the configuration names a tensor that the model does not have, asks for batching where the model
            cannot batch, or omits a shape that the model does not declare.
    """
    max_batch_size = int(config.get("max_batch_size", 0))
    if max_batch_size > 0 and not (signature.first_dimensions_are_dynamic or fixed_batch_allowed):
        raise ModelError(
            f"max_batch_size is {max_batch_size}, but the first dimension of the model's inputs and outputs is fixed:"
            " set it to 0, or export the model with a dynamic batch dimension"
        )
    if max_batch_size == 0 and signature.is_batched and not _count_the_batch(config, signature):
        max_batch_size = DEFAULT_MAX_BATCH_SIZE
        logger.info(
            "model %r: batching is turned on with max_batch_size %d, because its outputs have one row for each row of"
            " the inputs; write max_batch_size in config.pbtxt for another size",
            config.get("name"),
            max_batch_size,
        )
    changes: dict[str, Any] = {
        "max_batch_size": max_batch_size,
        "input": _tensors("input", config, signature.inputs, signature.optional_inputs, max_batch_size),
        "output": _tensors("output", config, signature.outputs, (), max_batch_size),
    }
    if max_batch_size > 1 and not any(scheduler in config for scheduler in SCHEDULERS):
        changes["dynamic_batching"] = {}
    return changes


def _count_the_batch(config: Mapping[str, Any], signature: Signature) -> bool:
    """Whether any dims in the configuration have as many dimensions as the model's: these include the batch."""
    ranks = {
        tensor.name: len(tensor.shape or ())
        for tensor in (*signature.inputs, *signature.optional_inputs, *signature.outputs)
    }
    return any(
        len(tensor.get("reshape", {}).get("shape", tensor["dims"])) == ranks.get(tensor["name"])
        for key in ("input", "output")
        for tensor in config.get(key, ())
        if tensor.get("dims")
    )


def _tensors(
    key: str,
    config: Mapping[str, Any],
    tensors: Iterable[TensorInfo],
    optional: Iterable[TensorInfo],
    max_batch_size: int,
) -> list[dict[str, Any]]:
    if not config.get(key):
        sequence = config.get("sequence_batching", {})
        filled = {control["name"] for control in sequence.get("control_input", ())}
        filled |= {state[f"{key}_name"] for state in sequence.get("state", ())}
        return [_describe(tensor, max_batch_size) for tensor in tensors if tensor.name not in filled]
    known = {tensor.name: tensor for tensor in (*tensors, *optional)}
    completed = []
    for given in config[key]:
        if _has_type(given) and given.get("dims"):
            completed.append(dict(given))
        elif given["name"] not in known:
            raise ModelError(f"the model has no {key} {given['name']!r}; it has {', '.join(known)}")
        else:
            described = _describe(known[given["name"]], max_batch_size)
            stated = {name: value for name, value in given.items() if value not in ("TYPE_INVALID", [])}
            completed.append({**described, **stated})
    return completed


def _describe(tensor: TensorInfo, max_batch_size: int) -> dict[str, Any]:
    if tensor.shape is None:
        raise ModelError(
            f"the model does not declare the number of dimensions of {tensor.name!r}: write its dims in config.pbtxt"
        )
    dims = [dim if isinstance(dim, int) and dim > 0 else -1 for dim in tensor.shape[1 if max_batch_size > 0 else 0 :]]
    described: dict[str, Any] = {"name": tensor.name, "data_type": tensor.data_type, "dims": dims or [1]}
    if not dims and max_batch_size > 0:
        # Triton has no empty dims: one value for each row is written as dims [1] that the model gets as [].
        described["reshape"] = {"shape": []}
    return described


def _has_type(tensor: Mapping[str, Any]) -> bool:
    return bool(tensor.get("data_type", "TYPE_INVALID") != "TYPE_INVALID")
