"""An optimization profile as configurations say it: what is fixed in `dims`, and what ONNX Runtime builds for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plansmith_build.engines.tensorrt.profiles import OptimizationProfile, Shape

__all__ = ["fix_dims", "provider_profile"]


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
