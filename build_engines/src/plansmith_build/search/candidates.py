"""Candidates: one engine, one device and one precision each; made, judged by the budget and timed against FP32."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property, partial
from typing import TYPE_CHECKING

from plansmith_build.engines.cpu_features import cores
from plansmith_build.engines.freed_memory import return_freed_memory
from plansmith_build.engines.onnxruntime import CPU_PROVIDER, RunFailed, Session
from plansmith_build.engines.openvino import OpenVinoRuntime
from plansmith_build.engines.tensorrt import PlanFailed
from plansmith_build.engines.tensorrt.execution import PlanSession
from plansmith_build.engines.tensorrt_rtx import EngineFailed
from plansmith_build.engines.tensorrt_rtx import unavailable_because as no_compiler_because
from plansmith_build.errors import VerificationFailed
from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.progress import BuildStep
from plansmith_build.reading.operators import runtime_sentence
from plansmith_build.search.int8_choice import Attempt, fastest_method
from plansmith_build.search.plan_candidates import build_plans, compile_candidate, compiled_in_words, plan_rate
from plansmith_build.search.targets import CUDA_PROVIDER, Device, Pairing, Precision, Target, has_cuda, obstacle_to
from plansmith_build.search.timing import Speed, gains_by_batching, time_against

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from plansmith_build.engines import Runtime
    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.engines.tensorrt import OptimizationProfile
    from plansmith_build.engines.tensorrt_rtx import CompiledEngine
    from plansmith_build.judging.accuracy import Accuracy, OutputAgreement
    from plansmith_build.progress import Progress
    from plansmith_build.reading.signatures import Signature
    from plansmith_build.search.graph_variants import GraphFile, GraphVariants, Method
    from plansmith_build.search.plan_candidates import PlanSettings
    from plansmith_build.search.workload import Workload

__all__ = ["Candidate", "Status", "Timing", "load_runtime", "try_candidates"]


_FP32 = Pairing(Target.ONNXRUNTIME, Device.CPU, Precision.FP32)


class Status(StrEnum):
    """The result of trying a candidate."""

    CHOSEN = "chosen"
    KEPT = "kept"
    SLOWER = "slower"
    UNMEASURED = "verified, not measured"
    COMPILED = "compiled, not measured"
    OUTSIDE_BUDGET = "outside the budget"
    FAILED = "failed"
    IMPOSSIBLE = "not possible here"


@dataclass(frozen=True)
class Candidate:
    """One way to serve the model.

    Attributes:
        pairing: target, device and precision.
        status: the result of trying it.
        reason: why, where it is not among the usable ones.
        graph: the file it is made from; None where there is none.
        accuracy: on the validation rows; None where it was not run.
        judged_by: the output that uses most of what it may lose.
        drop: what that output loses, 0 for nothing.
        speed: in this process, against the FP32 model on the same device.
        served: as it is served, against the first of the finalists, where that was measured.
        instances: how many instances serve it.
        threads: of each instance; 0 where the engine takes every core.
        is_batched: whether a server may join requests.
        engine: what ran it.
        answers: what it answers to each of the requests that it is timed with; none where it does not run here.
        plans: TensorRT plans by compute capability.
        stripped_plans: the same without weights, where that was asked for.
        compiled: what TensorRT for RTX made of the graph; None where it was not compiled by it.
        profile: the shapes that plans or an engine take; None where there are neither.
    """

    pairing: Pairing
    status: Status = Status.SLOWER
    reason: str = ""
    graph: GraphFile | None = None
    accuracy: Accuracy | None = None
    judged_by: OutputAgreement | None = None
    drop: float | None = None
    speed: Speed | None = None
    served: Speed | None = None
    instances: int = 1
    threads: int = 0
    is_batched: bool = True
    engine: str = ""
    answers: tuple[Arrays, ...] = field(default=(), repr=False, compare=False)
    plans: Mapping[str, Path] = field(default_factory=dict)
    stripped_plans: tuple[Path, ...] = ()
    compiled: CompiledEngine | None = None
    profile: OptimizationProfile | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """What a version needs to serve it, the model file first; empty where there is none."""
        graph = self.graph.files if self.graph is not None else ()
        if self.compiled is not None and self.pairing.target is Target.TENSORRT_RTX:
            return (self.compiled.path,)
        if not self.plans:
            return graph
        # Plans can be refitted only from the graph that they were stripped of.
        return (*self.plans.values(), *self.stripped_plans, *(graph if self.stripped_plans else ()))

    @property
    def precision(self) -> str:
        """What the candidate computes in: that of the file where it is served as it is and is not FP32."""
        as_it_is = self.pairing.precision is Precision.FP32 and self.graph is not None and self.graph.format
        return as_it_is.lower() if as_it_is else self.pairing.precision

    @property
    def is_usable(self) -> bool:
        """Whether it computes what it should."""
        return self.status not in {Status.OUTSIDE_BUDGET, Status.FAILED, Status.IMPOSSIBLE}


@dataclass(frozen=True)
class Timing:
    """What candidates are timed with.

    Attributes:
        reference: the FP32 model on ONNX Runtime's CPU provider.
        path: its file.
        signature: what it takes and gives.
        workload: what is asked.
    """

    reference: Runtime
    path: Path
    signature: Signature
    workload: Workload

    def reference_on(self, device: Device) -> Runtime:
        """The FP32 model on a device, as far as ONNX Runtime has that here."""
        return self._on_gpu if device is Device.GPU and has_cuda() else self._on_cpu

    @cached_property
    def _on_cpu(self) -> Runtime:
        for request in self.workload.requests:
            self.reference.run(request)
        return self.reference

    @cached_property
    def _on_gpu(self) -> Runtime:
        session = Session(self.path, self.signature, optimized=True, provider=CUDA_PROVIDER)
        for request in self.workload.requests:
            session.run(request)
        return session


def try_candidates(
    pairings: Sequence[Pairing],
    graphs: GraphVariants,
    timing: Timing,
    plans: PlanSettings,
    *,
    unmeasured: bool,
    progress: Progress,
) -> tuple[Candidate, ...]:
    """Make, judge and time each pairing; a failure is a result like any other.

    Where `unmeasured` is set, graphs are also made and judged for a GPU that this machine does not have.

    Raises:
        OSError: a file could not be written.
    """
    obstacles = {pairing: obstacle_to(pairing, graphs.signature) for pairing in pairings}
    possible = [
        pairing
        for pairing, obstacle in obstacles.items()
        if not obstacle or (unmeasured and pairing.device is Device.GPU)
    ]
    tried = {pairing: Candidate(pairing, Status.IMPOSSIBLE, obstacle) for pairing, obstacle in obstacles.items()}
    # How fast all others are says which searches for INT8 may pay.
    possible.sort(key=_is_int8_on_cpu)
    for number, pairing in enumerate(possible, start=1):
        step = f"Candidate {number} of {len(possible)}: {pairing.with_format(graphs.format)}"
        progress(BuildStep(step, done=(number - 1) / len(possible)))
        run = partial(_judged_and_timed, graphs=graphs, timing=timing, plans=plans, progress=progress)
        if obstacles[pairing] or pairing.device is Device.RTX:
            run = partial(_without_its_device, graphs=graphs, plans=plans, obstacle=obstacles[pairing])
        if _is_int8_on_cpu(pairing):
            candidate = _fastest_int8(pairing, graphs, run, tried.values())
        else:
            candidate = _try(pairing, partial(graphs.graph_for, pairing), run)
        progress(BuildStep(step, _outcome(candidate)))
        tried[pairing] = candidate
        return_freed_memory()
    return tuple(tried.values())


def _is_int8_on_cpu(pairing: Pairing) -> bool:
    return pairing.precision is Precision.INT8 and pairing.device is Device.CPU


def _fastest_int8(
    pairing: Pairing, graphs: GraphVariants, run: Callable[[Candidate], Candidate], others: Collection[Candidate]
) -> Candidate:
    """INT8 by the fastest of the methods that suit the target; `run` judges and times a candidate."""
    looks = 0

    def attempt(make: Callable[[], GraphFile], name: Method) -> Attempt:
        nonlocal looks
        candidate = _try(pairing, make, run)
        looks = max(looks, candidate.graph.look if candidate.graph is not None else 0)
        used = graphs.judges.use(candidate.accuracy) if candidate.accuracy is not None else math.inf
        return_freed_memory()
        return Attempt(name, candidate, used)

    def whole(method: Method) -> Attempt:
        tried = attempt(lambda: graphs.int8_whole(method, looks, stack), method)
        graph = tried.candidate.graph
        # Layers are ranked by what ONNX Runtime computes.
        if graph is None or (graph.accuracy is not None and graphs.judges.accepts(graph.accuracy)):
            return tried
        return replace(
            tried,
            with_some_kept=lambda share: attempt(lambda: graphs.int8_with_some_kept(method, looks, share), method),
        )

    measured = {c.pairing: c.speed.ratio for c in others if c.is_usable and c.speed and c.pairing.device is Device.CPU}
    fp32 = measured.get(replace(pairing, precision=Precision.FP32), 1.0)
    with ExitStack() as stack:
        methods, otherwise = ([partial(whole, name) for name in names] for names in graphs.int8_methods(pairing.target))
        return fastest_method(methods, otherwise, fastest=max(measured.values(), default=0.0), fp32=fp32)


def _try(pairing: Pairing, make: Callable[[], GraphFile], run: Callable[[Candidate], Candidate]) -> Candidate:
    """One candidate; whatever goes wrong with it is its result."""
    candidate = Candidate(pairing)
    try:
        candidate = replace(candidate, graph=make())
        return run(candidate)
    except RunFailed as error:
        reason = f"{pairing.target} does not run it: {runtime_sentence(str(error))}"
    except (ConversionFailed, EngineFailed, PlanFailed, VerificationFailed) as error:
        reason = str(error)
    except OSError:
        # A full disk is not the candidate's fault.
        raise
    except Exception as error:  # noqa: BLE001 - whatever a converter or an engine stumbles over, the others go on
        said = " ".join(str(error).split())[:200]
        reason = f"it could not be made: {type(error).__name__}: {said}"
    return replace(candidate, status=Status.FAILED, reason=reason)


def _without_its_device(
    candidate: Candidate, *, graphs: GraphVariants, plans: PlanSettings, obstacle: str
) -> Candidate:
    """Judged as a graph, and shown to NVIDIA's compiler where it is meant for TensorRT."""
    judged = _judged_as_graph(candidate, graphs, obstacle)
    if candidate.pairing.target in {Target.TENSORRT, Target.TENSORRT_RTX}:
        return _compiled(judged, plans)
    return judged


