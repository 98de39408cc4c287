"""Graphs compiled by TensorRT for RTX where there is no GPU: to be served, or for the compiler's answer alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_build.engines.tensorrt_rtx import WITH_FP8, compile_engine, in_words
from plansmith_build.search.targets import Precision

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_build.engines.tensorrt_rtx import CompiledEngine
    from plansmith_build.search.plan_candidates import PlanSettings

__all__ = ["compile_candidate", "compiled_in_words"]


def compile_candidate(graph: Path, precision: Precision, settings: PlanSettings, *, keep: bool) -> CompiledEngine:
    """Compile a candidate's graph beside it, with the profile that a server will use.

    Args:
        graph: its file.
        precision: what it computes in; FP8 is compiled for the GPUs that have it where no others are named.
        settings: shapes and options.
        keep: whether the engine itself is wanted, or only whether TensorRT takes the graph.

    Raises:
        EngineFailed: TensorRT does not take the graph.
        OSError: the disk did not take the engine.
    """
    path = graph.with_name(f"{graph.name.removesuffix('.onnx').removesuffix('.tensorrt')}.rtx.engine")
    if not keep:
        path = path.with_suffix(".unused")
    capabilities = settings.options.compute_capabilities
    if precision is Precision.FP8 and not capabilities:
        capabilities = WITH_FP8
    engine = compile_engine(graph, path, settings.profile, capabilities)
    if not keep:
        path.unlink()
    return engine


def compiled_in_words(engine: CompiledEngine) -> str:
    """By what and for what, for the line of a candidate that was compiled and not measured."""
    release = ".".join(engine.version.split(".")[:3])
    return f"by TensorRT for RTX {release} for {in_words(engine.capabilities)}"
