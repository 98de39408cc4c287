"""`build`: from an ONNX file to a published version."""

from __future__ import annotations

import os
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.filesize import decimal

from plansmith_build.datasets.callables import is_callable_source
from plansmith_build.datasets.errors import InvalidData
from plansmith_build.datasets.image_folders import image_shape
from plansmith_build.datasets.layout import layout_of
from plansmith_build.datasets.loading import check_source, holds_images, load_dataset, read_samples
from plansmith_build.datasets.random_data import rows_from_text
from plansmith_build.errors import InputsNeeded, InvalidModel, InvalidOption, VerificationFailed
from plansmith_build.portable.batch_obstacles import BatchAxis
from plansmith_build.portable.portable_model import Batching, make_portable, node_count, without_batches
from plansmith_build.portable.reference import run_reference
from plansmith_build.portable.repair import listed_weights
from plansmith_build.portable.rows import BatchRefuted
from plansmith_build.portable.sampling import leading_rows
from plansmith_build.portable.sequence_states import find_states, without_states
from plansmith_build.portable.state_rows import rows_in_front, verify_rows_in_front
from plansmith_build.progress import BuildStep, plural, silent
from plansmith_build.reading.loading import load_onnx
from plansmith_build.reading.signatures import signature_of
from plansmith_build.releasing import Built, portable_config, release_of, source_of, warmup_samples
from plansmith_build.repository.compatibility import require_same_clients
from plansmith_build.repository.filesystem import explain_os_error
from plansmith_build.repository.labels import class_outputs, labels_of, names_of_classes, read_labels
from plansmith_build.repository.model_repository import CONFIG, ModelRepository, name_from_file, valid_name
from plansmith_build.repository.publishing import publish
from plansmith_build.repository.signed_versions import signer_for
from plansmith_build.repository.staging import staging_folder

if TYPE_CHECKING:
    from plansmith_build.datasets.preprocessing import Preprocessing
    from plansmith_build.portable.reference import Reference
    from plansmith_build.portable.sequence_states import State
    from plansmith_build.progress import Progress
    from plansmith_build.reading.loading import OnnxFile
    from plansmith_build.reading.signatures import Signature
    from plansmith_build.repository.manifest import Manifest
    from plansmith_build.search.search import SearchOptions, SearchResult

__all__ = ["BuildOptions", "BuildResult", "build"]

MAX_BATCH_SIZE = 32


@dataclass(frozen=True)
class BuildOptions:
    """How to build.

    Attributes:
        repository: the model repository to publish into; created if it does not exist.
        name: the model's name; by default made from the file's.
        labels: a text file with one class name a line; by default the model's labels.txt stays as it is.
        max_batch_size: the largest batch that the server may make, where the graph allows batches; 0 for none.
        optimize: whether the graph may be optimised.
        dynamic_batch: whether a fixed batch size may be changed into any batch size.
        batch_axis: which dimension of every input and output is the batch dimension.
        samples: where inputs for the verification come from, as `datasets.load_dataset` reads them; None for random
            ones, or for rows of the search's data if the model runs on no random ones.
        preprocessing: how clients make an input from an image, for the configuration; by default that of the search.
        states: what the server keeps of a sequence between its requests: `INPUT=OUTPUT` each, or `auto` alone.
        seed: makes the random inputs of the verification repeatable.
        staging: the folder to stage in, by default the repository's parent. It must be outside the repository and
            on the same file system.
        search: how to look for a faster version; None to build the portable one alone.
        replace: whether the version may follow one with other inputs or outputs.
        serve: whether a Triton of this machine has to serve the version before it is published, and times the fastest
            candidates up to 1 GiB.
        sign_key: a private key (PEM) to sign the version with.
        warmup: how many inputs of the verification servers run before they call the version ready.
        max_queue_size: how many requests may wait for the model before servers turn more away; 0 for any number.
        recipe: the words of `plansmith build` that say the same, for the manifest.
        source_sha256: what manifests call so: the model must have one of these; empty for any model.
    """

    repository: Path
    name: str | None = None
    labels: Path | None = None
    max_batch_size: int = MAX_BATCH_SIZE
    optimize: bool = True
    dynamic_batch: bool = True
    batch_axis: BatchAxis = BatchAxis.AUTO
    samples: str | None = None
    preprocessing: Preprocessing | None = None
    states: tuple[str, ...] = ()
    seed: int = 0
    staging: Path | None = None
    search: SearchOptions | None = None
    replace: bool = False
    serve: bool = True
    sign_key: Path | None = None
    warmup: int = 0
    max_queue_size: int = 0
    recipe: tuple[str, ...] = ()
    source_sha256: tuple[str, ...] = ()

    def require_source(self, what: Path, sha256: str) -> None:
        """Whether a file may be built from.

        Raises:
            InvalidModel: another is expected.
        """
        if self.source_sha256 and sha256 not in self.source_sha256:
            raise InvalidModel(
                f"{what} has the SHA-256 {sha256}, and {' or '.join(self.source_sha256)} is expected: put the file "
                "back, or build the changed one with plansmith build"
            )


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


