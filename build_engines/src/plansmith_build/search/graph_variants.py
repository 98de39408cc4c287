"""The graphs that candidates are made from, each made once and written to a file of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from plansmith_build.engines.cpu_features import has_vnni
from plansmith_build.engines.onnxruntime import RunFailed, Session
from plansmith_build.errors import VerificationFailed
from plansmith_build.precision.calibration import CalibrationMethod
from plansmith_build.precision.dynamic import dynamic_conversion
from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.precision.matrix_formats import FP8, W4A16, W8A16
from plansmith_build.precision.post_training import has_attention, is_installed, transformer_conversion
from plansmith_build.precision.preparation import (
    BFLOAT16_OPSET,
    HALF_OPSET,
    HALF_SCALES_OPSET,
    LARGEST_BYTES,
    QUANTIZATION_OPSET,
    prepare,
    prepare_apart,
)
from plansmith_build.precision.quantization import work_of
from plansmith_build.precision.schemes import TENSORRT, x86_scheme
from plansmith_build.precision.tensorrt_layout import LAYOUT, to_tensorrt_layout
from plansmith_build.precision.variants import (
    NOTHING_SAVES_IT,
    Variant,
    bfloat16_variant,
    float16_variant,
    inside_budget,
    int8_float16_variant,
    is_accepted,
    matrix_variant,
    sparse_variant,
    static_conversion,
    with_some_kept,
)
from plansmith_build.precision.weight_blocks import block_conversion, computes_with_matrices
from plansmith_build.reading.networks import Network, write_network
from plansmith_build.reading.number_formats import stored_format
from plansmith_build.reading.operators import runtime_sentence
from plansmith_build.reading.signatures import signature_of
from plansmith_build.search.targets import Device, Precision, Target

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    import onnx

    from plansmith_build.judging.accuracy import Accuracy
    from plansmith_build.precision.sparsity import Sparsity
    from plansmith_build.precision.variants import Conversion, Judges
    from plansmith_build.reading.signatures import Signature
    from plansmith_build.search.targets import Pairing

__all__ = ["MATRIX_FORMATS", "GraphFile", "GraphVariants", "Method", "refuse_w4_on_gpus"]

MATRIX_FORMATS = {Precision.W8A16: W8A16, Precision.W4A16: W4A16, Precision.FP8: FP8}
# How a graph holds what is in INT8.
_INT8 = {"DynamicQuantizeLSTM", "DynamicQuantizeLinear", "MatMulNBits", "QuantizeLinear"}
# The name of a graph in the precision that the portable one has.
_PORTABLE = "model.onnx"
# How ONNX Runtime says that it has a graph, and no arithmetic for its types on this device.
_NO_KERNEL = ("NOT_IMPLEMENTED", "Could not find an implementation")


class Method(StrEnum):
    """A way to INT8 on a CPU."""

    STATIC = "static"
    DYNAMIC = "dynamic"
    NNCF = "NNCF"
    BLOCKS = "blocks"


@dataclass(frozen=True)
class GraphFile:
    """A graph on disk.

    Attributes:
        path: the model file.
        files: the model file and its data file, where there is one.
        kept: the names of the nodes that were left in FP32.
        layout: how INT8 is laid out and was calibrated, or how weights were pruned; empty where neither was.
        accuracy: of the graph on ONNX Runtime's CPU provider; None where it does not run there.
        problem: why not, or why what it loses cannot be helped.
        format: what the file's weights are stored in where they are not FP32, such as "FP16" or "INT8 QDQ"; empty for
            FP32 and for what was made from it.
        look: which look at the validation rows accepted it, from 1.
    """

    path: Path
    files: tuple[Path, ...]
    kept: tuple[str, ...] = ()
    layout: str = ""
    accuracy: Accuracy | None = None
    problem: str = ""
    format: str = ""
    look: int = 1


class GraphVariants:
    """Makes the graph for a pairing when it is first asked for.

    Attributes:
        signature: what every graph takes and gives.
        judges: judge them.
        format: as that of the portable graph; see `GraphFile`.

    Args:
        portable: the FP32 graph as it is published.
        network: the same in memory.
        judges: judge the graphs.
        folder: where graphs are written.
        methods: the calibration methods, tried in turn.
        sparsity: how weights are pruned, if at all.
    """

    def __init__(
        self,
        portable: GraphFile,
        network: Network,
        judges: Judges,
        folder: Path,
        *,
        methods: tuple[CalibrationMethod, ...] = tuple(CalibrationMethod),
        sparsity: Sparsity | None = None,
    ) -> None:
        self.signature: Signature = judges.signature
        self.judges = judges
        stored = stored_format(network.model)
        self.format = "" if stored == "FP32" else stored
        self._portable = replace(portable, format=self.format)
        self._network = network
        self._folder = folder
        self._methods = methods
        self._sparsity = sparsity
        self._attends = has_attention(network.model)
        self._by_nncf = self._attends and is_installed()
        self._prepared: dict[int, onnx.ModelProto] = {}
        self._pruned: dict[int, Variant] = {}
        self._made: dict[str, GraphFile | ConversionFailed] = {}
        self._conversions: dict[Method, tuple[Conversion[onnx.ModelProto], Variant]] = {}

    def graph_for(self, pairing: Pairing) -> GraphFile:
        """The graph that a pairing is made from; for INT8 on a CPU, there is one for each of `int8_methods`.

        Raises:
            ConversionFailed: it cannot be made; raised again each time it is asked for.
            OSError: the file could not be written.
        """
        refuse_w4_on_gpus(pairing)
        if self.format and pairing.precision is Precision.FP32 and pairing.target.is_compiled and not self._sparsity:
            return self._for_tensorrt
        name = self._file_name(pairing)
        return self._once(name, lambda: self._make(name, pairing))

    def int8_methods(self, target: Target) -> tuple[tuple[Method, ...], tuple[Method, ...]]:
        """The ways to INT8 that suit a target's CPU engine, and those for where none of them is inside the budget."""
        blocks = (Method.BLOCKS,) if computes_with_matrices(self._network.model) else ()
        if target is Target.OPENVINO:
            # It has no dynamic operators. What SmoothQuant does not save, plain ranges for everything do not either.
            return (Method.NNCF if self._by_nncf else Method.STATIC, *blocks), ()
        if self._attends:
            return (Method.DYNAMIC, *blocks), (Method.STATIC,)
        return (Method.STATIC, *blocks), (Method.DYNAMIC,)

    def int8_whole(self, method: Method, looks: int, stack: ExitStack) -> GraphFile:
        """The whole graph in INT8 for a CPU, judged.

        Args:
            method: one of `int8_methods`.
            looks: how often graphs for the same candidate were judged by the validation rows before.
            stack: closed when no graph by this method is wanted any more.

        Raises:
            ConversionFailed: it cannot be made; raised again each time it is asked for.
            OSError: the file could not be written.
        """

        def make() -> GraphFile:
            judges = self._judges(looks)
            conversion = self._int8_conversion(method, judges, stack)
            variant = conversion.judged(judges)
            if not is_accepted(variant, judges):
                self._conversions[method] = conversion, variant
            return self._int8_file(name, variant)

        name = self._name("int8", *([] if method is Method.STATIC else [method.lower()]))
        return self._once(name, make)

    def int8_with_some_kept(self, method: Method, looks: int, share: float) -> GraphFile:
        """The same with some nodes in FP32, which do no more than this share of the work of all; raises the same."""

        def make() -> GraphFile:
            conversion, whole = self._conversions[method]
            work = work_of(self._prepare(QUANTIZATION_OPSET))
            most = share * sum(work.get(node, 0) for node in conversion.nodes)
            variant = with_some_kept(
                conversion,
                whole,
                self._judges(looks),
                permits=lambda keep: sum(work.get(node, 0) for node in keep) <= most,
            )
            if not variant.kept:
                raise ConversionFailed(variant.problem or NOTHING_SAVES_IT)
            return self._int8_file(name, variant)

        name = self._name("int8", method.lower(), "mixed")
        return self._once(name, make)

    def _int8_conversion(self, method: Method, judges: Judges, stack: ExitStack) -> Conversion[onnx.ModelProto]:
        prepared = self._prepare(QUANTIZATION_OPSET)
        match method:
            case Method.NNCF:
                return stack.enter_context(transformer_conversion(prepared, judges))
            case Method.DYNAMIC:
                return dynamic_conversion(prepared, judges, vnni=has_vnni())
            case Method.BLOCKS:
                return block_conversion(prepared, bits=8)
            case Method.STATIC:
                return static_conversion(prepared, x86_scheme(vnni=has_vnni()), judges, self._methods)

    def _int8_file(self, name: str, variant: Variant) -> GraphFile:
        if not any(node.op_type in _INT8 for node in variant.model.graph.node):
            raise ConversionFailed("nothing of it is in INT8")
        return self._write(name, variant, judged_itself=True)

    def _once(self, name: str, make: Callable[[], GraphFile]) -> GraphFile:
        if self.format and name != _PORTABLE:
            raise ConversionFailed(
                f"the file is {self.format} already: keep it as it is, or build other precisions from the FP32 original"
            )
        if name not in self._made:
            try:
                self._made[name] = make()
            except ConversionFailed as error:
                self._made[name] = error
        made = self._made[name]
        if isinstance(made, ConversionFailed):
            raise made
        return made

    def _judges(self, looks: int, *, on_cpu: bool = True) -> Judges:
        if self._sparsity is not None:
            # Pruned weights were judged by the same rows before.
            looks = max(looks, self._sparse(self._sparsity, QUANTIZATION_OPSET).looks)
        return replace(self.judges, optimized=on_cpu, looks=looks)

    @cached_property
    def _for_tensorrt(self) -> GraphFile:
        """What arrived in another precision than FP32, as NVIDIA's compilers take it."""
        network = to_tensorrt_layout(self._network)
        if network is self._network:
            return replace(self._portable, accuracy=self.judges.final.accuracy)
        accuracy = replace(self.judges, optimized=False).verdict(network, 1)
        variant = Variant(network.model, layout=LAYOUT, accuracy=accuracy, looks=1, weights=network.weights)
        return replace(self._write("model.tensorrt.onnx", variant, judged_itself=True), format=self.format)

    def _make(self, name: str, pairing: Pairing) -> GraphFile:
        on_cpu = pairing.device is Device.CPU
        judges = self._judges(0, on_cpu=on_cpu)
        match pairing.precision:
            case Precision.INT8:
                prepared = self._prepare(QUANTIZATION_OPSET)
                variant = inside_budget(static_conversion(prepared, TENSORRT, judges, self._methods), judges)
            case Precision.W4:
                variant = inside_budget(block_conversion(self._prepare(QUANTIZATION_OPSET), bits=4), judges)
            case Precision.INT8_FP16:
                variant = int8_float16_variant(self._prepare(HALF_SCALES_OPSET), TENSORRT, judges, self._methods)
            case Precision.W8A16 | Precision.W4A16 | Precision.FP8:
                form = MATRIX_FORMATS[pairing.precision]
                variant = matrix_variant(self._prepare(form.opset), form, judges)
            case Precision.FP16:
                variant = float16_variant(self._prepare_half(HALF_OPSET), judges)
            case Precision.BF16 if not on_cpu:
                variant = bfloat16_variant(self._prepare_half(BFLOAT16_OPSET), judges)
            case _ if self._sparsity is None:
                # OpenVINO computes FP32 graphs in BF16 where it is told to.
                return replace(self._portable, accuracy=self.judges.final.accuracy)
            case _:
                variant = self._sparse(self._sparsity, QUANTIZATION_OPSET)
        # What computes in 16 bits is judged by a graph that rounds as it does.
        judged_itself = on_cpu or pairing.precision in {Precision.FP32, Precision.INT8}
        return self._write(name, variant, judged_itself=judged_itself)

    def _file_name(self, pairing: Pairing) -> str:
        on_cpu = pairing.device is Device.CPU
        match pairing.precision:
            case Precision.W4:
                return self._name("w4")
            case Precision.INT8 | Precision.INT8_FP16 | Precision.W8A16 | Precision.W4A16 | Precision.FP8:
                return self._name(pairing.precision, "tensorrt")
            case Precision.FP16:
                # Judged as its device computes it, which may leave other nodes in FP32: a file for each.
                return self._name("fp16", *(["cpu"] if on_cpu else []))
            case Precision.BF16 if not on_cpu:
                return self._name("bf16")
            case _:
                return self._name()

    def _name(self, *words: str) -> str:
        return ".".join(["model", *(["sparse"] if self._sparsity is not None else []), *words, "onnx"])

    def _prepare(self, opset: int) -> onnx.ModelProto:
        if self._sparsity is not None:
            return self._sparse(self._sparsity, opset).model
        if opset not in self._prepared:
            self._prepared[opset] = prepare(self._network, opset=opset)
        return self._prepared[opset]

    def _prepare_half(self, opset: int) -> Any:
        """A model, or a network where that is too large for tools that hold all of it."""
        if self._sparsity is None and self._network.size > LARGEST_BYTES:
            return prepare_apart(self._network, opset=opset)
        return self._prepare(opset)

    def _sparse(self, sparsity: Sparsity, opset: int) -> Variant:
        if opset not in self._pruned:
            variant = sparse_variant(prepare(self._network, opset=opset), sparsity, self.judges)
            self._pruned[opset] = replace(variant, layout=f"weights pruned {sparsity}")
        return self._pruned[opset]

    def _write(self, name: str, variant: Variant, *, judged_itself: bool) -> GraphFile:
        path = self._folder / name
        files = write_network(Network(variant.model, variant.weights), path, inline=0 if variant.weights else None)
        made, wanted = _interface(signature_of(variant.model)), _interface(self.signature)
        if made != wanted:
            raise ConversionFailed(
                f"the converted graph takes and gives {', '.join(made)} instead of {', '.join(wanted)}"
            )
        if not judged_itself and variant.accuracy is not None:
            self._run_once(path)
        return GraphFile(
            path=path,
            files=files,
            kept=variant.kept,
            layout=variant.layout,
            accuracy=variant.accuracy,
            problem=variant.problem,
            look=max(1, variant.looks),
        )

    def _run_once(self, path: Path) -> None:
        """Load and run a graph that another was judged in place of, on the CPU as far as that has its kernels.

        Raises:
            ConversionFailed: it is not a valid graph, does not run, or gives other shapes or types.
        """
        try:
            self.judges.final.first(1).judge(Session(path, self.signature, optimized=False))
        except (RunFailed, VerificationFailed) as error:
            said = str(error)
            # Types and shapes are checked before kernels are looked for.
            if not any(text in said for text in _NO_KERNEL):
                raise ConversionFailed(f"the converted graph does not run: {runtime_sentence(said)}") from error


def refuse_w4_on_gpus(pairing: Pairing) -> None:
    """Before a file that was made for a CPU is taken for another device.

    Raises:
        ConversionFailed: the precision is w4 and the device no CPU.
    """
    if pairing.precision is Precision.W4 and pairing.device is not Device.CPU:
        raise ConversionFailed("w4 is for CPUs: ask for w4a16, which GPUs compute")


def _interface(signature: Signature) -> list[str]:
    """What a graph takes and gives, but for its sizes: shape inference may know more of them."""
    return [f"{s.name} {s.datatype} of {len(s.shape)} dimensions" for s in (*signature.inputs, *signature.outputs)]
