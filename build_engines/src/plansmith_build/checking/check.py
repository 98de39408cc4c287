"""`check`: a file made ready as a build would, and shown to each engine."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from plansmith_build.checking.answers import Answer, CheckReport, Verdict
from plansmith_build.checking.graphs import PrecisionGraphs
from plansmith_build.engines.onnxruntime import RunFailed, Session
from plansmith_build.engines.tensorrt import PlanOptions, find_token_range, parse_profile, profile_for
from plansmith_build.engines.tensorrt_rtx import EngineFailed
from plansmith_build.engines.tensorrt_rtx import unavailable_because as no_compiler_because
from plansmith_build.errors import VerificationFailed
from plansmith_build.portable.comparison import compare, worst
from plansmith_build.portable.portable_model import Batching, make_portable, node_count
from plansmith_build.portable.reference import run_reference
from plansmith_build.portable.repair import listed_weights
from plansmith_build.precision.errors import ConversionFailed
from plansmith_build.progress import BuildStep, silent
from plansmith_build.reading.graphs import standard_domain
from plansmith_build.reading.loading import load_onnx
from plansmith_build.reading.signatures import signature_of
from plansmith_build.repository.manifest import Tensor
from plansmith_build.search.candidates import load_runtime
from plansmith_build.search.plan_candidates import PlanSettings, compile_candidate, compiled_in_words
from plansmith_build.search.targets import Pairing, Precision, Target, obstacle_to, pairings

if TYPE_CHECKING:
    from plansmith_build.engines import Runtime
    from plansmith_build.portable.comparison import OutputComparison
    from plansmith_build.portable.portable_model import PortableModel
    from plansmith_build.portable.reference import Reference
    from plansmith_build.progress import Progress
    from plansmith_build.reading.loading import OnnxFile
    from plansmith_build.reading.signatures import Signature

__all__ = ["CheckOptions", "check"]


@dataclass(frozen=True)
class CheckOptions:
    """What to ask.

    Attributes:
        targets: the engines; empty for ONNX Runtime, OpenVINO and TensorRT.
        precisions: what to compute in; empty for what each engine may gain by.
        max_batch_size: the largest batch that would be served, 0 for none.
        plan: the optimization profile and the compute capabilities to compile for.
        seed: makes the random inputs repeatable.
    """

    targets: tuple[Target, ...] = ()
    precisions: tuple[Precision, ...] = ()
    max_batch_size: int = 32
    plan: PlanOptions = field(default_factory=PlanOptions)
    seed: int = 0


def check(model: Path | str, options: CheckOptions, progress: Progress = silent) -> CheckReport:
    """Show a file to each engine; nothing is kept.

    INT8 ranges come from random inputs: whether an engine takes the graph is found out, how accurate it is is not.

    Raises:
        InvalidModel: the file is no ONNX model, is damaged, or holds what ONNX Runtime or Triton cannot serve.
        InvalidOption: the profile does not fit.
        VerificationFailed: the model cannot be run.
        OSError: there is no room for temporary files.
    """
    file = load_onnx(Path(model))
    signature = signature_of(file.network.model, weights=listed_weights(file.network.model))
    step = "Running it on random inputs"
    progress(BuildStep(step))
    reference = run_reference(file, signature, seed=options.seed)
    progress(BuildStep(step, f"{len(reference.samples)} samples"))
    with tempfile.TemporaryDirectory(prefix="plansmith-check-") as folder:
        portable, _ = make_portable(
            file,
            reference,
            Path(folder),
            batching=Batching(options.max_batch_size > 0),
            optimized=True,
            progress=progress,
        )
        answers = _ask_all(portable, reference, options, Path(folder), progress)
    return _report(file, portable, options, answers)


def _ask_all(
    portable: PortableModel, reference: Reference, options: CheckOptions, folder: Path, progress: Progress
) -> tuple[Answer, ...]:
    signature = signature_of(portable.network.model)
    samples = reference.samples[: reference.single_samples]
    base = Session(portable.files[0], signature, optimized=True)
    graphs = PrecisionGraphs(portable.network, portable.files[0], samples, folder)
    profile = profile_for(
        signature,
        max_batch_size=options.max_batch_size if portable.batched else 0,
        observed={name: array.shape for name, array in samples[0].items()},
        tokens=find_token_range(signature, samples[0], base.run),
        given=parse_profile(options.plan.profile) if options.plan.profile else None,
    )
    settings = PlanSettings(profile, options.plan)
    answers = []
    asked = pairings(options.targets, options.precisions)
    for number, pairing in enumerate(asked, start=1):
        step = f"Asking {number} of {len(asked)}: {pairing}"
        progress(BuildStep(step, done=(number - 1) / len(asked)))
        answer = _ask(pairing, graphs, signature, settings, reference)
        progress(BuildStep(step, answer.said))
        answers.append(answer)
    return tuple(answers)


def _ask(
    pairing: Pairing, graphs: PrecisionGraphs, signature: Signature, settings: PlanSettings, reference: Reference
) -> Answer:
    def answer(verdict: Verdict, said: str) -> Answer:
        return Answer(pairing.target, pairing.device, pairing.precision, verdict, said)

    obstacle = no_compiler_because() if pairing.target.is_compiled else obstacle_to(pairing, signature)
    if obstacle:
        return answer(Verdict.UNKNOWN, obstacle)
    try:
        path = graphs.path_for(pairing)
        if pairing.target.is_compiled:
            engine = compile_candidate(path, pairing.precision, settings, keep=False)
            said = f"compiles, {compiled_in_words(engine)}"
            return replace(answer(Verdict.YES, said), seconds=engine.seconds, size=engine.size)
        started = time.monotonic()
        runtime = load_runtime(pairing, path, signature)
        seconds = time.monotonic() - started
        worst_output = _compared(runtime, reference)
    except (ConversionFailed, EngineFailed, RunFailed, VerificationFailed) as failure:
        return answer(Verdict.NO, str(failure))
    error = worst_output.max_relative_error
    if not math.isfinite(error):
        return answer(Verdict.NO, f"{runtime.description} gives other shapes, or overflows")
    found = answer(Verdict.YES, f"runs, {runtime.description}")
    if pairing.precision is Precision.FP32 and not worst_output.passed:
        found = answer(Verdict.NO, f"{runtime.description} computes something else than the file")
    return replace(found, relative_error=error, seconds=seconds)


def _compared(runtime: Runtime, reference: Reference) -> OutputComparison:
    """The output that is furthest from the original file's."""
    found = [
        worst(compare(expected, runtime.run(sample), ignore=reference.random_outputs))
        for sample, expected in zip(reference.samples, reference.answers, strict=True)
    ]
    return worst(tuple(found))


def _report(file: OnnxFile, portable: PortableModel, options: CheckOptions, answers: tuple[Answer, ...]) -> CheckReport:
    signature = signature_of(portable.network.model)
    opsets = [entry.version for entry in file.network.model.opset_import if not standard_domain(entry.domain)]
    batching = portable.batching_reason
    if portable.batched:
        batching = "the number of rows was fixed, and can be freed" if portable.made_dynamic else "as the file has it"
    return CheckReport(
        file=str(file.path),
        size=file.size,
        nodes=node_count(file.network.model),
        opset=max(opsets, default=0),
        inputs=tuple(str(Tensor.from_spec(spec)) for spec in signature.inputs),
        outputs=tuple(str(Tensor.from_spec(spec)) for spec in signature.outputs),
        max_batch_size=options.max_batch_size if portable.batched else 0,
        batching=batching,
        repairs=portable.repairs,
        answers=answers,
    )