# Overflows and NaN are judged as answers; numpy's warnings of them would only disturb the progress display.
@np.errstate(all="ignore")
def build(model: Path | str, options: BuildOptions, progress: Progress = silent) -> BuildResult:
    """Build a verified version from an ONNX file and publish it.

    Args:
        model: the ONNX file.
        options: how.
        progress: called when a step begins and when it ends.

    Raises:
        InvalidModel: the file is not an ONNX model, is damaged, or holds what ONNX Runtime or Triton cannot serve.
        InvalidOption: an option cannot be used, no Triton can be started, or the version would follow one with other
            inputs or outputs.
        VerificationFailed: the model cannot be run, the result does not compute what the file computes, Triton does
            not serve it, or no candidate is inside the accuracy budget.
        PublishFailed: the version could not be written: the disk is full, or permissions or the file system forbid it.
    """
    path = Path(model)
    repository = ModelRepository.at(options.repository)
    # Path.is_dir raises where the system refuses a name or the way there; reading the file says why.
    if os.path.isdir(path):  # noqa: PTH112
        raise InvalidModel(f"{path} is a folder: name the .onnx file")
    name = valid_name(options.name) if options.name is not None else name_from_file(path)
    if not 0 <= options.max_batch_size < 2**31:
        raise InvalidOption(
            f"--max-batch-size must be from 0 (no batches) to {2**31 - 1}, got {options.max_batch_size}"
        )
    labels = read_labels(options.labels) if options.labels is not None else None
    sign = signer_for(repository.path, options.sign_key)

    _require_data_and_triton(options)

    step = f"Reading {path}"
    progress(BuildStep(step))
    file = load_onnx(path)
    options.require_source(path, file.sha256)
    source, nodes = source_of(file), node_count(file.network.model)
    signature = signature_of(file.network.model, weights=listed_weights(file.network.model))
    progress(BuildStep(step, f"{nodes} node{plural(nodes)}, {decimal(file.size)}"))

    if options.preprocessing is not None:
        image_shape(
            layout_of(signature, batched=leading_rows(signature, options.batch_axis) in {-1, 1}), options.preprocessing
        )
    if options.search is not None:
        class_names = names_of_classes(_labels(labels, repository, name))
        _require_fitting_data(options.search, signature, class_names, options)
    states = _states(signature, options, progress)
    if not options.replace:
        require_same_clients(repository.model(name), without_states(signature, states), sequences=bool(states))
    with (
        staging_folder(repository.path, options.staging) as staging,
        # nullcontext(file) would keep the file's weights to the end.
        rows_in_front(file, states, staging) if states else nullcontext() as rewritten,
    ):
        prepared = rewritten or file
        if prepared is not file:
            signature = signature_of(prepared.network.model, weights=listed_weights(prepared.network.model))
        reference = _run_original(prepared, signature, options, progress)
        verify_rows_in_front(file, reference, states)

        try:
            portable, verified = make_portable(
                prepared,
                reference,
                staging,
                batching=Batching(options.max_batch_size > 0, options.batch_axis, options.dynamic_batch),
                optimized=options.optimize,
                progress=progress,
            )
        except OSError as error:
            raise explain_os_error(error, f"write the new version in {staging}") from error
        del file, prepared, rewritten
        built = Built(
            name=name,
            source=source,
            nodes=nodes,
            portable=portable,
            verified=verified,
            reference=reference,
            max_batch_size=options.max_batch_size,
            seed=options.seed,
            labels=labels,
            preprocessing=options.preprocessing or (options.search.preprocessing if options.search else None),
            states=states,
            warmup=options.warmup,
            max_queue_size=options.max_queue_size,
            recipe=options.recipe,
        )
        _refuse_what_cannot_be_had(built)
        if options.search is not None:
            built = _with_names_of_classes(_search(built, options, repository, staging, progress), repository)
        built = _tried(built, options, repository, staging, progress)
        step = f"Publishing in {options.repository}"
        progress(BuildStep(step))
        release = replace(release_of(built, labels_path=options.labels), sign=sign)
        published = publish(repository, name, release, staging=staging)
        progress(BuildStep(step, f"{name} version {published.version}"))
    return BuildResult(name, published.version, published.path, published.manifest, published.notes)


