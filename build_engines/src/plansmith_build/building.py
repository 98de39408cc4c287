"""`build`: from an ONNX file to a published version."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from plansmith_build.candidates import make_candidate, node_count
from plansmith_build.config import model_config, text_from_config
from plansmith_build.errors import InvalidOption
from plansmith_build.filesystem import explain_os_error
from plansmith_build.graphs import tensors_of
from plansmith_build.labels import class_outputs, read_labels
from plansmith_build.loading import load_onnx
from plansmith_build.manifest import (
    Batching,
    Graph,
    Manifest,
    OutputError,
    PublishedFile,
    Source,
    Tensor,
    Verification,
    this_environment,
)
from plansmith_build.progress import BuildStep, silent
from plansmith_build.publishing import Release, publish
from plansmith_build.reference import run_reference
from plansmith_build.repair import listed_weights
from plansmith_build.repository import ModelRepository, name_from_file, valid_name
from plansmith_build.signatures import signature_of
from plansmith_build.staging import staging_folder

if TYPE_CHECKING:
    from plansmith_build.candidates import Candidate
    from plansmith_build.loading import OnnxFile
    from plansmith_build.progress import Progress
    from plansmith_build.reference import Reference
    from plansmith_build.verification import Verified

__all__ = ["BuildOptions", "BuildResult", "build"]

MAX_BATCH_SIZE = 32


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    Attributes:
        repository: the model repository to publish into; made if need be.
        name: the model's name; by default made from the file's.
        labels: a text file with one class name a line; by default the model's labels.txt stays as it is.
        max_batch_size: the largest batch that the server may make, where the graph allows batches; 0 for none.
        optimize: whether the graph may be optimised.
        dynamic_batch: whether a fixed number of rows may be made any number.
        seed: makes the random inputs of the verification repeatable.
        staging: the folder to stage in, by default the repository's parent. It must be outside the repository and
            on the same file system.
    """

    repository: Path
    name: str | None = None
    labels: Path | None = None
    max_batch_size: int = MAX_BATCH_SIZE
    optimize: bool = True
    dynamic_batch: bool = True
    seed: int = 0
    staging: Path | None = None


@dataclass(frozen=True)
class BuildResult:
    """A version that was published.

    Attributes:
        name: the model's name.
        version: the version's number.
        path: the version's folder.
        manifest: everything about it; the same is in `path / "manifest.json"`.
        notes: sentences about what was found in the repository and kept.
    """

    name: str
    version: int
    path: Path
    manifest: Manifest
    notes: tuple[str, ...] = ()


def build(model: Path | str, options: BuildOptions, progress: Progress = silent) -> BuildResult:
    """Build a verified version from an ONNX file and publish it.

    Args:
        model: the ONNX file.
        options: how.
        progress: called when a step begins and when it ends.

    Raises:
        InvalidModel: the file is no ONNX model, is damaged, or holds what ONNX Runtime or Triton cannot serve.
        InvalidOption: an option cannot be used.
        VerificationFailed: the model cannot be run, or the result does not compute what the file computes.
        PublishFailed: the disk, its permissions or its file system did not let the version be written.
    """
    path = Path(model)
    repository = ModelRepository.at(options.repository)
    name = valid_name(options.name) if options.name is not None else name_from_file(path)
    if not 0 <= options.max_batch_size < 2**31:
        raise InvalidOption(f"a batch of {options.max_batch_size} cannot be: give a number from 0 (no batches) up")
    labels = read_labels(options.labels) if options.labels is not None else None

    step = f"Reading {path}"
    progress(BuildStep(step))
    file = load_onnx(path)
    source, nodes = _source(file), node_count(file.network.model)
    signature = signature_of(file.network.model, weights=listed_weights(file.network.model))
    progress(BuildStep(step, f"{nodes} nodes, {file.size / 1e6:,.1f} MB"))

    step = "Running the original on random inputs"
    progress(BuildStep(step))
    reference = run_reference(file, signature, seed=options.seed)
    progress(BuildStep(step, f"{len(reference.samples)} samples"))

    with staging_folder(repository.path, options.staging) as staging:
        try:
            candidate, verified = make_candidate(
                file,
                reference,
                staging,
                batch=options.max_batch_size > 0,
                dynamic_batch=options.dynamic_batch,
                optimized=options.optimize,
                progress=progress,
            )
        except OSError as error:
            raise explain_os_error(error, f"write the new version in {staging.parent}") from error
        del file
        step = f"Publishing in {options.repository}"
        progress(BuildStep(step))
        release = _release(
            name,
            source=source,
            nodes=nodes,
            candidate=candidate,
            verified=verified,
            reference=reference,
            labels=labels,
            options=options,
        )
        published = publish(repository, name, release, staging=staging)
        progress(BuildStep(step, f"{name} version {published.version}"))
    return BuildResult(name, published.version, published.path, published.manifest, published.notes)


