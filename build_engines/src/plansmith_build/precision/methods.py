"""The ways to INT8 that suit an engine, tried in turn, the most promising first, until one is inside the budget."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.precision.variants import int8_variant, is_accepted, used_budget

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from plansmith_build.precision.calibration import CalibrationMethod
    from plansmith_build.precision.schemes import QuantizationScheme
    from plansmith_build.precision.variants import Judges, Variant

__all__ = ["Blocks", "Dynamic", "Method", "Static", "Transformer", "first_inside_budget"]


class Method(Protocol):
    """A way to quantize a graph."""

    def variant(self, prepared: onnx.ModelProto, judges: Judges) -> Variant:
        """The graph in INT8, with as much left in FP32 as the budget wants.

        Raises:
            ConversionFailed: it does not suit this graph, or failed.
        """


class Static:
    """Ranges from the calibration rows for everything: convolutions.

    Args:
        scheme: how INT8 is laid out.
        calibration: how ranges are chosen, tried in turn.
    """

    def __init__(self, scheme: QuantizationScheme, calibration: Sequence[CalibrationMethod]) -> None:
        self._scheme, self._calibration = scheme, calibration

    def variant(self, prepared: onnx.ModelProto, judges: Judges) -> Variant:
        """See `int8_variant`."""
        return int8_variant(prepared, self._scheme, judges, self._calibration)


class Dynamic:
    """Ranges from what is asked, for matrices, where nothing is served in batches.

    Args:
        vnni: whether the CPU has VNNI.
    """

    def __init__(self, *, vnni: bool) -> None:
        self._vnni = vnni

    def variant(self, prepared: onnx.ModelProto, judges: Judges) -> Variant:
        """See `dynamic_variant`."""
        from plansmith_build.precision.dynamic import dynamic_variant  # noqa: PLC0415 - only where it is tried

        return dynamic_variant(prepared, judges, vnni=self._vnni)


class Blocks:
    """Weights of matrices in blocks, and what they are multiplied with rounded row by row, where it suits batches, too.

    Args:
        bits: of a weight, 8 or 4.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits

    def variant(self, prepared: onnx.ModelProto, judges: Judges) -> Variant:
        """See `block_variant`."""
        from plansmith_build.precision.weight_blocks import block_variant  # noqa: PLC0415 - as above

        return block_variant(prepared, judges, bits=self._bits)


class Transformer:
    """NNCF's, which only OpenVINO computes fast."""

    def variant(self, prepared: onnx.ModelProto, judges: Judges) -> Variant:
        """See `transformer_variant`."""
        from plansmith_build.precision.post_training import transformer_variant  # noqa: PLC0415 - as above

        return transformer_variant(prepared, judges)


def first_inside_budget(methods: Sequence[Method], prepared: onnx.ModelProto, judges: Judges) -> Variant:
    """The variant of the first method that is inside the budget, else that of the method that comes closest.

    Raises:
        ConversionFailed: none of them suits this graph; the reason is that of the most promising one.
    """
    closest: Variant | None = None
    failure: ConversionFailed | None = None
    for method in methods:
        try:
            variant = method.variant(prepared, judges)
        except ConversionFailed as error:
            failure = failure or error
            continue
        if is_accepted(variant, judges):
            return variant
        # The next one is judged by the same rows once more.
        judges = replace(judges, looks=variant.looks)
        if closest is None or used_budget(variant, judges) < used_budget(closest, judges):
            closest = variant
    if closest is None:
        raise failure or ConversionFailed("no method was given")
    return closest