def _require_data_and_triton(options: BuildOptions) -> None:
    """Before the model is read, which may take long."""
    for data in (options.search.data, options.search.validation_data) if options.search is not None else ():
        if data is not None:
            check_source(data)
    if options.serve:
        from plansmith_build.serving import require_triton  # noqa: PLC0415 - the client, with all its transports

        require_triton()


def _require_fitting_data(
    search: SearchOptions, signature: Signature, class_names: list[str] | None, options: BuildOptions
) -> None:
    """Before anything is run. What is a batch is not known yet: data is refused that fits neither way of counting rows.

    Raises:
        InvalidData: the data is damaged, or is not what the model takes. Of images, one is read.
    """
    batched = leading_rows(signature, options.batch_axis) in {-1, 1}
    scores = [spec.shape[1] for spec in signature.outputs if spec.datatype.startswith("FP") and len(spec.shape) == 2]  # noqa: PLR2004
    for source in filter(None, (search.data, search.validation_data)):
        # A function of the user's would be called twice.
        if rows_from_text(source) is not None or is_callable_source(source):
            continue
        read = partial(
            load_dataset,
            source,
            signature,
            preprocessing=search.preprocessing,
            class_names=class_names,
            # Of several outputs it is not known yet which one classifies.
            classes=scores[0] if len(signature.outputs) == len(scores) == 1 < scores[0] else None,
            labels_key=search.labels_key,
            max_rows=1 if holds_images(Path(source)) else search.calibration_rows + search.validation_rows,
            seed=options.seed,
        )
        try:
            read(batched=batched)
        except InvalidData:
            with suppress(InvalidData):
                read(batched=not batched)
                continue
            raise


def _refuse_what_cannot_be_had(built: Built) -> None:
    """Before a search, which takes long."""
    warmup_samples(built)
    if built.max_queue_size and not built.portable.batched:
        raise InvalidOption(
            f"--max-queue-size {built.max_queue_size}: Triton bounds the queue of models that take batches, and this "
            "one takes none"
        )


def _states(signature: Signature, options: BuildOptions, progress: Progress) -> tuple[State, ...]:
    if not options.states:
        return ()
    if options.search is not None:
        raise InvalidOption("--state cannot be used with --data yet: build sequence models without it, in FP32")
    if options.labels is not None:
        raise InvalidOption("--state cannot be used with --labels yet: name the classes in the client")
    if options.warmup:
        raise InvalidOption("--state cannot be used with --warmup: a warm-up belongs to no sequence")
    if options.max_queue_size:
        raise InvalidOption("--state cannot be used with --max-queue-size: a sequence turned away halfway is lost")
    states = find_states(signature, options.states)
    progress(BuildStep("Keeping state between requests", "; ".join(map(str, states))))
    return states


def _run_original(file: OnnxFile, signature: Signature, options: BuildOptions, progress: Progress) -> Reference:
    """The original's answers: to the user's samples, to random inputs, or to rows of the user's data, in this order."""
    step = "Running the original on random inputs"
    run = partial(run_reference, file, signature, seed=options.seed, axis=options.batch_axis)
    read = partial(read_samples, signature=signature, axis=options.batch_axis, seed=options.seed)
    if options.samples is not None:
        step = f"Running the original on {options.samples}"
        progress(BuildStep(step))
        reference = run(given=read(options.samples, preprocessing=None))
    else:
        progress(BuildStep(step))
        try:
            reference = run()
        except InputsNeeded:
            search = options.search
            if search is None or rows_from_text(search.data) is not None:
                raise
            step = f"Running the original on {search.data}"
            reference = run(given=read(search.data, preprocessing=search.preprocessing))
    progress(BuildStep(step, f"{len(reference.samples)} samples"))
    return reference


