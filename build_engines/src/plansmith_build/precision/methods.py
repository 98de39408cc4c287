"""The ways to INT8 that suit an engine, tried in turn, the most promising first, until one is inside the budget."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.precision.variants import is_accepted, used_budget

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from plansmith_build.precision.variants import Judges, Variant

__all__ = ["Method", "first_inside_budget"]


class Method(Protocol):
    """A way to quantize a graph, such as `int8_variant` with a scheme."""

    def __call__(self, prepared: onnx.ModelProto, *, judges: Judges) -> Variant:
        """The graph in INT8, with as much left in FP32 as the budget wants.

        Raises:
            ConversionFailed: it does not suit this graph, or failed.
        """


def first_inside_budget(methods: Sequence[Method], prepared: onnx.ModelProto, judges: Judges) -> Variant:
    """The variant of the first method that is inside the budget, else that of the method that comes closest.

    Raises:
        ConversionFailed: none of them suits this graph; the reason is that of the most promising one.
    """
    closest: Variant | None = None
    failure: ConversionFailed | None = None
    for method in methods:
        try:
            variant = method(prepared, judges=judges)
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