def _judged_and_timed(
    candidate: Candidate, *, graphs: GraphVariants, timing: Timing, plans: PlanSettings, progress: Progress
) -> Candidate:
    pairing, graph = candidate.pairing, candidate.graph
    assert graph is not None  # noqa: S101 - what has none is a result already
    runtime: Runtime
    if pairing.target is Target.TENSORRT:
        candidate, runtime = _with_plans(candidate, graph, graphs, plans, progress)
        if not candidate.is_usable:
            return candidate
    else:
        # Not loaded twice: all others are compared with it.
        is_reference = graph.path == timing.path and pairing == _FP32
        runtime = timing.reference if is_reference else load_runtime(pairing, graph.path, graphs.signature)
    candidate = replace(candidate, engine=runtime.description)
    if runtime is timing.reference:
        # It loses nothing against itself, which no number of rows has to prove.
        candidate = _at_no_loss(candidate, graphs.judges.final.accuracy)
    else:
        # ONNX Runtime has judged it on the CPU when it was made.
        same = pairing.target is Target.ONNXRUNTIME and pairing.device is Device.CPU
        known = graph.accuracy if same else None
        candidate = _within_budget(
            replace(candidate, accuracy=known or graphs.judges.final.judge(runtime, look=graph.look)), graphs
        )
    # How fast all of a graph is says how much of it may stay in FP32.
    if not candidate.is_usable and not _is_int8_on_cpu(pairing):
        return candidate
    workload = timing.workload
    rate = plan_rate(runtime, plans.profile, workload) if isinstance(runtime, PlanSession) else None
    answers = tuple(runtime.run(request) for request in workload.requests)
    speed = time_against(runtime, timing.reference_on(pairing.device), workload, rate=rate)
    changes_size = pairing.device is Device.GPU and isinstance(runtime, Session) and workload.is_batched
    is_batched = not changes_size or gains_by_batching(runtime, workload.middle)
    return replace(candidate, answers=answers, speed=speed, is_batched=is_batched)


