"""Candidates: one engine, one device and one precision each; made, judged by the budget and timed beside FP32."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from plansmith_build.engines.cpu_features import cores
from plansmith_build.engines.onnxruntime import CPU_PROVIDER, RunFailed, Session
from plansmith_build.engines.openvino import OpenVinoRuntime
from plansmith_build.engines.tensorrt import PlanFailed
from plansmith_build.errors import VerificationFailed
from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.progress import BuildStep
from plansmith_build.search.plan_candidates import build_plans
from plansmith_build.search.targets import CUDA_PROVIDER, Device, Pairing, Precision, Target, obstacle_to
from plansmith_build.search.timing import Speed, measure_beside

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from plansmith_build.engines import Runtime
    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.judging.accuracy import Accuracy, OutputAgreement
    from plansmith_build.progress import Progress
    from plansmith_build.reading.signatures import Signature
    from plansmith_build.search.graph_variants import GraphFile, GraphVariants
    from plansmith_build.search.plan_candidates import PlanSettings

__all__ = ["Candidate", "Status", "Timing", "try_candidates"]


_FP32 = Pairing(Target.ONNXRUNTIME, Device.CPU, Precision.FP32)


class Status(StrEnum):
    """What became of a candidate."""

    CHOSEN = "chosen"
    KEPT = "kept"
    SLOWER = "slower"
    UNMEASURED = "verified, not measured"
    OUTSIDE_BUDGET = "outside the budget"
    FAILED = "failed"
    IMPOSSIBLE = "not possible here"


@dataclass(frozen=True)
class Candidate:
    """One way to serve the model.

    Attributes:
        pairing: target, device and precision.
        status: what became of it.
        reason: why, where it is not among the usable ones.
        graph: the file it is made from; None where there is none.
        accuracy: on the validation rows; None where it was not run.
        judged_by: the output that uses most of what it may lose.
        drop: what that output loses, 0 for nothing.
        speed: in this process, beside the FP32 model.
        served_rows_per_second: as it is served, where that was measured.
        instances: how many instances serve it.
        threads: of each instance; 0 where the engine takes every core.
        engine: what ran it.
        answer: what it answers to the request that it is timed with; None where it does not run here.
        plans: TensorRT plans by compute capability.
        stripped_plans: the same without weights, where that was asked for.
    """

    pairing: Pairing
    status: Status = Status.SLOWER
    reason: str = ""
    graph: GraphFile | None = None
    accuracy: Accuracy | None = None
    judged_by: OutputAgreement | None = None
    drop: float | None = None
    speed: Speed | None = None
    served_rows_per_second: float | None = None
    instances: int = 1
    threads: int = 0
    engine: str = ""
    answer: Arrays | None = field(default=None, repr=False, compare=False)
    plans: Mapping[str, Path] = field(default_factory=dict)
    stripped_plans: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """What a version needs to serve it, the model file first; empty where there is none."""
        graph = self.graph.files if self.graph is not None else ()
        if not self.plans:
            return graph
        # Plans can be refitted only from the graph that they were stripped of.
        return (*self.plans.values(), *self.stripped_plans, *(graph if self.stripped_plans else ()))

    @property
    def is_usable(self) -> bool:
        """Whether it computes what it should."""
        return self.status not in {Status.OUTSIDE_BUDGET, Status.FAILED, Status.IMPOSSIBLE}


@dataclass(frozen=True)
class Timing:
    """What candidates are timed with.

    Attributes:
        reference: the FP32 model on ONNX Runtime.
        path: its file.
        request: what is asked.
        rows: how many rows that has.
    """

    reference: Runtime
    path: Path
    request: Arrays = field(repr=False)
    rows: int


def try_candidates(
    pairings: Sequence[Pairing],
    graphs: GraphVariants,
    timing: Timing,
    plans: PlanSettings,
    *,
    unmeasured: bool,
    progress: Progress,
) -> tuple[Candidate, ...]:
    """Make, judge and time each pairing; what fails is a result like any other.

    Args:
        pairings: what to try.
        graphs: makes the graphs.
        timing: what to time with.
        plans: how TensorRT plans are built.
        unmeasured: whether graphs for a GPU that is not here are made and judged all the same.
        progress: told about each.

    Raises:
        OSError: the disk did not take a file.
    """
    obstacles = {pairing: obstacle_to(pairing, graphs.signature) for pairing in pairings}
    possible = [
        pairing
        for pairing, obstacle in obstacles.items()
        if not obstacle or (unmeasured and pairing.device is Device.GPU)
    ]
    tried = {pairing: Candidate(pairing, Status.IMPOSSIBLE, obstacle) for pairing, obstacle in obstacles.items()}
    for number, pairing in enumerate(possible, start=1):
        step = f"Candidate {number} of {len(possible)}: {pairing}"
        progress(BuildStep(step, done=(number - 1) / len(possible)))
        candidate = _try(pairing, graphs, timing, plans, obstacle=obstacles[pairing], progress=progress)
        progress(BuildStep(step, _outcome(candidate)))
        tried[pairing] = candidate
    return tuple(tried.values())


def _try(
    pairing: Pairing,
    graphs: GraphVariants,
    timing: Timing,
    plans: PlanSettings,
    *,
    obstacle: str,
    progress: Progress,
) -> Candidate:
    """One candidate; judged as a graph alone where there is an obstacle to running it here."""
    candidate = Candidate(pairing)
    try:
        graph = graphs.graph_for(pairing)
        candidate = replace(candidate, graph=graph)
        if obstacle:
            return _judged_as_graph(candidate, graphs, obstacle)
        runtime: Runtime
        if pairing.target is Target.TENSORRT:
            built = build_plans(graph, plans, progress)
            runtime = built.session
            candidate = replace(candidate, plans=built.by_capability, stripped_plans=built.stripped)
        else:
            runtime = _load(pairing, graph.path, graphs.signature, timing)
        candidate = replace(candidate, engine=runtime.description)
        if runtime is timing.reference:
            # It loses nothing against itself, which no number of rows has to prove.
            candidate = _at_no_loss(candidate, graphs.jury.final.accuracy)
        else:
            candidate = _within_budget(replace(candidate, accuracy=graphs.jury.final.judge(runtime)), graphs)
        if candidate.is_usable:
            answer = runtime.run(timing.request)
            speed = measure_beside(runtime, timing.reference, timing.request, rows=timing.rows)
            candidate = replace(candidate, answer=answer, speed=speed)
    except (ConversionFailed, PlanFailed, RunFailed, VerificationFailed) as error:
        return replace(candidate, status=Status.FAILED, reason=str(error))
    except OSError:
        # A full disk is no property of a candidate.
        raise
    except Exception as error:  # noqa: BLE001 - whatever a converter or an engine stumbles over, the others go on
        said = " ".join(str(error).split())[:200]
        return replace(candidate, status=Status.FAILED, reason=f"it could not be made: {type(error).__name__}: {said}")
    return candidate


def _judged_as_graph(candidate: Candidate, graphs: GraphVariants, obstacle: str) -> Candidate:
    """A graph for a device that is not here: what ONNX Runtime's CPU provider computes stands for it."""
    graph = candidate.graph
    if graph is None or graph.accuracy is None:
        problem = graph.problem if graph is not None else ""
        return replace(candidate, status=Status.FAILED, reason=problem or "it could not be run on the CPU")
    judged = _within_budget(replace(candidate, accuracy=graph.accuracy), graphs)
    return replace(judged, status=Status.UNMEASURED, reason=obstacle) if judged.is_usable else judged