def _release(
    name: str,
    *,
    source: Source,
    nodes: int,
    candidate: Candidate,
    verified: Verified,
    reference: Reference,
    labels: bytes | None,
    options: BuildOptions,
) -> Release:
    signature = signature_of(candidate.network.model)
    max_batch_size = options.max_batch_size if candidate.batched else 0
    if labels is not None and not class_outputs(labels, reference.answers[0], batched=candidate.batched):
        counts = ", ".join(f"{key} {list(array.shape)}" for key, array in reference.answers[0].items())
        raise InvalidOption(
            f"the labels {options.labels} are {len(labels.decode().splitlines())}, and no output has as many numbers "
            f"a row: {counts}"
        )
    graph = Graph(
        nodes_before=nodes,
        nodes_after=node_count(candidate.network.model),
        repairs=candidate.repairs,
        optimized=candidate.optimized,
        optimization=candidate.optimization,
        ir_version=candidate.network.model.ir_version,
        opsets=_opsets(candidate.network.model),
    )
    batching = Batching(
        max_batch_size=max_batch_size,
        made_dynamic=candidate.made_dynamic,
        reshapes_rewritten=candidate.reshapes_rewritten,
        reason=candidate.batching_reason,
    )
    verification = _verification(verified, reference, options.seed)
    precision = _precision(candidate.network.model)

    def configure(present: bytes | None) -> str:
        labelled = class_outputs(present, reference.answers[0], batched=candidate.batched) if present else ()
        config = model_config(name, signature, max_batch_size=max_batch_size, labels=labelled, precision=precision)
        return text_from_config(config)

    def describe(version: int, files: tuple[PublishedFile, ...]) -> Manifest:
        return Manifest(
            model=name,
            version=version,
            created=datetime.now(UTC).replace(microsecond=0),
            source=source,
            graph=graph,
            batching=batching,
            inputs=tuple(map(Tensor.from_spec, signature.inputs)),
            outputs=tuple(map(Tensor.from_spec, signature.outputs)),
            verification=verification,
            environment=this_environment(),
            files=files,
        )

    return Release(model_files=candidate.files, labels=labels, configure=configure, describe=describe)


def _source(file: OnnxFile) -> Source:
    producer = f"{file.network.model.producer_name} {file.network.model.producer_version}".strip()
    return Source(
        file=file.path.name,
        sha256=file.sha256,
        size=file.size,
        producer=producer,
        ir_version=file.network.model.ir_version,
        opsets=_opsets(file.network.model),
    )


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    return {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}


def _verification(verified: Verified, reference: Reference, seed: int) -> Verification:
    return Verification(
        reference=reference.engine,
        candidate=verified.engine,
        seed=seed,
        samples=verified.samples,
        rows_together=verified.rows_together,
        outputs=tuple(
            OutputError(
                name=output.name,
                datatype=output.datatype,
                max_absolute_error=output.max_absolute_error,
                max_relative_error=output.max_relative_error,
                tolerance=output.tolerance,
                values_compared=output.values_compared,
            )
            for output in verified.outputs
        ),
    )


def _precision(model: onnx.ModelProto) -> str:
    """What the TensorRT provider must be allowed to compute in, so that it can take the graph at all."""
    types = {tensor.data_type for tensor in tensors_of(model)}
    types.update(value.type.tensor_type.elem_type for value in [*model.graph.input, *model.graph.output])
    if onnx.TensorProto.BFLOAT16 in types:
        return "BF16"
    return "FP16" if onnx.TensorProto.FLOAT16 in types else "FP32"