def _with_plans(
    candidate: Candidate, graph: GraphFile, graphs: GraphVariants, plans: PlanSettings, progress: Progress
) -> tuple[Candidate, PlanSession]:
    """The candidate with its plans, and the session to time; plans of other GPUs are judged here, each on its own."""
    built = build_plans(graph, plans, progress)
    for session in built.others:
        candidate = _within_budget(
            replace(candidate, accuracy=graphs.judges.final.judge(session, look=graph.look)), graphs
        )
        if not candidate.is_usable:
            return replace(candidate, reason=f"{session.description}: {candidate.reason}"), built.session
    kept = replace(candidate, plans=built.by_capability, stripped_plans=built.stripped, profile=plans.profile)
    return kept, built.session


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


def _compiled(candidate: Candidate, plans: PlanSettings) -> Candidate:
    """The same after NVIDIA's compiler has taken the graph, where that is installed.

    Raises:
        EngineFailed: it refuses the graph, as TensorRT would on a machine with a GPU.
    """
    if candidate.status is not Status.UNMEASURED or candidate.graph is None or no_compiler_because():
        return candidate
    # A plan for TensorRT is built on the GPU that runs it: only the answer counts.
    pairing = candidate.pairing
    engine = compile_candidate(
        candidate.graph.path, pairing.precision, plans, keep=pairing.target is Target.TENSORRT_RTX
    )
    return replace(
        candidate, status=Status.COMPILED, compiled=engine, profile=engine.profile, reason=compiled_in_words(engine)
    )


def _within_budget(candidate: Candidate, graphs: GraphVariants) -> Candidate:
    if candidate.accuracy is None:
        return candidate
    budget, reference = graphs.judges.budget, graphs.judges.final.accuracy
    judged_by, drop = budget.worst(candidate.accuracy, reference)
    judged = replace(candidate, judged_by=judged_by, drop=drop)
    if not budget.accepts(candidate.accuracy, reference):
        why = budget.complaint(candidate.accuracy, reference)
        if candidate.graph is not None and candidate.graph.problem:
            why += f"; {candidate.graph.problem}"
        return replace(judged, status=Status.OUTSIDE_BUDGET, reason=why)
    return judged


def load_runtime(pairing: Pairing, path: Path, signature: Signature) -> Runtime:
    """A graph on ONNX Runtime or OpenVINO, as a pairing asks for it.

    Raises:
        RunFailed: it does not load.
    """
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
        f"{candidate.speed.ratio:.2f} of FP32{left}{'' if candidate.is_batched else ', faster without batches'}"
    )
