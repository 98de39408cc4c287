"""What a model must compute: the answers of the original file on random inputs."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Protocol

import numpy as np
import onnx
import onnxruntime

from plansmith_build.comparison import compare
from plansmith_build.errors import VerificationFailed
from plansmith_build.networks import attach
from plansmith_build.operators import explain_refusal
from plansmith_build.sampling import leading_rows, random_sample
from plansmith_build.sessions import Arrays, RunFailed, Session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from plansmith_build.loading import OnnxFile
    from plansmith_build.signatures import Signature

__all__ = ["Reference", "concatenate", "run_reference"]

SAMPLES = 3
# Sizes for the dimensions that may vary, tried in turn: a sequence, an image, and what is left.
_SIZES = (16, 64, 224, 1, 2, 4, 8, 32, 128, 256)
# Whole numbers are often indexes: any of these are valid ones into what has at least so many elements.
_INTEGERS_BELOW = (10, 2, 1)
_NEWEST_KNOWN_TO_RUNTIME = re.compile(r"Opset \d+ is under development|max supported IR version|is till opset")


@dataclass(frozen=True)
class Reference:
    """Random inputs, and what the original file answers.

    Attributes:
        engine: what ran it: `"ONNX Runtime 1.31.1 on the CPU, graph as written"`.
        samples: different inputs, each for one run. Where the first dimension varies, but does not hold independent
            rows, a last sample has several.
        answers: the outputs of each sample.
        rows: how many rows each sample holds, None where the inputs do not have rows in common.
        rows_independent: whether the original file itself was seen to answer several rows at once as it answers
            each alone.
        random_outputs: outputs that differ from run to run, whose values therefore say nothing.
        single_samples: how many of the samples, from the first, are of `rows` rows.
    """

    engine: str
    samples: tuple[Arrays, ...]
    answers: tuple[Arrays, ...]
    rows: int | None
    rows_independent: bool
    random_outputs: frozenset[str]
    single_samples: int = SAMPLES


class _Runner(Protocol):
    def run(self, inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> Arrays: ...


def concatenate(parts: Sequence[Arrays]) -> Arrays:
    """Join arrays along their first dimension, name by name."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def run_reference(file: OnnxFile, signature: Signature, *, seed: int) -> Reference:
    """Run the original file on random inputs.

    ONNX Runtime runs it exactly as it is written, its own optimisations off, so that a mistake of an optimiser cannot
    hide in both. Where the file's operator set is one that ONNX Runtime does not know, the reference implementation
    of the onnx package runs it.

    Args:
        file: the loaded file.
        signature: its inputs and outputs.
        seed: makes the inputs repeatable.

    Raises:
        InvalidModel: ONNX Runtime does not load the file.
        VerificationFailed: the model reports an error on all random inputs that were tried.
    """
    runner, engine = _runner(file, signature)
    samples, answers = _run_samples(runner, signature, seed)
    rows = leading_rows(signature)
    again = runner.run(samples[0])
    random_outputs = frozenset(name for name in again if not _same(again[name], answers[0][name]))

    independent = False
    if rows == -1:
        together = concatenate(samples)
        with contextlib.suppress(RunFailed):
            combined = runner.run(together)
            independent = rows_agree(answers, combined, random_outputs)
            if not independent:
                # The first dimension means something else: what it computes with more than one is worth checking.
                samples.append(together)
                answers.append(combined)
    return Reference(
        engine=engine,
        samples=tuple(samples),
        answers=tuple(answers),
        rows=1 if rows == -1 else rows,
        rows_independent=independent,
        random_outputs=random_outputs,
    )


def rows_agree(answers: Sequence[Arrays], together: Arrays, random_outputs: frozenset[str]) -> bool:
    """Whether an answer to all rows is the answers to its parts, one below the other."""
    if any(array.ndim == 0 for answer in answers for array in answer.values()):
        return False
    return all(result.passed for result in compare(concatenate(answers), together, ignore=random_outputs))


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
    """The specification itself, as onnx implements it: slow and patient."""

    def __init__(self, model: onnx.ModelProto) -> None:
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - for few models, and heavy

        self._evaluator = ReferenceEvaluator(model)

    def run(self, inputs: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> Arrays:
        try:
            outputs = self._evaluator.run(None, dict(inputs))
        except Exception as error:
            raise RunFailed(" ".join(str(error).split())) from error
        return dict(zip(self._evaluator.output_names, map(np.asarray, outputs), strict=True))


def _run_samples(runner: _Runner, signature: Signature, seed: int) -> tuple[list[Arrays], list[Arrays]]:
    """Different random inputs and the model's answers, of the first kind of inputs that the model takes."""
    varies = any(-1 in spec.shape for spec in signature.inputs)
    failure = ""
    for size, below in product(_SIZES if varies else _SIZES[:1], _INTEGERS_BELOW):
        rng = np.random.default_rng(seed)
        samples: list[Arrays] = []
        answers: list[Arrays] = []
        try:
            for number in range(SAMPLES):
                sample = random_sample(
                    signature, rows=1, size=size, with_optional=number % 2 == 1, integers_below=below, rng=rng
                )
                answers.append(runner.run(sample))
                samples.append(sample)
        except RunFailed as error:
            failure = failure or str(error)
        else:
            return samples, answers
    raise VerificationFailed(
        f"the model reports an error on every kind of random input that was tried, so it cannot be verified: {failure}"
    )


def _same(one: np.ndarray[Any, np.dtype[Any]], other: np.ndarray[Any, np.dtype[Any]]) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind in "fcV":
        return bool(np.array_equal(one.astype(np.float64), other.astype(np.float64), equal_nan=True))
    return bool(np.array_equal(one, other))
