"""The reference: the answers of the original file to random inputs."""

from __future__ import annotations

import contextlib
import itertools
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import onnx
import onnxruntime

from plansmith_build.engines.onnxruntime import Arrays, RunFailed, Session
from plansmith_build.errors import VerificationFailed
from plansmith_build.portable.batch_obstacles import BatchAxis, dynamic_quantization
from plansmith_build.portable.comparison import compare
from plansmith_build.portable.rows import (
    NOT_TOLD_APART,
    concatenate,
    informative,
    obstacle_in_answers,
    obstacle_in_batches,
    told_apart,
)
from plansmith_build.portable.sampling import leading_rows, random_sample
from plansmith_build.reading.networks import attach
from plansmith_build.reading.operators import explain_refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from plansmith_build.reading.loading import OnnxFile
    from plansmith_build.reading.signatures import Signature

__all__ = ["Reference", "run_reference"]

SAMPLES = 3
# Sizes for dimensions that vary, tried in turn: a sequence, images, then others.
_SIZES: tuple[int, ...] = (16, 64, 224, 1, 2, 4, 8, 32, 128, 256)
# Sound has more; tried where an input has no more than one such dimension, so that memory does not matter.
_LONG_SIZES: tuple[int, ...] = (512, 1024, 4096, 16000)
# Detectors and other models with thresholds give no answer to values that are too small.
_MAGNITUDES = (1.0, 10.0, 100.0)
# An answer that is quantized on the way jumps by about this much where a value rounds the other way. Where ONNX
# Runtime with and without its optimisations differs by more than the largest of these, one of the two is wrong.
_QUANTIZATION_STEP = 0.01
_LARGEST_NOISE = 0.25
# Whole numbers are often indexes, valid where they stay below the number of elements.
_INTEGERS_BELOW = (10, 2, 1)
_NEWEST_KNOWN_TO_RUNTIME = re.compile(r"Opset \d+ is under development|max supported IR version|is till opset")


@dataclass(frozen=True)
class Reference:
    """Random inputs, and what the original file answers.

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
        noise: the relative error to allow for each output by name, where the file quantizes on the way and its
            answers are no more exact than that.
        shapes: the observed shapes of each output, those of several rows together included.
    """

    engine: str
    samples: tuple[Arrays, ...]
    answers: tuple[Arrays, ...]
    rows: int | None
    obstacle: str
    random_outputs: frozenset[str]
    single_samples: int = SAMPLES
    noise: Mapping[str, float] = field(default_factory=dict)
    shapes: Mapping[str, frozenset[tuple[int, ...]]] = field(default_factory=dict)

    def with_vectors(self) -> Reference:
        """The same for a graph that takes and gives each single number as a vector of one."""
        return replace(
            self, samples=tuple(map(_with_vectors, self.samples)), answers=tuple(map(_with_vectors, self.answers))
        )


class _Runner(Protocol):
    def run(self, inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> Arrays: ...


def run_reference(file: OnnxFile, signature: Signature, *, seed: int, axis: BatchAxis = BatchAxis.AUTO) -> Reference:
    """Run the original file on random inputs.

    ONNX Runtime runs it exactly as it is written, its own optimisations off, so that a mistake of an optimiser cannot
    hide in both. Where the file's operator set is one that ONNX Runtime does not know, the reference implementation
    of the onnx package runs it.

    Args:
        file: the loaded file.
        signature: its inputs and outputs.
        seed: makes the inputs repeatable.
        axis: the batch dimension, if the user named it.

    Raises:
        InvalidModel: ONNX Runtime does not load the file.
        VerificationFailed: the model reports an error on all random inputs that were tried.
    """
    runner, engine = _runner(file, signature)
    rows = leading_rows(signature, axis)
    samples, answers, kind = _run_samples(runner, signature, seed, rows)
    if rows == -1:
        # It does not run on one row, so the first dimension was varied like any other: a sequence.
        rows = 1 if len(next(iter(samples[0].values()))) == 1 else None
    again = runner.run(samples[0])
    random_outputs = frozenset(name for name in again if not _same(again[name], answers[0][name]))
    noise = _noise(file, signature, samples, answers)

    free = any(spec.shape[:1] == (-1,) for spec in signature.inputs)
    shapes = [*answers]
    obstacle = "the number of rows is fixed"
    if free and rows is None:
        obstacle = "the first dimension holds no rows"
        for longer in (kind.size + 1, 2 * kind.size):
            with contextlib.suppress(RunFailed):
                sample = random_sample(
                    signature,
                    rows=None,
                    size=longer,
                    with_optional=False,
                    integers_below=kind.integers_below,
                    rng=np.random.default_rng(seed),
                )
                answers.append(runner.run(sample))
                samples.append(sample)
                shapes.append(answers[-1])
    elif free:
        together = concatenate(samples)
        with contextlib.suppress(RunFailed):
            combined = runner.run(together)
            shapes.append(combined)
            obstacle = obstacle_in_answers(answers, 1) or obstacle_in_batches(
                runner.run, samples, answers, ignore=random_outputs, noise=noise
            )
            if not obstacle and not told_apart(answers):
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
        noise=noise,
        shapes={name: frozenset(answer[name].shape for answer in shapes) for name in answers[0]},
    )


