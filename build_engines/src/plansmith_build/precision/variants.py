"""A graph in another precision that stays inside the accuracy budget, or as close to it as could be found."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic

import onnx
from onnx.shape_inference import infer_shapes

from plansmith_build.engines.onnxruntime import RunFailed, Session
from plansmith_build.errors import VerificationFailed
from plansmith_build.precision import half
from plansmith_build.precision.calibration import CalibrationMethod, calibrate
from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.precision.half import Graph, HalfType
from plansmith_build.precision.matrix_formats import narrow_weights, to_matrix_format
from plansmith_build.precision.quantization import nothing_to_quantize, quantizable_nodes, quantize
from plansmith_build.precision.sensitivity import fewest_to_keep, noisiest_first
from plansmith_build.precision.sparsity import prunable_nodes, prune
from plansmith_build.reading.networks import Network, write_network
from plansmith_build.reading.operators import runtime_sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from plansmith_build.judging.accuracy import Accuracy
    from plansmith_build.judging.budget import Budget
    from plansmith_build.judging.judge import Judge
    from plansmith_build.precision.matrix_formats import MatrixFormat
    from plansmith_build.precision.schemes import QuantizationScheme
    from plansmith_build.precision.sparsity import Sparsity
    from plansmith_build.reading.networks import Weight
    from plansmith_build.reading.signatures import Signature

__all__ = [
    "MOST_KEPT",
    "NOTHING_SAVES_IT",
    "Conversion",
    "Judges",
    "Variant",
    "bfloat16_variant",
    "float16_variant",
    "inside_budget",
    "int8_float16_variant",
    "is_accepted",
    "matrix_variant",
    "sparse_variant",
    "static_conversion",
    "used_budget",
    "with_some_kept",
]

EVALUATIONS = 24
SECONDS_TO_RANK = 20.0
# What tells noisy nodes from quiet ones; whether a budget is met takes all rows.
RANKING_REQUESTS = 3
# With more than this share of the nodes in high precision, the low one is not worth its file.
MOST_KEPT = 0.5
# How often more nodes are kept in FP32 after the validation data contradicted the calibration data; bounds pay for it.
RETRIES = 2
NOTHING_SAVES_IT = "no half of its nodes was found that saves it if left in FP32"


@dataclass(frozen=True)
class Variant:
    """A graph in some precision.

    Attributes:
        model: the graph.
        kept: the names of the nodes that were left in FP32, in the graph's order.
        layout: of its `Conversion`.
        accuracy: on the validation rows, as ONNX Runtime computes it; None where it does not run at all.
        problem: why not, or why what it loses cannot be helped; else empty.
        looks: how often it was judged by the validation rows, each time but the last one to be changed.
        weights: those that are not in the graph; see `Network`.
    """

    model: onnx.ModelProto
    kept: tuple[str, ...] = ()
    layout: str = ""
    accuracy: Accuracy | None = None
    problem: str = ""
    looks: int = 0
    weights: Mapping[str, Weight] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversion(Generic[Graph]):
    """A way to lower the precision of a graph.

    Attributes:
        make: makes it, from the names of nodes that are left in FP32.
        nodes: those that may be, in the graph's order.
        layout: how INT8 is laid out, and how its ranges were chosen; empty for other precisions.
    """

    make: Callable[[frozenset[str]], Graph]
    nodes: Sequence[str]
    layout: str = ""

    def judged(self, judges: Judges, keep: frozenset[str] = frozenset()) -> Variant:
        """The graph with its accuracy on the validation rows, which look at it once more, or why it has none."""
        graph = self.make(keep)
        kept = tuple(node for node in self.nodes if node in keep)
        variant = _with_graph(Variant(onnx.ModelProto(), kept, self.layout, looks=judges.looks + 1), graph)
        try:
            return replace(variant, accuracy=judges.verdict(graph, variant.looks))
        except (RunFailed, VerificationFailed) as error:
            return replace(variant, problem=runtime_sentence(str(error)))


@dataclass(frozen=True)
class Judges:
    """The judges that say whether a graph is accurate enough.

    Attributes:
        signature: what the graph takes and gives.
        search: judges on calibration rows, while nodes are being chosen.
        final: judges on validation rows, which play no part until a choice is made.
        budget: what may be lost.
        optimized: whether graphs are judged as ONNX Runtime rewrites them for the CPU; else exactly as written, which
            is how other engines read them.
        folder: where copies of large models are made while they are judged; by default the system's for such files.
        looks: how often what is judged was judged by the validation rows before, in an earlier form.
    """

    signature: Signature
    search: Judge
    final: Judge
    budget: Budget
    optimized: bool = True
    looks: int = 0
    folder: Path | None = None

    def verdict(self, model: Graph, look: int) -> Accuracy:
        """The accuracy on the validation rows, whose bounds pay for each look at them.

        Raises:
            RunFailed: it does not run.
            VerificationFailed: it gives other shapes or types, or overflows.
        """
        return self.final.judge(self._session(model), look=look)

    def accepts(self, accuracy: Accuracy) -> bool:
        """Whether what is lost on the validation rows is inside the budget."""
        return self.budget.accepts(accuracy, self.final.accuracy)

    def use(self, accuracy: Accuracy) -> float:
        """How much of the budget is used on the validation rows: above 1 is outside."""
        return self.budget.use(*self.budget.worst(accuracy, self.final.accuracy))

    def estimate(self, model: Graph, *, few: bool = False) -> tuple[float, float]:
        """Used budget and noise on the calibration rows, or a few of them.

        Both are infinite where the graph does not run or overflows.
        """
        judge = self._few if few else self.search
        try:
            accuracy = judge.judge(self._session(model))
        except (RunFailed, VerificationFailed):
            return math.inf, math.inf
        # Calibration rows prove nothing: only the loss on them counts, not its bound.
        seen = replace(self.budget, prove=False)
        return seen.use(*seen.worst(accuracy, judge.accuracy)), accuracy.noise

    @cached_property
    def _few(self) -> Judge:
        return self.search.first(RANKING_REQUESTS)

    def _session(self, graph: Graph) -> Session:
        if not isinstance(graph, Network):
            return Session(graph.SerializeToString(), self.signature, optimized=self.optimized)
        # Mapped into memory, the weights are there for as long as the session is.
        with tempfile.TemporaryDirectory(prefix="plansmith-large-", dir=self.folder) as folder:
            path = write_network(graph, Path(folder) / "model.onnx", inline=0)[0]
            return Session(path, self.signature, optimized=self.optimized)


def float16_variant(prepared: Graph, judges: Judges) -> Variant:
    """The graph in FP16, nodes that overflow or lose too much left in FP32.

    For the CPU it is judged itself; for other devices, a graph that rounds as FP16 does is judged in its place.

    Raises:
        ConversionFailed: the converter failed.
    """
    if judges.optimized:
        nodes = half.convertible_nodes(prepared)
        return inside_budget(Conversion(lambda keep: half.to_float16(prepared, keep=keep), nodes), judges)
    stand_in = _rounded(prepared, HalfType.FLOAT16, judges)
    return _with_graph(stand_in, half.to_float16(prepared, keep=stand_in.kept))


def bfloat16_variant(prepared: Graph, judges: Judges) -> Variant:
    """The graph in BF16, nodes that lose too much left in FP32; judged as by `float16_variant` for other devices.

    Raises:
        ConversionFailed: the converter failed.
    """
    stand_in = _rounded(prepared, HalfType.BFLOAT16, judges)
    return _with_graph(stand_in, half.to_bfloat16(prepared, keep=stand_in.kept))


def _rounded(prepared: Graph, number: HalfType, judges: Judges) -> Variant:
    nodes = half.convertible_nodes(prepared)
    return inside_budget(Conversion(lambda keep: half.rounded(prepared, number, keep=keep), nodes), judges)


def static_conversion(
    prepared: onnx.ModelProto, scheme: QuantizationScheme, judges: Judges, methods: Sequence[CalibrationMethod]
) -> Conversion[onnx.ModelProto]:
    """INT8 with ranges from the calibration rows, by the calibration method that serves the graph best.

    Args:
        prepared: from `preparation.prepare`.
        scheme: how INT8 is laid out.
        judges: judge the graph.
        methods: tried in turn until one is inside the budget.

    Raises:
        ConversionFailed: nothing can be quantized, or no method worked.
    """
    nodes = quantizable_nodes(prepared, scheme)
    if not nodes:
        raise nothing_to_quantize()
    best: tuple[tuple[float, float], CalibrationMethod, object, onnx.ModelProto] | None = None
    failure: ConversionFailed | None = None
    scales: dict[Any, Any] = {}
    for method in methods:
        try:
            ranges = calibrate(prepared, judges.search.requests, method, scheme)
            graph = quantize(prepared, ranges, scheme, scales=scales)
            estimate = judges.estimate(graph)
        except ConversionFailed as error:
            failure = error
            continue
        if best is None or estimate < best[0]:
            best = (estimate, method, ranges, graph)
        if estimate[0] <= 1:
            break
    if best is None:
        raise failure or ConversionFailed("no calibration method was given")
    _, method, ranges, whole = best

    def make(keep: frozenset[str]) -> onnx.ModelProto:
        return quantize(prepared, ranges, scheme, keep=keep, scales=scales) if keep else whole

    return Conversion(make, nodes, f"{scheme.name}, {method} calibration")


def int8_float16_variant(
    prepared: onnx.ModelProto, scheme: QuantizationScheme, judges: Judges, methods: Sequence[CalibrationMethod]
) -> Variant:
    """The graph in INT8 by `static_conversion`, and in FP16 what is not; judged as by `float16_variant`.

    Raises:
        ConversionFailed: nothing can be quantized, no method worked, or the FP16 converter failed.
    """
    return _rest_in_float16(inside_budget(static_conversion(prepared, scheme, judges, methods), judges), judges)


def matrix_variant(prepared: onnx.ModelProto, form: MatrixFormat, judges: Judges) -> Variant:
    """The graph with the weights of MatMul and Gemm in a format, the rest in FP16; judged as by `float16_variant`.

    Args:
        prepared: from `preparation.prepare`, of operator set `form.opset` or later.
        form: the format.
        judges: judge the graph.

    Raises:
        ConversionFailed: no node has such weights, the model does not run, or the FP16 converter failed.
    """
    weights, largest = narrow_weights(prepared, form, judges.search.requests)

    def make(keep: frozenset[str]) -> onnx.ModelProto:
        return to_matrix_format(prepared, form, weights, largest, keep=keep)

    return _rest_in_float16(inside_budget(Conversion(make, tuple(weights), form.name), judges), judges)


def sparse_variant(prepared: onnx.ModelProto, sparsity: Sparsity, judges: Judges) -> Variant:
    """The graph with pruned weights, layers that lose too much left dense.

    Raises:
        ConversionFailed: no layer can be pruned so.
    """
    nodes = prunable_nodes(prepared, sparsity)
    if not nodes:
        raise ConversionFailed(f"no layer has weights that can be pruned {sparsity}")
    return inside_budget(Conversion(lambda keep: prune(prepared, sparsity, keep=keep), nodes), judges)


def inside_budget(conversion: Conversion[Graph], judges: Judges) -> Variant:
    """The graph with as few nodes kept as the budget allows."""
    whole = conversion.judged(judges)
    if is_accepted(whole, judges):
        return whole
    return with_some_kept(conversion, whole, replace(judges, looks=whole.looks))


def with_some_kept(
    conversion: Conversion[Graph],
    whole: Variant,
    judges: Judges,
    *,
    permits: Callable[[frozenset[str]], bool] = lambda _: True,
) -> Variant:
    """The graph with as few nodes kept as the budget allows, or what comes closest to it.

    Args:
        conversion: makes it.
        whole: the graph without nodes kept, which is outside the budget.
        judges: judge it.
        permits: whether these nodes may be kept, of which there are no more than half.
    """
    nodes = conversion.nodes
    if not nodes:
        return whole
    most = max(1, int(len(nodes) * MOST_KEPT)) if len(nodes) > 1 else 0
    groups = noisiest_first(
        nodes,
        lambda alone: judges.estimate(conversion.make(frozenset(nodes) - alone), few=True),
        most=most,
        evaluations=EVALUATIONS,
        seconds=SECONDS_TO_RANK,
    )

    def permitted(keep: frozenset[str]) -> bool:
        return len(keep) <= most and permits(keep)

    kept = (
        fewest_to_keep(groups, lambda keep: judges.estimate(conversion.make(keep))[0] <= 1, permitted)
        if groups
        else None
    )
    if groups is None or kept is None:
        return replace(whole, problem=whole.problem or NOTHING_SAVES_IT)
    closest = whole
    for _ in range(RETRIES):
        variant = conversion.judged(judges, kept)
        if is_accepted(variant, judges):
            return variant
        judges = replace(judges, looks=variant.looks)
        closest = min(closest, variant, key=lambda entry: used_budget(entry, judges))
        if (kept := _more(groups, kept, permitted)) is None:
            break
    return closest


def _more(
    groups: Sequence[tuple[str, ...]], kept: frozenset[str], permitted: Callable[[frozenset[str]], bool]
) -> frozenset[str] | None:
    """About twice as many of the noisiest nodes, or None where that is more than may be kept."""
    wanted = max(2 * len(kept), 1)
    larger: frozenset[str] = frozenset()
    for group in groups:
        larger = larger.union(group)
        if len(larger) >= wanted:
            break
    return larger if len(kept) < len(larger) and permitted(larger) else None


def _with_graph(variant: Variant, graph: onnx.ModelProto | Network) -> Variant:
    if isinstance(graph, Network):
        return replace(variant, model=graph.model, weights=graph.weights)
    return replace(variant, model=graph)


def _rest_in_float16(narrow: Variant, judges: Judges) -> Variant:
    if not is_accepted(narrow, judges):
        # FP16 makes it no better.
        return replace(narrow, model=half.to_float16(narrow.model))
    sixteen = float16_variant(infer_shapes(narrow.model), replace(judges, looks=narrow.looks))
    return replace(sixteen, kept=(*narrow.kept, *sixteen.kept), layout=f"{narrow.layout}, the rest in FP16")


def is_accepted(variant: Variant, judges: Judges) -> bool:
    """Whether it runs and is inside the budget on the validation rows."""
    return variant.accuracy is not None and judges.accepts(variant.accuracy)


def used_budget(variant: Variant, judges: Judges) -> float:
    """How much of the budget it uses on the validation rows: above 1 is outside, infinite where it does not run."""
    return math.inf if variant.accuracy is None else judges.use(variant.accuracy)
