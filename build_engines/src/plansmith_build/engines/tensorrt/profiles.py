"""Optimization profiles: the shapes that a plan takes, those that it is fastest for, and how configurations say it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plansmith_build.engines.tensorrt.token_axes import token_axes
from plansmith_build.errors import InvalidOption
from plansmith_build.reading.shapes import fits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from plansmith_build.engines.tensorrt.token_axes import TokenRange
    from plansmith_build.reading.signatures import Signature

__all__ = ["OptimizationProfile", "Shape", "fix_dims", "parse_profile", "profile_for", "provider_profile", "rows_taken"]

Shape = tuple[int, ...]

_INPUT = re.compile(r"(?P<name>.+?):(?P<minimum>[0-9x]+),(?P<optimum>[0-9x]+),(?P<maximum>[0-9x]+)")


@dataclass(frozen=True)
class OptimizationProfile:
    """Three shapes for each input, the batch dimension included.

    Attributes:
        minimum: the smallest.
        optimum: what kernels are chosen for.
        maximum: the largest.
        parts: where an engine has several profiles, each of them, the preferred one first; these shapes are then the
            smallest and largest of all of them, and the first one's best. Empty for one.
    """

    minimum: Mapping[str, Shape]
    optimum: Mapping[str, Shape]
    maximum: Mapping[str, Shape]
    parts: tuple[OptimizationProfile, ...] = ()

    @property
    def each(self) -> tuple[OptimizationProfile, ...]:
        """The profiles that an engine is built with."""
        return self.parts or (self,)


def parse_profile(text: str) -> OptimizationProfile:
    """Read `name:1x3x224x224,8x3x224x224,32x3x224x224`, several inputs separated with `;`, profiles with `|`.

    Raises:
        InvalidOption: it is not written so, the shapes do not grow, or the profiles are not of the same inputs.
    """
    parts = tuple(_parse_one(part) for part in text.split("|"))
    first = parts[0]
    if len(parts) == 1:
        return first
    ranks = [{name: len(shape) for name, shape in part.minimum.items()} for part in parts]
    if any(rank != ranks[0] for rank in ranks):
        raise InvalidOption(
            f"the optimization profiles {text!r} are not all for the same inputs of the same dimensions"
        )
    return OptimizationProfile(
        minimum={name: tuple(map(min, *(part.minimum[name] for part in parts))) for name in first.minimum},
        optimum=first.optimum,
        maximum={name: tuple(map(max, *(part.maximum[name] for part in parts))) for name in first.minimum},
        parts=parts,
    )


def _parse_one(text: str) -> OptimizationProfile:
    shapes: tuple[dict[str, Shape], ...] = ({}, {}, {})
    for part in filter(None, (part.strip() for part in text.split(";"))):
        match = _INPUT.fullmatch(part)
        if match is None:
            raise InvalidOption(
                f"{part!r} is not an optimization profile: write name:min,opt,max, such as "
                "images:1x3x224x224,8x3x224x224,32x3x224x224"
            )
        three = [_shape(match[group], part) for group in ("minimum", "optimum", "maximum")]
        if len({len(shape) for shape in three}) != 1:
            raise InvalidOption(f"the shapes of {part!r} have different numbers of dimensions")
        if any(not low <= middle <= high for low, middle, high in zip(*three, strict=True)):
            raise InvalidOption(f"the shapes of {part!r} do not grow from min over opt to max")
        for target, shape in zip(shapes, three, strict=True):
            target[match["name"]] = shape
    if not shapes[0]:
        raise InvalidOption("the optimization profile is empty: write name:min,opt,max")
    minimum, optimum, maximum = shapes
    return OptimizationProfile(minimum, optimum, maximum)


def profile_for(
    signature: Signature,
    *,
    max_batch_size: int,
    observed: Mapping[str, Shape],
    extremes: Mapping[str, tuple[Shape, Shape]] | None = None,
    tokens: TokenRange | None = None,
    given: OptimizationProfile | None = None,
) -> OptimizationProfile:
    """The profile for a model: the user's where there is one, else made from the data's shapes.

    The first dimension of a model that batches goes from 1 to `max_batch_size`; kernels are chosen for the largest
    batch, which is what a busy server makes. Dimensions that count tokens have a range of their own. Every other
    dimension that varies is as the data has it.

    Args:
        signature: the model's.
        max_batch_size: 0 for a model that does not batch.
        observed: a shape of each input in the data, with its first dimension.
        extremes: the least and the greatest size of each dimension in the data, where rows differ in shape, likewise.
        tokens: the fewest and most tokens, from `find_token_range`; None to take the data's number.
        given: the user's own.

    Raises:
        InvalidOption: the user's profile names other inputs, does not fit their shapes or the batch size.
    """
    required = {spec.name: spec.shape for spec in signature.inputs if spec.name in observed or not spec.optional}
    if given is not None:
        for part in given.each:
            _check(part, required)
        _check_rows(given, required, max_batch_size)
        return given
    counts = token_axes(signature) if tokens is not None else frozenset()
    few, many = tokens or (0, 0)
    minimum, optimum, maximum = {}, {}, {}
    for name, shape in required.items():
        seen = observed[name]
        least, greatest = (extremes or {}).get(name, (seen, seen))
        batched = bool(max_batch_size) and shape[:1] == (-1,)
        minimum[name], optimum[name], maximum[name] = (
            (rows, *sizes[1:]) if batched else sizes
            for rows, sizes in (
                (1, _of_tokens(name, _filled(shape, least), counts, lambda size: min(size, few))),
                (max_batch_size, _filled(shape, seen)),
                (max_batch_size, _of_tokens(name, _filled(shape, greatest), counts, lambda size: max(size, many))),
            )
        )
    return OptimizationProfile(minimum, optimum, maximum)


def rows_taken(ranges: Iterable[tuple[int, int]]) -> int:
    """The largest batch up to which, from one row on, some profile takes every size.

    Args:
        ranges: the fewest and most rows of each profile.
    """
    taken = 0
    for low, high in sorted(ranges):
        if low <= taken + 1:
            taken = max(taken, high)
    return taken


def _filled(shape: Shape, seen: Shape) -> Shape:
    return tuple(size if size >= 0 else seen[axis] for axis, size in enumerate(shape))


def _of_tokens(name: str, shape: Shape, counts: frozenset[tuple[str, int]], limit: Callable[[int], int]) -> Shape:
    """The shape with another number of tokens, so that the data's own fits, too."""
    return tuple(limit(size) if (name, axis) in counts else size for axis, size in enumerate(shape))


