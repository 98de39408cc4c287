"""From a loaded file to the portable model: each change to the graph is kept only if it is verified."""

from __future__ import annotations

import shutil
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import TYPE_CHECKING

from plansmith_build.errors import VerificationFailed
from plansmith_build.portable.batch_obstacles import BatchAxis, obstacle_in_graph, obstacle_in_inputs, outputs_with_rows
from plansmith_build.portable.batching import make_batch_dynamic, name_rows
from plansmith_build.portable.optimization import OptimizationFailed, obstacle_to_optimization, optimize
from plansmith_build.portable.repair import repair
from plansmith_build.portable.rows import NOT_TOLD_APART
from plansmith_build.portable.scalars import vectors_for_scalars
from plansmith_build.portable.verification import Verified, verify
from plansmith_build.progress import BuildStep, plural
from plansmith_build.reading.graphs import nodes_of
from plansmith_build.reading.networks import Network, write_network
from plansmith_build.reading.signatures import complete_output_shapes, correct_output_shapes, signature_of

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from plansmith_build.portable.reference import Reference
    from plansmith_build.progress import Progress
    from plansmith_build.reading.loading import OnnxFile
    from plansmith_build.reading.signatures import Signature

__all__ = ["Batching", "PortableModel", "make_portable", "node_count", "without_batches"]

MODEL = "model.onnx"


# Folders of the graphs that are tried: with a free first dimension, optimised, and neither.
_FOLDERS = ("batched", "optimized", "repaired")


@dataclass(frozen=True)
class Batching:
    """Which batches the user wants.

    Attributes:
        wanted: whether the model may take batches at all.
        axis: the batch dimension.
        dynamic: whether a fixed batch size may be changed into any batch size.
    """

    wanted: bool = True
    axis: BatchAxis = BatchAxis.AUTO
    dynamic: bool = True


@dataclass(frozen=True)
class PortableModel:
    """A graph on its way to a version.

    Attributes:
        network: the graph and its weights.
        repairs: what was repaired, a sentence each.
        batched: whether the first dimension is a batch dimension of any size.
        made_dynamic: whether the build freed it.
        reshapes_rewritten: how many Reshape nodes were changed for it.
        batching_reason: why it takes no batches, empty where it does.
        optimized: whether the optimiser's graph is used.
        optimization: the optimiser and its version, or why it was not used.
        repaired: the same before it was made to take batches, where it does.
        files: the model file and its data file, where it was written.
        verified: how it compares to the original, where it was verified.
    """

    network: Network
    repairs: tuple[str, ...] = ()
    batched: bool = False
    made_dynamic: bool = False
    reshapes_rewritten: int = 0
    batching_reason: str = ""
    optimized: bool = False
    optimization: str = ""
    repaired: PortableModel | None = None
    files: tuple[Path, ...] = ()
    verified: Verified | None = None


def make_portable(
    file: OnnxFile,
    reference: Reference,
    folder: Path,
    *,
    batching: Batching,
    optimized: bool,
    progress: Progress,
) -> tuple[PortableModel, Verified]:
    """Repair, free the batch dimension and optimise; each change is kept only if the answers stay the original's.

    Returns:
        A candidate that is written, and how it compares to the original.

    Raises:
        InvalidModel: the graph cannot be repaired.
        VerificationFailed: even the repaired graph does not compute what the original computes.
        OSError: a candidate could not be written.
    """
    repaired = _repaired(file, reference, progress)
    candidate = _batched(repaired, reference, folder, batching, progress)
    if candidate.batched:
        try:
            return _finished(candidate, reference, folder, optimized=optimized, progress=progress)
        except VerificationFailed as error:
            # Perhaps only the batch is wrong: the model is then published without one.
            progress(BuildStep("Looking for a batch dimension", f"none: {error}"))
            candidate = replace(repaired, batching_reason=str(error))
            for made in _FOLDERS:
                _remove(folder / made)
    return without_batches(candidate, reference, folder, optimized=optimized, progress=progress)


def without_batches(
    candidate: PortableModel, reference: Reference, folder: Path, *, optimized: bool, progress: Progress
) -> tuple[PortableModel, Verified]:
    """A model that takes no batches, its single numbers made vectors of one; see `make_portable`.

    Raises:
        VerificationFailed: it does not compute what the original computes.
        OSError: a candidate could not be written.
    """
    model, repairs = vectors_for_scalars(candidate.network.model)
    if repairs:
        candidate = replace(
            candidate, network=candidate.network.with_model(model), repairs=(*candidate.repairs, *repairs)
        )
        reference = reference.with_vectors()
    return _finished(candidate, reference, folder, optimized=optimized, progress=progress)


def _finished(
    candidate: PortableModel, reference: Reference, folder: Path, *, optimized: bool, progress: Progress
) -> tuple[PortableModel, Verified]:
    candidate = _optimized(candidate, reference, folder, wanted=optimized, progress=progress)
    if candidate.verified is not None:
        return candidate, candidate.verified
    step = "Verifying against the original"
    progress(BuildStep(step))
    candidate, verified = _write_and_verify(candidate, reference, folder / "repaired")
    progress(BuildStep(step, _agreement(verified)))
    return candidate, verified