def _noise(
    file: OnnxFile, signature: Signature, samples: Sequence[Arrays], answers: Sequence[Arrays]
) -> dict[str, float]:
    """How far the answers of a graph that quantizes with scales of its own move by rounding alone, by output."""
    if not dynamic_quantization(file.network.model):
        return {}
    noise = dict.fromkeys(answers[0], _QUANTIZATION_STEP)
    with contextlib.suppress(RunFailed):
        optimized = Session(file.path, signature, optimized=True)
        for sample, answer in zip(samples, answers, strict=True):
            for result in compare(answer, optimized.run(sample)):
                noise[result.name] = max(noise[result.name], 2 * result.max_relative_error)
    return {name: found if found <= _LARGEST_NOISE else 0.0 for name, found in noise.items()}


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
    return _OnnxEvaluator(attach(file.network)), f"the reference implementation of onnx {onnx.__version__}"


def _is_old(model: onnx.ModelProto) -> bool:
    # ONNX Runtime promises to run operator sets from 7 on.
    return any(opset.version < 7 for opset in model.opset_import if opset.domain in {"", "ai.onnx"})  # noqa: PLR2004


class _OnnxEvaluator:
    """The reference implementation of the onnx package: slow, but it runs every operator set."""

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - for few models, and heavy

        self._evaluator = ReferenceEvaluator(model)

    def run(self, inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> Arrays:
        try:
            outputs = self._evaluator.run(None, dict(inputs))
        except Exception as error:
            raise RunFailed(" ".join(str(error).split())) from error
        return dict(zip(self._evaluator.output_names, map(np.asarray, outputs), strict=True))


def _run_samples(
    runner: _Runner, signature: Signature, seed: int, rows: int | None
) -> tuple[list[Arrays], list[Arrays], _Kind]:
    """Different random inputs, the model's answers and the kind of the inputs.

    It is the first kind that the model takes and answers with something, and differently; where there is none, the
    first that it takes.
    """
    failure = ""
    first: tuple[list[Arrays], list[Arrays], _Kind] | None = None
    for kind in _kinds(signature, rows):
        for magnitude in _MAGNITUDES:
            rng = np.random.default_rng(seed)
            samples: list[Arrays] = []
            answers: list[Arrays] = []
            try:
                for number in range(SAMPLES):
                    sample = random_sample(
                        signature,
                        rows=kind.rows,
                        size=kind.size,
                        with_optional=number % 2 == 1,
                        integers_below=kind.integers_below,
                        rng=rng,
                        magnitude=magnitude,
                    )
                    answers.append(runner.run(sample))
                    samples.append(sample)
            except RunFailed as error:
                failure = failure or str(error)
                break
            if informative(answers):
                return samples, answers, kind
            first = first or (samples, answers, kind)
        if first is not None and all(array.size for answer in first[1] for array in answer.values()):
            break
    if first is not None:
        return first
    raise VerificationFailed(
        f"the model reports an error for every kind of random input that was tried, so it cannot be verified: {failure}"
    )


class _Kind(NamedTuple):
    """A kind of random inputs; see `random_sample`."""

    rows: int | None
    size: int
    integers_below: int


def _kinds(signature: Signature, rows: int | None) -> Iterator[_Kind]:
    """What to try, in turn: as rows where the inputs may hold some, then as inputs of any size."""
    varies = any(-1 in spec.shape for spec in signature.inputs)
    sizes = _SIZES if varies else _SIZES[:1]
    integers = any(spec.numpy_dtype.kind in "iu" for spec in signature.inputs)
    below = _INTEGERS_BELOW if integers else _INTEGERS_BELOW[:1]
    if rows == -1:
        yield from itertools.starmap(_Kind, itertools.product((1,), sizes, below))
    if varies and all(spec.shape.count(-1) <= 1 for spec in signature.inputs):
        sizes += _LONG_SIZES
    yield from itertools.starmap(_Kind, itertools.product((None,), sizes, below))


def _same(one: np.ndarray[Any, np.dtype[Any]], other: np.ndarray[Any, np.dtype[Any]]) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind in "fcV":
        return bool(np.array_equal(one.astype(np.float64), other.astype(np.float64), equal_nan=True))
    return bool(np.array_equal(one, other))
