"""From what a build made to what is published: the files, their configurations and the manifest."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import onnx

from plansmith_build.errors import InvalidOption
from plansmith_build.portable.portable_model import node_count
from plansmith_build.portable.sequence_states import without_states
from plansmith_build.progress import plural
from plansmith_build.reading.graphs import tensors_of
from plansmith_build.reading.number_formats import stored_format
from plansmith_build.reading.signatures import signature_of
from plansmith_build.repository.config import bound_queue, model_config, text_from_config
from plansmith_build.repository.environment import this_environment
from plansmith_build.repository.labels import class_outputs
from plansmith_build.repository.manifest import (
    Batching,
    Graph,
    Manifest,
    OutputError,
    PublishedFile,
    Source,
    Tensor,
    Verification,
)
from plansmith_build.repository.model_repository import CONFIG
from plansmith_build.repository.publishing import Release
from plansmith_build.repository.warmup import add_warmup
from plansmith_build.search.candidate_configs import candidate_config
from plansmith_build.search.records import search_record
from plansmith_build.serving import as_served

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from plansmith_build.datasets.preprocessing import Preprocessing
    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.portable.portable_model import PortableModel
    from plansmith_build.portable.reference import Reference
    from plansmith_build.portable.sequence_states import State
    from plansmith_build.portable.verification import Verified
    from plansmith_build.reading.loading import OnnxFile
    from plansmith_build.repository.manifest import ServerTrial
    from plansmith_build.search.search import SearchResult

__all__ = ["Built", "portable_config", "release_of", "source_of", "warmup_samples"]


@dataclass(frozen=True)
class Built:
    """What a build made.

    Attributes:
        name: the model's name.
        source: the file that it was made from.
        nodes: how many nodes that had.
        portable: the FP32 model that every server can run.
        verified: how it compares to the file.
        reference: the file's answers.
        max_batch_size: the largest batch that was asked for.
        seed: of the random inputs.
        labels: the new content of labels.txt, None to keep the present one.
        search: the candidates and the chosen ones, where there was a search.
        trial: what a server made of it, where it was tried.
        preprocessing: how clients make an input from an image, where that was declared.
        states: what the model remembers of a sequence.
        warmup: how many of the reference's inputs a server runs before it calls the version ready.
        max_queue_size: how many requests may wait for the model; 0 for any number.
        recipe: the words of `plansmith build` that it was made with.
    """

    name: str
    source: Source
    nodes: int
    portable: PortableModel
    verified: Verified
    reference: Reference
    max_batch_size: int
    seed: int
    labels: bytes | None
    search: SearchResult | None = None
    trial: ServerTrial | None = None
    preprocessing: Preprocessing | None = None
    states: tuple[State, ...] = ()
    warmup: int = 0
    max_queue_size: int = 0
    recipe: tuple[str, ...] = ()


def source_of(file: OnnxFile) -> Source:
    """The record of the file that a version is made from."""
    producer = f"{file.network.model.producer_name} {file.network.model.producer_version}".strip()
    return Source(
        file=file.path.name,
        sha256=file.sha256,
        size=file.size,
        producer=producer,
        ir_version=file.network.model.ir_version,
        opsets=_opsets(file.network.model),
    )


def portable_config(built: Built, labels: bytes | None) -> Any:
    """The configuration that every server can use, an `inference.ModelConfig`."""
    portable = built.portable
    labelled = class_outputs(labels, built.reference.answers[0], batched=portable.batched) if labels else ()
    return model_config(
        built.name,
        signature_of(portable.network.model),
        max_batch_size=built.max_batch_size if portable.batched else 0,
        labels=labelled,
        precision=_precision(portable.network.model),
        preprocessing=built.preprocessing.model_dump_json(exclude_none=True) if built.preprocessing else "",
        states=built.states,
    )


def release_of(built: Built, *, labels_path: Path | None) -> Release:
    """What is to be published.

    Raises:
        InvalidOption: there are labels, and no output has that many numbers per row; or too few inputs for a warm-up.
    """
    portable = built.portable
    if built.labels is not None and not class_outputs(
        built.labels, built.reference.answers[0], batched=portable.batched
    ):
        counts = ", ".join(f"{key} {list(array.shape)}" for key, array in built.reference.answers[0].items())
        raise InvalidOption(
            f"{labels_path} has {len(built.labels.decode().splitlines())} labels, and no output has that many "
            f"numbers per row: {counts}. Give one label per class, one a line"
        )
    named = built.search.selection.named if built.search is not None else {}
    files = {file.name: file for file in portable.files}
    for candidate in named.values():
        files.update({file.name: file for file in candidate.files})

    samples = warmup_samples(built)
    warmup = add_warmup(portable_config(built, None), samples)

    def configure(present: bytes | None) -> dict[str, str]:
        config = portable_config(built, present)
        configs = {CONFIG: config}
        for name, candidate in named.items():
            configs[f"configs/{name}.pbtxt"] = candidate_config(config, candidate)
        for each in configs.values():
            # A candidate may be served without batches, and so without a queue of them.
            if built.max_queue_size and each.HasField("dynamic_batching"):
                bound_queue(each, built.max_queue_size)
            add_warmup(each, samples)
        return {path: text_from_config(each) for path, each in configs.items()}

    def describe(version: int, published: tuple[PublishedFile, ...]) -> Manifest:
        return _manifest(built, version, published)

    return Release(
        model_files=tuple(files.values()),
        labels=built.labels,
        configure=configure,
        describe=describe,
        warmup=warmup,
    )


def warmup_samples(built: Built) -> list[Arrays]:
    """The inputs that servers run before the version is ready, as clients send them.

    Raises:
        InvalidOption: the verification has fewer of them than were asked for.
    """
    if not built.warmup:
        return []
    reference = built.reference
    if built.portable.batched:
        samples = [
            {name: array[row : row + 1] for name, array in sample.items()}
            for sample in reference.samples[: reference.single_samples]
            for row in range(len(next(iter(sample.values()))))
        ]
    else:
        samples = list(reference.with_vectors().samples)
    if len(samples) < built.warmup:
        raise InvalidOption(
            f"--warmup {built.warmup}: the verification has {len(samples)} input{plural(len(samples))}: give more with "
            "--samples"
        )
    config = portable_config(built, None)
    return [as_served(sample, config.input) for sample in samples[: built.warmup]]


def _manifest(built: Built, version: int, files: tuple[PublishedFile, ...]) -> Manifest:
    portable = built.portable
    signature = without_states(signature_of(portable.network.model), built.states)
    return Manifest(
        model=built.name,
        version=version,
        created=datetime.now(UTC).replace(microsecond=0),
        source=built.source,
        recipe=built.recipe,
        graph=Graph(
            nodes_before=built.nodes,
            nodes_after=node_count(portable.network.model),
            repairs=portable.repairs,
            optimized=portable.optimized,
            optimization=portable.optimization,
            format=stored_format(portable.network.model),
            ir_version=portable.network.model.ir_version,
            opsets=_opsets(portable.network.model),
        ),
        batching=Batching(
            max_batch_size=built.max_batch_size if portable.batched else 0,
            made_dynamic=portable.made_dynamic,
            reshapes_rewritten=portable.reshapes_rewritten,
            reason=portable.batching_reason,
        ),
        inputs=tuple(map(Tensor.from_spec, signature.inputs)),
        outputs=tuple(map(Tensor.from_spec, signature.outputs)),
        verification=_verification(built),
        server_trial=built.trial,
        environment=this_environment(),
        search=search_record(built.search) if built.search is not None else None,
        files=files,
    )


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    return {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}


def _verification(built: Built) -> Verification:
    return Verification(
        reference=built.reference.engine,
        candidate=built.verified.engine,
        inputs=built.reference.inputs,
        seed=built.seed,
        samples=built.verified.samples,
        rows_together=built.verified.rows_together,
        outputs=tuple(
            OutputError(**asdict(output), finite=output.name not in built.reference.without_values)
            for output in built.verified.outputs
        ),
    )


def _precision(model: onnx.ModelProto) -> str:
    """What the TensorRT provider must be allowed to compute in, so that it can take the graph at all."""
    types = {tensor.data_type for tensor in tensors_of(model)}
    types.update(value.type.tensor_type.elem_type for value in [*model.graph.input, *model.graph.output])
    if onnx.TensorProto.BFLOAT16 in types:
        return "BF16"
    return "FP16" if onnx.TensorProto.FLOAT16 in types else "FP32"