def node_count(model: onnx.ModelProto) -> int:
    """All nodes, those inside branches, bodies and functions as well."""
    return sum(1 for _ in nodes_of(model))


def _repaired(file: OnnxFile, reference: Reference, progress: Progress) -> PortableModel:
    step = "Repairing the graph"
    progress(BuildStep(step))
    repaired = repair(file.network)
    repairs = list(repaired.repairs)
    completed = complete_output_shapes(
        repaired.network.model, {name: array.ndim for name, array in reference.answers[0].items()}
    )
    if completed:
        repairs.append(f"declared the shape of {', '.join(completed)} as observed")
    repairs += correct_output_shapes(repaired.network.model, reference.shapes)
    progress(BuildStep(step, ", ".join(repairs) or "nothing to repair"))
    return PortableModel(repaired.network, repairs=tuple(repairs))


def _batched(
    candidate: PortableModel, reference: Reference, folder: Path, batching: Batching, progress: Progress
) -> PortableModel:
    step = "Looking for a batch dimension"
    progress(BuildStep(step))
    signature = signature_of(candidate.network.model)
    obstacle = _obstacle_before_running(candidate, signature, reference, batching)
    if obstacle or reference.rows is None:
        return _unbatched(candidate, obstacle, step, progress)
    # Networks with constant weights answer every input alike: then the definitions of the operators decide.
    certain = len(outputs_with_rows(candidate.network.model)) == len(signature.outputs)
    if not reference.obstacle or (reference.obstacle == NOT_TOLD_APART and certain):
        progress(BuildStep(step, "any number of rows, each answered as if it were alone"))
        named = deepcopy(candidate.network.model)
        name_rows(named)
        return replace(candidate, network=candidate.network.with_model(named), batched=True, repaired=candidate)
    model, rewritten = make_batch_dynamic(candidate.network.model, rows=reference.rows)
    if not rewritten and signature.inputs[0].shape[0] < 0:
        return _unbatched(candidate, reference.obstacle, step, progress)
    network = candidate.network.with_model(model)
    proposal = replace(
        candidate,
        network=network,
        batched=True,
        made_dynamic=True,
        reshapes_rewritten=rewritten,
        repaired=candidate,
    )
    try:
        proposal, _ = _write_and_verify(proposal, reference, folder / "batched")
    except VerificationFailed as error:
        _remove(folder / "batched")
        return _unbatched(candidate, f"with a free first dimension: {error}", step, progress)
    changed = f", {rewritten} Reshape node{plural(rewritten)} rewritten" if rewritten else ""
    progress(BuildStep(step, f"{reference.rows} row{plural(reference.rows)} -> any number{changed}"))
    return proposal


def _obstacle_before_running(
    candidate: PortableModel, signature: Signature, reference: Reference, batching: Batching
) -> str:
    if not batching.wanted:
        return "--max-batch-size 0 asks for none"
    obstacle = obstacle_in_inputs(signature, batching.axis) or obstacle_in_graph(
        candidate.network.model, signature, batching.axis
    )
    if not obstacle and reference.rows is None:
        return "the model does not run on inputs of one row"
    if not obstacle and reference.obstacle and not batching.dynamic:
        return "--no-dynamic-batch keeps the number of rows as it is"
    return obstacle


def _optimized(
    candidate: PortableModel, reference: Reference, folder: Path, *, wanted: bool, progress: Progress
) -> PortableModel:
    step = "Optimising the graph"
    progress(BuildStep(step))
    reason = obstacle_to_optimization(candidate.network) if wanted else "--no-optimize was given"
    if not reason:
        try:
            proposal = replace(
                candidate,
                network=optimize(candidate.network),
                optimized=True,
                optimization=f"onnxslim {version('onnxslim')}",
            )
            proposal, verified = _write_and_verify(proposal, reference, folder / "optimized")
        except (OptimizationFailed, VerificationFailed) as error:
            reason = str(error)
            _remove(folder / "optimized")
        else:
            before, after = node_count(candidate.network.model), node_count(proposal.network.model)
            progress(BuildStep(step, f"{before} -> {after} nodes; {_agreement(verified)}"))
            return proposal
    progress(BuildStep(step, f"left as it is: {reason}"))
    return replace(candidate, optimization=f"not used: {reason}")


def _unbatched(candidate: PortableModel, reason: str, step: str, progress: Progress) -> PortableModel:
    progress(BuildStep(step, f"none: {reason}"))
    return replace(candidate, batching_reason=reason)


def _write_and_verify(candidate: PortableModel, reference: Reference, folder: Path) -> tuple[PortableModel, Verified]:
    folder.mkdir()
    files = write_network(candidate.network, folder / MODEL)
    verified = verify(files[0], reference, signature_of(candidate.network.model), batched=candidate.batched)
    return replace(candidate, files=files, verified=verified), verified


def _agreement(verified: Verified) -> str:
    if not verified.worst.values_compared:
        return "random values, shapes compared"
    return f"relative error at most {verified.worst.max_relative_error:.1g}"


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
