"""Random inputs that are valid for any model: to try a model out, to warm it up, to load-test it.

The values are plain, not realistic: a standard normal distribution for floating types; 0 to 9 for integers, which are
valid token ids of nearly every vocabulary; true and false; short words for strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_client.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable

    from plansmith_client.tensors import TensorSpec

__all__ = ["DYNAMIC_SIZE", "random_array", "random_inputs"]

DYNAMIC_SIZE = 16
"""The default size of a dynamic dimension; the same for all inputs, since their sizes often must agree."""

_WORDS = np.array([b"alpha", b"bravo", b"charlie", b"delta", b"echo", b"foxtrot", b"golf", b"hotel"], dtype=object)
_INTEGERS_BELOW = 10


def random_array(
    spec: TensorSpec,
    *,
    batch: int | None = None,
    dynamic: Mapping[int, int] | int = DYNAMIC_SIZE,
    rng: np.random.Generator,
) -> np.ndarray[Any, Any]:
    """A random array that is valid for a specification.

    Args:
        spec: the tensor to make an array for.
        batch: the size of the first dimension, at least 1; None gives a dynamic first dimension the size 1.
        dynamic: the size of the other dynamic dimensions: one for all, or by axis (axes that are not named get
            `DYNAMIC_SIZE`). An axis 0 named here overrides `batch`.
        rng: the source of the values.

    Returns:
        An array of the spec's numpy dtype: BYTES as an array of `bytes` objects.

    Raises:
        InvalidInput: a size is below 1 (or 0 for `dynamic`), or differs from a dimension that the spec fixes.

    Example:
        ```python
        random_array(TensorSpec("images", "FP32", (-1, 64)), batch=8, rng=np.random.default_rng(0))
        ```
    """
    try:
        return _values(spec, _shape(spec, batch, dynamic), rng)
    except (MemoryError, OverflowError, TypeError, ValueError) as error:
        raise InvalidInput(f"Input {spec.name!r} {spec}: no array of {batch=} and {dynamic=} can be made") from error


def _values(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    dtype = spec.numpy_dtype
    if spec.datatype == "BYTES":
        words: np.ndarray[Any, Any] = rng.choice(_WORDS, size=shape)
        return np.asarray(words, dtype=object)
    if spec.datatype == "BOOL":
        return rng.integers(0, 2, size=shape).astype(dtype)
    if dtype.kind in "iu":
        return rng.integers(0, _INTEGERS_BELOW, size=shape).astype(dtype)
    return rng.standard_normal(size=shape, dtype=np.float32).astype(dtype)


def random_inputs(
    specs: Iterable[TensorSpec],
    *,
    batch: int | None = None,
    dynamic: Mapping[str, Mapping[int, int] | int] | int = DYNAMIC_SIZE,
    seed: int | np.random.Generator = 0,
) -> dict[str, np.ndarray[Any, Any]]:
    """Random arrays for all inputs of a model, the optional ones included.

    Args:
        specs: the model's inputs: `model.metadata.inputs`.
        batch: the size of the first dimension of each input; None gives a dynamic first dimension the size 1.
        dynamic: the size of the other dynamic dimensions: one for all, or by input name what `random_array` takes.
        seed: the same seed gives the same arrays.

    Raises:
        InvalidInput: a size does not fit a specification, or the memory, or the seed is not one.

    Example:
        ```python
        model.infer(random_inputs(model.metadata.inputs, batch=4, seed=7))
        ```
    """
    try:
        rng = np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"seed must be a whole number from 0, or a generator, got {seed!r}") from error
    sizes = dynamic if isinstance(dynamic, Mapping) else {}
    default = DYNAMIC_SIZE if isinstance(dynamic, Mapping) else dynamic
    return {
        spec.name: random_array(spec, batch=batch, dynamic=sizes.get(spec.name, default), rng=rng) for spec in specs
    }


def _shape(spec: TensorSpec, batch: int | None, dynamic: Mapping[int, int] | int) -> tuple[int, ...]:
    sizes = dict(dynamic) if isinstance(dynamic, Mapping) else {}
    default = DYNAMIC_SIZE if isinstance(dynamic, Mapping) else dynamic
    if batch is not None and batch < 1:
        raise InvalidInput(f"Input {spec.name!r}: given a batch of {batch}, expected at least 1")
    if batch is not None and not spec.shape:
        raise InvalidInput(f"Input {spec.name!r} has no dimensions, so it takes no batch of {batch}")
    if spec.shape and (batch is not None or spec.shape[0] == -1):
        sizes.setdefault(0, 1 if batch is None else batch)
    for axis, size in sizes.items():
        if not 0 <= axis < len(spec.shape) or spec.shape[axis] not in (-1, size) or size < 0:
            raise InvalidInput(f"Input {spec.name!r}: given the size {size} for axis {axis}, expected {spec}")
    if default < 0:
        raise InvalidInput(f"Input {spec.name!r}: given the size {default} for dynamic dimensions, expected 0 or more")
    return tuple(sizes.get(axis, default) if size == -1 else size for axis, size in enumerate(spec.shape))
