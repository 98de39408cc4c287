"""The reference: the answers of the original file to random inputs."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import onnx
import onnxruntime

from plansmith_build.engines.onnxruntime import Arrays, RunFailed, Session
from plansmith_build.errors import InputsNeeded, VerificationFailed
from plansmith_build.portable.batch_obstacles import BatchAxis
from plansmith_build.portable.comparison import identical
from plansmith_build.portable.noise import noise_floor
from plansmith_build.portable.repair import repair
from plansmith_build.portable.rows import (
    NOT_OF_ONE_SHAPE,
    NOT_TOLD_APART,
    Evidence,
    alike,
    concatenate,
    evidence_of,
    obstacle_in_answers,
    obstacle_in_batches,
    told_apart,
    without_values,
)
from plansmith_build.portable.sampling import InputKind, input_kinds, leading_rows, random_sample
from plansmith_build.reading.networks import attach
from plansmith_build.reading.operators import explain_refusal
from plansmith_build.reading.value_kinds import integer_ranges

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from plansmith_build.reading.loading import OnnxFile
    from plansmith_build.reading.signatures import Signature

__all__ = ["Reference", "run_reference"]

SAMPLES = 3
# Detectors and other models with thresholds give no answer to values that are too small.
_MAGNITUDES = (1.0, 10.0, 100.0)
_NAN = {Evidence.WITHOUT_VALUES, Evidence.SOME_NAN}
_NEWEST_KNOWN_TO_RUNTIME = re.compile(r"Opset \d+ is under development|max supported IR version|is till opset")


@dataclass(frozen=True)
class Reference:
    """Inputs, and what the original file answers.

    Attributes:
        engine: what ran it: `"ONNX Runtime 1.31.1 on the CPU, graph as written"`.
        samples: different inputs, each for one run. Where the first dimension varies, but does not hold independent
            rows, last samples have several.
        answers: the outputs of each sample.
        rows: how many rows each sample holds, None where the inputs do not have rows in common.
        obstacle: why the original file itself does not answer several rows together as it answers each alone; empty
            where it does.
        random_outputs: outputs that differ from run to run, so their values cannot be compared.
        single_samples: how many of the samples, from the first, are of `rows` rows.
        inputs: "random", or "given" for the user's own.
        without_values: outputs that are empty, NaN or infinite in every answer, which verifies nothing.
        noise: the relative error to allow for each output by name, which is what rounding alone does; see
            `noise_floor`.
        shapes: the observed shapes of each output, those of several rows together included.
    """

    engine: str
    samples: tuple[Arrays, ...]
    answers: tuple[Arrays, ...]
    rows: int | None
    obstacle: str
    random_outputs: frozenset[str]
    single_samples: int = SAMPLES
    inputs: Literal["random", "given"] = "random"
    without_values: frozenset[str] = frozenset()
    noise: Mapping[str, float] = field(default_factory=dict)
    shapes: Mapping[str, frozenset[tuple[int, ...]]] = field(default_factory=dict)

    def with_vectors(self) -> Reference:
        """The same for a graph that takes and gives each single number as a vector of one."""
        return replace(
            self, samples=tuple(map(_with_vectors, self.samples)), answers=tuple(map(_with_vectors, self.answers))
        )


class _Runner(Protocol):
    def run(self, inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> Arrays: ...


def run_reference(
    file: OnnxFile,
    signature: Signature,
    *,
    seed: int,
    axis: BatchAxis = BatchAxis.AUTO,
    given: Sequence[Arrays] | None = None,
) -> Reference:
    """Run the original file on random inputs, or on the user's own.

    ONNX Runtime runs it exactly as it is written, its own optimisations off, so that a mistake of an optimiser cannot
    hide in both. Where the file's operator set is one that ONNX Runtime does not know, the reference implementation
    of the onnx package runs it.

    Args:
        file: the loaded file.
        signature: its inputs and outputs.
        seed: makes the inputs repeatable.
        axis: the batch dimension, if the user named it.
        given: the user's own inputs, each for one run; None for random ones.

    Raises:
        InvalidModel: ONNX Runtime does not load the file.
        InputsNeeded: the model reports an error for all random inputs that were tried.
        VerificationFailed: the model reports an error for one of the user's own inputs.
    """
    runner, engine = _runner(file, signature)
    rows = leading_rows(signature, axis)
    run = _run_random(runner, signature, file, seed, rows) if given is None else _run_given(runner, given)
    samples, answers = run.samples, run.answers
    if rows == -1:
        # It does not run on one row, so the first dimension was varied like any other: a sequence.
        rows = 1 if len(next(iter(samples[0].values()))) == 1 else None
    single_samples = len(samples)
    again = runner.run(samples[0])
    random_outputs = frozenset(name for name in again if not identical(again[name], answers[0][name]))
    noise = noise_floor(file, signature, runner.run, samples, answers)

    free = any(spec.shape[:1] == (-1,) for spec in signature.inputs)
    shapes = [*answers]
    obstacle = "the number of rows is fixed"
    if free and rows is None:
        obstacle = "the first dimension holds no rows"
        for kind in _longer(run.kind):
            with contextlib.suppress(RunFailed):
                sample = random_sample(signature, kind, with_optional=False, rng=np.random.default_rng(seed))
                answers.append(runner.run(sample))
                samples.append(sample)
                shapes.append(answers[-1])
    elif free:
        groups = alike(samples)
        together = concatenate([samples[index] for index in groups[0]])
        with contextlib.suppress(RunFailed):
            combined = runner.run(together)
            shapes.append(combined)
            obstacle = ""
            for group in groups:
                asked, given_alone = ([arrays[index] for index in group] for arrays in (samples, answers))
                obstacle = obstacle or obstacle_in_answers(given_alone, 1)
                obstacle = obstacle or obstacle_in_batches(
                    runner.run, asked, given_alone, ignore=random_outputs, noise=noise
                )
            if not obstacle and len(samples) > len(groups[0]) == 1:
                obstacle = NOT_OF_ONE_SHAPE
            if not obstacle and not told_apart([answers[index] for index in groups[0]]):
                obstacle = NOT_TOLD_APART
            if obstacle:
                # The first dimension means something else: what it computes with more than one is worth checking.
                samples.append(together)
                answers.append(combined)
    return Reference(
        engine=engine,
        samples=tuple(samples),
        answers=tuple(answers),
        rows=rows,
        obstacle=obstacle,
        random_outputs=random_outputs,
        single_samples=single_samples,
        inputs="random" if given is None else "given",
        without_values=without_values(answers),
        noise=noise,
        shapes={name: frozenset(answer[name].shape for answer in shapes) for name in answers[0]},
    )


def _with_vectors(arrays: Arrays) -> Arrays:
    return {name: np.atleast_1d(array) for name, array in arrays.items()}


def _runner(file: OnnxFile, signature: Signature) -> tuple[_Runner, str]:
    try:
        runner = Session(file.path, signature, optimized=False)
    except RunFailed as error:
        said = str(error)
        if not (_NEWEST_KNOWN_TO_RUNTIME.search(said) or _is_old(file.network.model)):
            raise explain_refusal(file.network.model, error) from error
    else:
        return runner, f"ONNX Runtime {onnxruntime.__version__} on the CPU, graph as written"
    network = repair(file.network).network
    try:
        session = Session(attach(network).SerializeToString(), signature, optimized=False)
    except RunFailed as error:
        raise explain_refusal(network.model, error) from error
    return (
        _OnnxEvaluator(attach(file.network), session),
        f"the reference implementation of onnx {onnx.__version__}",
    )


def _is_old(model: onnx.ModelProto) -> bool:
    # ONNX Runtime promises to run operator sets from 7 on.
    return any(opset.version < 7 for opset in model.opset_import if opset.domain in {"", "ai.onnx"})  # noqa: PLR2004


class _OnnxEvaluator:
    """The reference implementation of the onnx package: slow, but it runs every operator set.

    It also takes what operators do not define, as a division by 0; ONNX Runtime, with the model converted, refuses it.
    """

    def __init__(self, model: onnx.ModelProto, converted: Session) -> None:
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - for few models, and heavy

        self._evaluator = ReferenceEvaluator(model)
        self._converted = converted

    def run(self, inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> Arrays:
        self._converted.run(inputs)
        try:
            outputs = self._evaluator.run(None, dict(inputs))
        except Exception as error:
            raise RunFailed(" ".join(str(error).split())) from error
        return dict(zip(self._evaluator.output_names, map(np.asarray, outputs), strict=True))


@dataclass(frozen=True)
class _Run:
    """Inputs and the model's answers; `kind` is that of random inputs, None for the user's own."""

    samples: list[Arrays]
    answers: list[Arrays]
    kind: InputKind | None = None


def _run_random(runner: _Runner, signature: Signature, file: OnnxFile, seed: int, rows: int | None) -> _Run:
    """Different random inputs of the first kind whose answers verify most; see `Evidence`."""
    failure = ""
    best: tuple[Evidence, _Run] | None = None
    for kind in input_kinds(signature, rows, integer_ranges(file.network.model)):
        if best is not None and best[0] in _NAN and not _is_as_large(best[1].kind, kind):
            # Other values may give numbers, other sizes do not.
            continue
        try:
            for magnitude in _MAGNITUDES:
                run = _answers_to(runner, signature, kind, seed, magnitude)
                evidence = evidence_of(run.answers)
                if best is None or evidence > best[0]:
                    best = evidence, run
                if evidence in _NAN or evidence is Evidence.DIFFERENT:
                    break
        except RunFailed as error:
            failure = failure or str(error)
        if best is not None and best[0] >= Evidence.ALIKE:
            break
    if best is None:
        raise InputsNeeded(
            f"the model reports an error for every kind of random input that was tried ({failure.rstrip('.')}), so it "
            "cannot be verified: give inputs that it takes with --samples FILE, a .npz file with an array per input"
        )
    return best[1]


def _answers_to(runner: _Runner, signature: Signature, kind: InputKind, seed: int, magnitude: float) -> _Run:
    rng = np.random.default_rng(seed)
    run = _Run([], [], kind)
    for number in range(SAMPLES):
        try:
            sample = random_sample(signature, kind, with_optional=number % 2 == 1, rng=rng, magnitude=magnitude)
        except (ValueError, MemoryError) as error:
            raise RunFailed(f"no input of its shapes can be made here: {error}") from error
        run.answers.append(runner.run(sample))
        run.samples.append(sample)
    return run


def _longer(kind: InputKind | None) -> tuple[InputKind, ...]:
    return (replace(kind, size=kind.size + 1), replace(kind, size=2 * kind.size)) if kind is not None else ()


def _is_as_large(one: InputKind | None, other: InputKind) -> bool:
    return one is not None and (one.rows, one.size) == (other.rows, other.size)


def _run_given(runner: _Runner, samples: Sequence[Arrays]) -> _Run:
    """The user's own inputs.

    Raises:
        VerificationFailed: the model reports an error for one of them.
    """
    answers = []
    for number, sample in enumerate(samples):
        try:
            answers.append(runner.run(sample))
        except RunFailed as error:
            raise VerificationFailed(
                f"the model reports an error for sample {number} of your inputs: {error}"
            ) from error
    return _Run(list(samples), answers)
