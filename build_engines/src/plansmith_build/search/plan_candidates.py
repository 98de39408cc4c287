"""Candidates for NVIDIA's compilers: plans for each architecture in this machine, and engines of TensorRT for RTX."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.engines.tensorrt import PlanOptions, build_plan, refit_plan
from plansmith_build.engines.tensorrt.availability import devices_by_compute_capability
from plansmith_build.engines.tensorrt.execution import PlanSession
from plansmith_build.engines.tensorrt_rtx import WITH_FP8, compile_engine, in_words
from plansmith_build.search.targets import Precision

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.engines.tensorrt import OptimizationProfile
    from plansmith_build.engines.tensorrt_rtx import CompiledEngine
    from plansmith_build.progress import Progress
    from plansmith_build.search.graph_variants import GraphFile
    from plansmith_build.search.workload import Workload

__all__ = ["PlanFiles", "PlanSettings", "build_plans", "compile_candidate", "compiled_in_words", "plan_rate"]

# Long enough for a clock that ticks in half microseconds, short enough for the slowest plan.
TIMED_RUNS = 10


@dataclass(frozen=True)
class PlanSettings:
    """What all plans of a build have in common.

    Attributes:
        profile: the shapes that they take.
        options: how they are built.
    """

    profile: OptimizationProfile
    options: PlanOptions


@dataclass(frozen=True)
class PlanFiles:
    """The plans of one graph.

    Attributes:
        by_capability: the plan for each compute capability, such as "9.0".
        stripped: the same without weights, where that was asked for.
        session: the first of them, loaded.
        others: those of the other architectures, each loaded on its own GPU.
    """

    by_capability: dict[str, Path]
    stripped: tuple[Path, ...]
    session: PlanSession
    others: tuple[PlanSession, ...] = ()


def build_plans(graph: GraphFile, settings: PlanSettings, progress: Progress) -> PlanFiles:
    """Build a plan on one GPU of each architecture.

    Raises:
        PlanFailed: TensorRT does not take the graph.
        RunFailed: a plan does not load.
    """
    stem = graph.path.name.removesuffix(".onnx").removesuffix(".tensorrt")
    plans: dict[str, Path] = {}
    stripped = []
    devices = devices_by_compute_capability()
    compatible = settings.options.version_compatible
    for capability, device in devices.items():
        path = graph.path.with_name(f"{stem}.sm_{capability.replace('.', '')}.plan")
        without = path.with_suffix(".stripped.plan")
        build_plan(
            graph.path,
            without if settings.options.strip_weights else path,
            settings.profile,
            replace(settings.options, profile=""),
            device=device,
            compute_capability=capability,
            progress=progress,
        )
        if settings.options.strip_weights:
            refit_plan(without, graph.path, path, device=device, version_compatible=compatible)
            stripped.append(without)
        plans[capability] = path
    first, *others = [
        PlanSession(plans[capability], device=device, version_compatible=compatible)
        for capability, device in devices.items()
    ]
    return PlanFiles(plans, tuple(stripped), first, tuple(others))


def plan_rate(session: PlanSession, profile: OptimizationProfile, workload: Workload) -> Callable[[float], float]:
    """How to time a plan: in the shapes that its kernels were chosen for, by the GPU's own clock.

    Returns:
        A function that takes the seconds to measure for, and gives rows a second.
    """
    best = [
        _at_best(profile, request) if workload.is_batched else (request, workload.rows) for request in workload.requests
    ]

    def seconds_per_run(request: Arrays, seconds: float) -> float:
        per_run = session.seconds_per_run(request, TIMED_RUNS)
        return session.seconds_per_run(request, max(TIMED_RUNS, int(seconds / max(per_run, 1e-6))))

    def rate(seconds: float) -> float:
        return len(best) / sum(seconds_per_run(request, seconds / len(best)) / rows for request, rows in best)

    return rate


def _at_best(profile: OptimizationProfile, request: Arrays) -> tuple[Arrays, int]:
    """The same with as many rows as the kernels for its size were chosen for, and how many those are."""

    def takes(part: OptimizationProfile) -> bool:
        return all(
            low <= size <= high
            for name, array in request.items()
            for low, size, high in zip(part.minimum[name][1:], array.shape[1:], part.maximum[name][1:], strict=True)
        )

    part = next(filter(takes, profile.each), profile)
    rows = part.optimum[next(iter(request))][0]
    repeated = {name: np.take(array, np.arange(rows) % len(array), axis=0) for name, array in request.items()}
    return {name: np.ascontiguousarray(array) for name, array in repeated.items()}, rows


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
