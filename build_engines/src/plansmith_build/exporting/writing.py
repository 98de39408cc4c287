"""Write an exported file next to its destination, check it there and rename it into place: whole or not at all."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime

from plansmith_build.engines.onnxruntime import Arrays, RunFailed, Session
from plansmith_build.errors import InvalidModel, InvalidOption, PublishFailed, VerificationFailed
from plansmith_build.exporting.errors import ExportFailed
from plansmith_build.exporting.frameworks import versions_of
from plansmith_build.portable.comparison import compare, worst
from plansmith_build.reading.loading import load_onnx
from plansmith_build.reading.operators import runtime_sentence
from plansmith_build.reading.signatures import complete_output_shapes, signature_of
from plansmith_build.repository.staging import temporary_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from plansmith_build.portable.comparison import OutputComparison
    from plansmith_client.tensors import TensorSpec

__all__ = ["ExportResult", "Sample", "check_path", "export_file", "staged"]

Sample = tuple[Arrays, Arrays]
"""Inputs by name, and what the framework answers to them."""


@dataclass(frozen=True)
class ExportResult:
    """A model that was written as ONNX and computes what the framework computes.

    Attributes:
        path: the .onnx file.
        weights: the file next to it that holds the weights, None where they are in the .onnx file itself.
        inputs: what the model takes, -1 where a dimension may have any size.
        outputs: what it gives.
        opsets: operator set version by domain; the standard domain is `ai.onnx`.
        comparisons: for each output, the one of all samples that came out worst, all within their tolerance.
        samples: how many inputs the framework and ONNX Runtime were both run on.
        versions: of the framework, its exporter and ONNX Runtime, by package.
    """

    path: Path
    weights: Path | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opsets: Mapping[str, int]
    comparisons: tuple[OutputComparison, ...]
    samples: int
    versions: Mapping[str, str]

    @property
    def max_relative_error(self) -> float:
        """The greatest relative error of any output, as `plansmith_build.portable.comparison` measures it."""
        return max(comparison.max_relative_error for comparison in self.comparisons)


def check_path(path: Path | str) -> Path:
    """The path to write to.

    Raises:
        InvalidOption: it does not end in .onnx, is a folder, or its folder does not exist.
    """
    target = Path(path)
    if target.suffix.lower() != ".onnx":
        raise InvalidOption(f"the output {target} does not end in .onnx: name the file to write, such as model.onnx")
    if target.is_dir():
        raise InvalidOption(f"the output {target} is a folder: name the file to write")
    if not target.parent.is_dir():
        raise InvalidOption(f"the folder {target.parent} of the output does not exist: make it first")
    return target


@contextlib.contextmanager
def staged(target: Path) -> Iterator[Path]:
    """A path of the same name in a folder of its own on the same file system, gone afterwards.

    Raises:
        PublishFailed: the system does not let one be made, or files be written in it.
    """
    try:
        with temporary_folder(target) as folder:
            yield folder / target.name
    except OSError as error:
        raise PublishFailed(f"cannot write {target}: {error.strerror or error}; write to another folder") from error


def export_file(
    made: Path, target: Path, samples: Sequence[Sample], *, packages: Sequence[str], names: str = "the framework"
) -> ExportResult:
    """Check a staged file against the framework's answers and put it in its place.

    Args:
        made: the staged file, with its weights next to it if they are too large for it.
        target: where it belongs; what is there is replaced.
        samples: inputs and the framework's answers.
        packages: those whose versions the result names.
        names: what answered the samples, in words.

    Raises:
        ExportFailed: the file is not a model that can be built from.
        VerificationFailed: ONNX Runtime does not run it, or it computes something else.
    """
    try:
        file = load_onnx(made)
        model = file.network.model
        if samples:
            complete_output_shapes(model, {name: array.ndim for name, array in samples[0][1].items()})
        signature = signature_of(model)
    except InvalidModel as error:
        said = str(error).replace(str(made), target.name)
        raise ExportFailed(f"the exporter wrote a model that cannot be used: {said}") from error
    found: dict[str, list[OutputComparison]] = {}
    try:
        session = Session(made, signature, optimized=True)
        for inputs, answers in samples:
            for comparison in compare(answers, session.run(inputs)):
                if not comparison.passed:
                    raise VerificationFailed(_in_words(comparison, names))
                found.setdefault(comparison.name, []).append(comparison)
    except RunFailed as error:
        raise VerificationFailed(
            f"ONNX Runtime does not run what was exported: {runtime_sentence(str(error))}"
        ) from error
    weights = _publish(made, target)
    return ExportResult(
        path=target,
        weights=weights,
        inputs=signature.inputs,
        outputs=signature.outputs,
        opsets={opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        comparisons=tuple(worst(tuple(comparisons)) for comparisons in found.values()),
        samples=len(samples),
        versions=versions_of(*packages) | {"onnxruntime": onnxruntime.__version__},
    )


def _publish(made: Path, target: Path) -> Path | None:
    beside = [path for path in made.parent.iterdir() if path != made]
    for path in (made, *beside):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if beside:
        # An old model must never be seen with new weights.
        target.unlink(missing_ok=True)
    for path in beside:
        path.replace(target.parent / path.name)
    made.replace(target)
    return target.parent / beside[0].name if beside else None


def _in_words(comparison: OutputComparison, names: str) -> str:
    if comparison.max_absolute_error == float("inf"):
        return (
            f"output {comparison.name!r} has another shape or type than {names} gives, "
            f"or no number where {names} gives one; nothing was written"
        )
    return (
        f"output {comparison.name!r} is off by {comparison.max_relative_error:.2g} relative to {names}, "
        f"where {comparison.tolerance:g} is allowed; nothing was written"
    )
