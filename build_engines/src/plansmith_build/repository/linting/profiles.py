"""Optimization profiles of the TensorRT accelerator against the configuration's own shapes and batch size."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from plansmith_build.engines.tensorrt import rows_taken
from plansmith_build.reading.shapes import fits

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
            yield context.error(f"the profile has no {', '.join(missing)}", "give min, opt and max, or none")
            continue
        minima, optima, maxima = (_profiles(given[key]) for key in _KEYS)
        if not len(minima) == len(optima) == len(maxima):
            yield context.error(
                f"there are {len(minima)} profiles of min, {len(optima)} of opt and {len(maxima)} of max shapes",
                "give each input as often in all three",
            )
            continue
        for three in zip(minima, optima, maxima, strict=True):
            yield from _check(context, *three)
        yield from _check_rows(context, minima, maxima)


def _profiles(text: str) -> list[dict[str, tuple[int, ...]]]:
    """The n-th shapes of every input, in a list; ONNX Runtime takes them together as its n-th profile."""
    profiles: list[dict[str, tuple[int, ...]]] = []
    for name, sizes in _INPUT.findall(text):
        place = next((profile for profile in profiles if name not in profile), None)
        if place is None:
            profiles.append(place := {})
        place[name] = tuple(map(int, sizes.split("x")))
    return profiles


def _check_rows(
    context: ConfigContext, minima: list[dict[str, tuple[int, ...]]], maxima: list[dict[str, tuple[int, ...]]]
) -> Iterator[Finding]:
    """Every batch that the server may form has a profile."""
    most = context.config.max_batch_size
    for name in sorted({name for profile in minima for name in profile}) if most > 0 else ():
        ranges = sorted(
            (low[name][0], high[name][0])
            for low, high in zip(minima, maxima, strict=True)
            if name in low and name in high
        )
        if rows_taken(ranges) < most:
            rows = " and ".join(f"{low} to {high}" for low, high in ranges)
            yield context.error(
                f"the profile takes {rows} rows of {name!r}, and batches up to {most}",
                "widen the profile, or lower max_batch_size",
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
            yield context.error(
                f"the profile names an input {name!r}, which the model does not have",
                f"the inputs are {', '.join(dims)}",
            )
            continue
        grows = len({len(shape) for shape in three}) == 1 and all(
            low <= middle <= high for low, middle, high in zip(*three, strict=False)
        )
        if not grows:
            yield context.error(f"the profile's shapes of {name!r} do not grow from min over opt to max", "order them")
            continue
        low = three[0]
        wanted = dims.get(name)
        own = low[1:] if config.max_batch_size > 0 else low
        if wanted is not None and not fits(own, wanted):
            yield context.error(f"the profile's shapes of {name!r} do not fit dims {list(wanted)}", "make them agree")