def _search(
    built: Built, options: BuildOptions, repository: ModelRepository, staging: Path, progress: Progress
) -> Built:
    """The same with candidates tried and chosen from; without batches, where the data refutes them."""
    folder = staging / "candidates"
    folder.mkdir()
    try:
        try:
            return replace(built, search=_searched(built, options, repository, folder, progress))
        except BatchRefuted as error:
            if built.portable.repaired is None:
                raise
            progress(BuildStep("Looking for a batch dimension", f"none: {error}"))
            unbatched = staging / "unbatched"
            unbatched.mkdir()
            portable, verified = without_batches(
                replace(built.portable.repaired, batching_reason=str(error)),
                built.reference,
                unbatched,
                optimized=options.optimize,
                progress=progress,
            )
            built = replace(built, portable=portable, verified=verified)
            return replace(built, search=_searched(built, options, repository, folder, progress))
    except OSError as error:
        raise explain_os_error(error, f"write candidates in {staging}") from error


def _searched(
    built: Built, options: BuildOptions, repository: ModelRepository, folder: Path, progress: Progress
) -> SearchResult:
    from plansmith_build.search.search import search  # noqa: PLC0415 - quantizers and calibrators, only where they are used

    assert options.search is not None  # noqa: S101 - `build` has asked
    return search(
        built.portable,
        portable_config(built, None),
        options.search,
        folder,
        class_names=names_of_classes(_labels(built.labels, repository, built.name)),
        seed=built.seed,
        serve=options.serve,
        progress=progress,
    )


def _with_names_of_classes(built: Built, repository: ModelRepository) -> Built:
    """The same with the names of class folders as its labels, where it has none and an output has as many numbers."""
    names = built.search.class_names if built.search is not None else ()
    if not names or _labels(built.labels, repository, built.name) is not None:
        return built
    labels = "".join(f"{name}\n" for name in names).encode()
    if labels.decode().splitlines() != list(names):
        # A line end in the name of a folder.
        return built
    fits = class_outputs(labels, built.reference.answers[0], batched=built.portable.batched)
    return replace(built, labels=labels) if fits else built


def _tried(
    built: Built, options: BuildOptions, repository: ModelRepository, staging: Path, progress: Progress
) -> Built:
    """The same with what a server made of it; without the candidates that it did not serve as they were judged.

    Raises:
        VerificationFailed: the server does not serve the portable version.
        BudgetNotMet: no candidate is left.
    """
    from plansmith_build.trial import try_on_triton  # noqa: PLC0415 - the client, with all its transports

    labels = _labels(built.labels, repository, built.name)
    step = "Trying the version on a Triton"
    progress(BuildStep(step))
    folder = staging / "trial"
    while True:
        release = release_of(built, labels_path=options.labels)
        try:
            outcome = try_on_triton(built, release, labels, folder, serve=options.serve)
        except OSError as error:
            raise explain_os_error(error, f"write a repository to try the version in {folder}") from error
        if CONFIG in outcome.refused:
            raise VerificationFailed(
                f"Triton does not serve what was built, so nothing was published: {outcome.refused[CONFIG]}; "
                "--no-serve publishes without trying it"
            )
        progress(BuildStep(step, outcome.record.in_words()))
        if not outcome.refused or built.search is None:
            return replace(built, trial=outcome.record)
        from plansmith_build.search.selection import without  # noqa: PLC0415 - as in `_searched`

        for path, reason in outcome.refused.items():
            progress(BuildStep(f"Trying {path} on a Triton", f"not used: {reason}"))
        names = {
            path.removeprefix("configs/").removesuffix(".pbtxt"): reason for path, reason in outcome.refused.items()
        }
        search = replace(built.search, selection=without(built.search.selection, names))
        built = replace(built, search=search)


def _labels(given: bytes | None, repository: ModelRepository, name: str) -> bytes | None:
    """The content of labels.txt as it will be."""
    return given or labels_of(repository.model(name).path)
