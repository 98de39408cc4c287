"""Whether a file computes what the original computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnxruntime

from plansmith_build.engines.onnxruntime import Arrays, RunFailed, Session
from plansmith_build.errors import VerificationFailed
from plansmith_build.portable.comparison import OutputComparison, compare, worst
from plansmith_build.portable.rows import NOT_OF_ONE_SHAPE, alike, batches_of, obstacle_in_answers
from plansmith_build.progress import plural
from plansmith_build.reading.operators import runtime_sentence

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from plansmith_build.portable.reference import Reference
    from plansmith_build.reading.signatures import Signature

__all__ = ["Verified", "verify"]


@dataclass(frozen=True)
class Verified:
    """A file that computes what its source computes.

    Attributes:
        engine: what ran the file.
        samples: how many different inputs were run.
        rows_together: how many rows were also run as one batch and compared row by row, 0 if none.
        outputs: the worst comparison of each output, all within tolerance.
    """

    engine: str
    samples: int
    rows_together: int
    outputs: tuple[OutputComparison, ...]

    @property
    def worst(self) -> OutputComparison:
        """The output that is furthest from its reference."""
        return worst(self.outputs)


def verify(path: Path, reference: Reference, signature: Signature, *, batched: bool) -> Verified:
    """Run a file on the reference's inputs, as a server would, and compare.

    Args:
        path: the ONNX file.
        reference: the original's inputs and answers.
        signature: the inputs and outputs of the file.
        batched: whether the file must take any number of rows: one alone, and all of the reference's as one batch, in
            which each row must get the answer that it gets in the original. Otherwise each sample is run as it is.

    Raises:
        VerificationFailed: it cannot be loaded or run, or an output differs by more than its tolerance.
    """
    try:
        session = Session(path, signature, optimized=True)
    except RunFailed as error:
        raise VerificationFailed(f"ONNX Runtime does not load the result: {runtime_sentence(str(error))}") from error
    pairs = list(_rows(reference) if batched else zip(reference.samples, reference.answers, strict=True))
    found: dict[str, list[OutputComparison]] = {}
    for sample, answer in pairs:
        subject = _row_prefix(sample) if batched else ""
        try:
            given = session.run(sample)
        except RunFailed as error:
            raise VerificationFailed(f"{subject}the result does not run: {error}") from error
        for comparison in compare(answer, given, ignore=reference.random_outputs, noise=reference.noise):
            if not comparison.passed:
                raise VerificationFailed(f"{subject}{comparison.complaint()}")
            found.setdefault(comparison.name, []).append(comparison)
    return Verified(
        engine=f"ONNX Runtime {onnxruntime.__version__} on the CPU",
        samples=len(reference.samples),
        rows_together=max(_row_count(sample) for sample, _ in pairs) if batched else 0,
        outputs=tuple(worst(tuple(comparisons)) for comparisons in found.values()),
    )


def _rows(reference: Reference) -> Iterator[tuple[Arrays, Arrays]]:
    """Several rows together, and the first one alone."""
    answers = reference.answers[: reference.single_samples]
    samples = reference.samples[: reference.single_samples]
    groups = alike(samples)
    obstacles = [obstacle_in_answers([answers[index] for index in group], reference.rows or 1) for group in groups]
    obstacle = next(filter(None, obstacles), NOT_OF_ONE_SHAPE if len(samples) > len(groups[0]) == 1 else "")
    if obstacle:
        raise VerificationFailed(obstacle)
    yield from batches_of(samples, answers)
    yield _first_row(samples[0]), _first_row(answers[0])


def _first_row(arrays: Arrays) -> Arrays:
    return {name: array[:1] for name, array in arrays.items()}


def _row_count(sample: Arrays) -> int:
    return len(next(iter(sample.values())))


def _row_prefix(sample: Arrays) -> str:
    count = _row_count(sample)
    return f"with {count} row{plural(count)} "