def _at_no_loss(candidate: Candidate, reference: Accuracy) -> Candidate:
    exact = replace(reference, outputs=tuple(replace(output, bound=0.0) for output in reference.outputs))
    return replace(candidate, accuracy=exact, judged_by=exact.outputs[0], drop=0.0)


def _within_budget(candidate: Candidate, graphs: GraphVariants) -> Candidate:
    if candidate.accuracy is None:
        return candidate
    budget, reference = graphs.jury.budget, graphs.jury.final.accuracy
    judged_by, drop = budget.worst(candidate.accuracy, reference)
    judged = replace(candidate, judged_by=judged_by, drop=drop)
    if not budget.accepts(candidate.accuracy, reference):
        return replace(judged, status=Status.OUTSIDE_BUDGET, reason=budget.complaint(candidate.accuracy, reference))
    return judged


def _load(pairing: Pairing, path: Path, signature: Signature, timing: Timing) -> Runtime:
    if path == timing.path and pairing == _FP32:
        # Not twice in memory: it is what all others are held against.
        return timing.reference
    if pairing.target is Target.OPENVINO:
        precision = "bf16" if pairing.precision is Precision.BF16 else "f32"
        return OpenVinoRuntime(path, signature, precision=precision, threads=cores())
    provider = CUDA_PROVIDER if pairing.device is Device.GPU else CPU_PROVIDER
    return Session(path, signature, optimized=True, provider=provider)


def _outcome(candidate: Candidate) -> str:
    if not candidate.is_usable or candidate.speed is None:
        return f"{candidate.status}: {candidate.reason}"
    kept = candidate.graph.kept if candidate.graph else ()
    left = f", {len(kept)} nodes left in FP32" if kept else ""
    return (
        f"loses {candidate.drop or 0:.2%}, {candidate.speed.rows_per_second:,.0f} rows/s, "
        f"{candidate.speed.ratio:.2f} of FP32{left}"
    )