def _check(profile: OptimizationProfile, required: Mapping[str, tuple[int, ...]]) -> None:
    if set(profile.minimum) != set(required):
        raise InvalidOption(
            f"the optimization profile is for {', '.join(sorted(profile.minimum))}; the model has the inputs "
            f"{', '.join(sorted(required))}"
        )
    for name, shape in required.items():
        for three in (profile.minimum[name], profile.optimum[name], profile.maximum[name]):
            if not fits(three, shape):
                raise InvalidOption(
                    f"{'x'.join(map(str, three))} does not fit input {name!r}, which has the shape {list(shape)}"
                )


def _check_rows(profile: OptimizationProfile, required: Mapping[str, tuple[int, ...]], max_batch_size: int) -> None:
    """Every batch that the server may form has a profile."""
    for name in required if max_batch_size else ():
        ranges = sorted((part.minimum[name][0], part.maximum[name][0]) for part in profile.each)
        if rows_taken(ranges) < max_batch_size:
            rows = " and ".join(f"{low} to {high}" for low, high in ranges)
            raise InvalidOption(
                f"the optimization profile takes {rows} rows of {name!r}, and the server will send 1 to "
                f"{max_batch_size}: widen it, or lower --max-batch-size"
            )


def _shape(text: str, part: str) -> Shape:
    try:
        return tuple(int(size) for size in text.split("x"))
    except ValueError:
        raise InvalidOption(f"{text!r} in {part!r} is not a shape: write 1x3x224x224") from None


def fix_dims(config: Any, profile: OptimizationProfile) -> None:
    """Write the sizes that a profile leaves no choice of into the inputs' `dims`, in place.

    A request of another size is then refused by the server, by the dimension, and not by the engine while it runs.

    Args:
        config: an `inference.ModelConfig`.
        profile: what the engine takes, the batch dimension included where the model has one.
    """
    first = 1 if config.max_batch_size > 0 else 0
    for tensor in config.input:
        if tensor.name not in profile.minimum or tensor.HasField("reshape"):
            continue
        smallest, largest = profile.minimum[tensor.name][first:], profile.maximum[tensor.name][first:]
        if len(smallest) != len(tensor.dims):
            continue
        for axis, (low, high) in enumerate(zip(smallest, largest, strict=True)):
            if tensor.dims[axis] == -1 and low == high:
                tensor.dims[axis] = low


def provider_profile(profile: OptimizationProfile) -> dict[str, str]:
    """The parameters of ONNX Runtime's TensorRT provider, which else builds an engine for each new shape as it serves.

    They are for graphs that TensorRT takes whole: where parts run elsewhere, the provider wants shapes of the tensors
    between the parts, too, and does not load.
    """
    three = {
        "min": [part.minimum for part in profile.each],
        "opt": [part.optimum for part in profile.each],
        "max": [part.maximum for part in profile.each],
    }
    # It takes the n-th shapes of every input together as its n-th profile.
    return {f"trt_profile_{name}_shapes": ",".join(map(_text, shapes)) for name, shapes in three.items()}


def _text(shapes: Mapping[str, Shape]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
