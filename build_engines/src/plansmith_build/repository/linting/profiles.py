"""Optimization profiles of the TensorRT accelerator against the configuration's own shapes and batch size."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from plansmith_build.repository.linting.findings import error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plansmith_build.repository.linting.context import ConfigContext
    from plansmith_build.repository.linting.findings import Finding

__all__ = ["check_profiles"]

_KEYS = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")
_INPUT = re.compile(r"([^:,]+):([0-9]+(?:x[0-9]+)*)")


def check_profiles(context: ConfigContext) -> Iterator[Finding]:
    """All three of them or none, growing, for known inputs, wide enough for every batch."""
    for accelerator in context.config.optimization.execution_accelerators.gpu_execution_accelerator:
        given = {key: accelerator.parameters[key] for key in _KEYS if key in accelerator.parameters}
        if accelerator.name != "tensorrt" or not given:
            continue
        missing = [key for key in _KEYS if key not in given]
        if missing:
            yield error(context.path, f"the profile has no {', '.join(missing)}", "give min, opt and max, or none")
            continue
        yield from _check(
            context, *({name: _sizes(text) for name, text in _INPUT.findall(given[key])} for key in _KEYS)
        )


def _check(
    context: ConfigContext,
    minimum: dict[str, tuple[int, ...]],
    optimum: dict[str, tuple[int, ...]],
    maximum: dict[str, tuple[int, ...]],
) -> Iterator[Finding]:
    config = context.config
    dims = {
        tensor.name: tuple(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
        for tensor in config.input
    }
    for name in sorted({*minimum, *optimum, *maximum}):
        three = [shapes.get(name, ()) for shapes in (minimum, optimum, maximum)]
        if dims and name not in dims:
            yield error(
                context.path,
                f"the profile names an input {name!r}, which the model does not have",
                f"the inputs are {', '.join(dims)}",
            )
            continue
        grows = len({len(shape) for shape in three}) == 1 and all(
            low <= middle <= high for low, middle, high in zip(*three, strict=False)
        )
        if not grows:
            yield error(
                context.path, f"the profile's shapes of {name!r} do not grow from min over opt to max", "order them"
            )
            continue
        low, high = three[0], three[2]
        if config.max_batch_size > 0 and low and not low[0] <= 1 <= config.max_batch_size <= high[0]:
            yield error(
                context.path,
                f"the profile takes {low[0]} to {high[0]} rows of {name!r}, and batches up to {config.max_batch_size}",
                "widen the profile, or lower max_batch_size",
            )
        wanted = dims.get(name)
        own = low[1:] if config.max_batch_size > 0 else low
        if wanted is not None and (
            len(own) != len(wanted) or any(size not in (-1, have) for size, have in zip(wanted, own, strict=False))
        ):
            yield error(
                context.path, f"the profile's shapes of {name!r} do not fit dims {list(wanted)}", "make them agree"
            )


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x")))
