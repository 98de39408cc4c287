"""The search for the fastest version that is accurate enough: data in, judged and timed candidates out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.datasets import load_dataset, split, without_rows_of
from plansmith_build.datasets.ragged import row_shapes
from plansmith_build.engines.freed_memory import return_freed_memory
from plansmith_build.engines.onnxruntime import LARGE_BYTES, RunFailed, Session
from plansmith_build.engines.tensorrt import PlanOptions, find_token_range, parse_profile, profile_for
from plansmith_build.errors import VerificationFailed
from plansmith_build.judging.budget import DEFAULT_DROP, Budget
from plansmith_build.judging.judge import Judge, doubts
from plansmith_build.judging.measures import choose_measures
from plansmith_build.portable.rows import BatchRefuted, alike, obstacle_in_answers, obstacle_in_batches
from plansmith_build.precision.calibration import CalibrationMethod
from plansmith_build.precision.variants import Judges
from plansmith_build.progress import BuildStep, plural
from plansmith_build.reading.signatures import signature_of
from plansmith_build.reading.value_kinds import sigmoid_outputs
from plansmith_build.search.candidate_configs import candidate_config
from plansmith_build.search.candidates import Timing, try_candidates
from plansmith_build.search.graph_variants import GraphFile, GraphVariants
from plansmith_build.search.plan_candidates import PlanSettings
from plansmith_build.search.records import data_record
from plansmith_build.search.selection import finalists, require_usable, select
from plansmith_build.search.served_answers import Exchange
from plansmith_build.search.targets import Precision, Target, pairings
from plansmith_build.search.timing_served import CLIENTS, ServingFailed, time_served
from plansmith_build.search.workload import Workload
from plansmith_build.serving import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from plansmith_build.datasets import Dataset, Preprocessing
    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.engines.tensorrt.profiles import Shape
    from plansmith_build.judging.accuracy import Accuracy
    from plansmith_build.judging.measures import Measure
    from plansmith_build.portable.portable_model import PortableModel
    from plansmith_build.precision.sparsity import Sparsity
    from plansmith_build.progress import Progress
    from plansmith_build.reading.signatures import Signature
    from plansmith_build.repository.manifest import DataRecord
    from plansmith_build.search.candidates import Candidate
    from plansmith_build.search.selection import Selection

__all__ = ["SearchOptions", "SearchResult", "search"]

# Rows of the data that are run alone and in this many batches.
PROVEN_ROWS = 64
PROVEN_BATCHES = 8
# Large enough for an engine to be fast, small enough to need little memory.
JUDGED_ROWS = 4


@dataclass(frozen=True)
class SearchOptions:
    """What to try and how to judge it.

    Attributes:
        data: where the data comes from; see `datasets.load_dataset`. Half is for calibration, half for validation.
        validation_data: where validation data comes from; all of `data` is then for calibration.
        preprocessing: how images become rows.
        labels_key: the name of the labels in the data.
        targets: what to build for; empty for everything that can be built here.
        precisions: what to compute in; empty for what each target may gain by.
        max_drop: what may be lost of shares and scores, from 0 to 1.
        max_error: the greatest error of outputs judged by an error; None for each metric's default (see `Budget`).
        prove: whether the 95 % bound of the loss must be inside, not only the loss on these rows.
        metrics: the metric for an output, or for all under `""`: `top1`, `top5`, `decision`, `relative-error`,
            `cosine` or `module:function`.
        calibration: the methods for INT8, tried in turn until one is inside the budget.
        calibration_rows: use no more rows than this for calibration.
        validation_rows: use no more rows than this for validation.
        sparsity: how weights are pruned, if at all.
        plan: how TensorRT plans are built.
    """

    data: str
    validation_data: str | None = None
    preprocessing: Preprocessing | None = None
    labels_key: str | None = None
    targets: tuple[Target, ...] = ()
    precisions: tuple[Precision, ...] = ()
    max_drop: float = DEFAULT_DROP
    max_error: float | None = None
    prove: bool = False
    metrics: Mapping[str, str] = field(default_factory=dict)
    calibration: tuple[CalibrationMethod, ...] = tuple(CalibrationMethod)
    calibration_rows: int = 128
    validation_rows: int = 512
    sparsity: Sparsity | None = None
    plan: PlanOptions = field(default_factory=PlanOptions)


@dataclass(frozen=True)
class SearchResult:
    """What the search found.

    Attributes:
        selection: the candidates and the chosen ones.
        budget: what may be lost.
        warnings: why the verdicts may say less than they seem to, a sentence each.
        fp32: the FP32 model's accuracy on the validation rows.
        calibration: what the calibration data was.
        validation: what the validation data was.
        class_names: the classes by number, where the data names them; else empty.
        preprocessing: how images became rows, where the data is images.
        timing: how candidates were timed, in a sentence.
        requests: what each candidate that runs here was asked; see `Candidate.answers`.
    """

    selection: Selection
    budget: Budget
    warnings: tuple[str, ...]
    fp32: Accuracy
    calibration: DataRecord
    validation: DataRecord
    class_names: tuple[str, ...]
    preprocessing: Preprocessing | None
    timing: str
    requests: tuple[Arrays, ...]


def search(
    portable: PortableModel,
    config: Any,
    options: SearchOptions,
    folder: Path,
    *,
    class_names: Sequence[str] | None,
    seed: int,
    serve: bool,
    progress: Progress,
) -> SearchResult:
    """Try all candidates for a model that is verified already.

    Raises:
        InvalidData: the data does not fit the model.
        BatchRefuted: the model does not answer each row of a batch of the data as if it were alone.
        BudgetNotMet: no candidate is accurate enough.
        VerificationFailed: the FP32 model does not run on the data.
        OSError: a file could not be written.
    """
    # What repairing and optimising has freed, before sessions lie behind it.
    return_freed_memory()
    signature = signature_of(portable.network.model)
    step = f"Loading {options.data}"
    progress(BuildStep(step))
    calibration, validation = _data(portable, signature, options, class_names, seed)
    progress(BuildStep(step, f"{len(calibration)} rows to calibrate with, {len(validation)} others to validate with"))

    step = "Running the FP32 model on the data"
    progress(BuildStep(step))
    reference = Session(portable.files[0], signature, optimized=True)
    if portable.batched:
        _check_rows(reference, validation)
    choose = partial(
        choose_measures,
        given=options.metrics,
        sigmoids=sigmoid_outputs(portable.network.model),
        classes=len(class_names) if class_names else None,
    )
    final = _judge(reference, validation, choose, bounded=True)
    measures = final.measures
    judges = Judges(
        signature,
        # By the same measures, whatever the calibration rows would suggest.
        _judge(reference, calibration, lambda _answers, _labels: measures, bounded=False),
        final,
        Budget(options.max_drop, options.max_error, options.prove),
        folder=folder,
    )
    progress(BuildStep(step, _accuracy_text(final)))

    graphs = GraphVariants(
        GraphFile(portable.files[0], portable.files),
        portable.network,
        judges,
        folder,
        methods=options.calibration,
        sparsity=options.sparsity,
    )
    workload = Workload.of(validation, int(config.max_batch_size))
    candidates = try_candidates(
        pairings(options.targets, options.precisions, stored=graphs.format),
        graphs,
        Timing(reference, portable.files[0], signature, workload),
        _plan_settings(
            reference, signature, config, options, workload.middle, extremes=_extremes(calibration, validation)
        ),
        unmeasured=bool(options.targets),
        progress=progress,
    )
    require_usable(candidates)
    fp32, budget = final.accuracy, judges.budget
    warnings = (*budget.unprovable(fp32), *doubts(final), *_stored(graphs.format))
    records, class_names = [data_record(data) for data in (calibration, validation)], calibration.class_names
    # Servers of the fastest need the memory.
    del graphs, reference, judges, final, calibration, validation
    return_freed_memory()
    a_run = f"{workload.rows} row{plural(workload.rows)} a run{workload.sizes}"
    timed = f"in one process, {a_run}, against the FP32 model on ONNX Runtime"
    served: tuple[Candidate, ...] = ()
    obstacle = "" if serve else "--no-serve"
    if not obstacle and portable.network.size > LARGE_BYTES:
        obstacle = "the model is so large that several copies of it at once may not fit into memory"
    entrants = finalists(candidates)
    if len(entrants) > 1 and not obstacle:
        try:
            served = _serve(entrants, config, workload.requests, folder, progress, batched=portable.batched)
            timed += f"; the fastest also on a Triton of this machine, {CLIENTS} clients over gRPC with one row each"
            timed += f"{', of the same sizes' if workload.sizes else ''}"
        except ServingFailed as error:
            timed += f"; not as served: {error}"
    elif obstacle:
        timed += f"; not as served: {obstacle}"
    if not any(candidate.speed for candidate in candidates):
        timed = "not at all: this machine runs none of the candidates"
    return SearchResult(
        selection=select(candidates, served),
        budget=budget,
        warnings=warnings,
        fp32=fp32,
        calibration=records[0],
        validation=records[1],
        class_names=class_names,
        preprocessing=options.preprocessing,
        timing=timed,
        requests=workload.requests,
    )


def _data(
    portable: PortableModel,
    signature: Signature,
    options: SearchOptions,
    class_names: Sequence[str] | None,
    seed: int,
) -> tuple[Dataset, Dataset]:
    def load(source: str, rows: int) -> Dataset:
        return load_dataset(
            source,
            signature,
            preprocessing=options.preprocessing,
            class_names=class_names,
            labels_key=options.labels_key,
            max_rows=rows,
            batched=portable.batched,
            seed=seed,
        )

    if options.validation_data is not None:
        calibration = load(options.data, options.calibration_rows)
        return calibration, without_rows_of(load(options.validation_data, options.validation_rows), calibration)
    both = options.calibration_rows + options.validation_rows
    data = load(options.data, both)
    # Half each while there is little data; rows beyond those for calibration are for validation.
    share = min(0.5, options.calibration_rows / len(data))
    return split(data, fraction=share, seed=seed)


def _check_rows(reference: Session, data: Dataset) -> None:
    """A row of the data, too, is answered with a row, and as if it were alone."""
    chosen = np.unique(np.linspace(0, len(data) - 1, PROVEN_ROWS).astype(np.int64))
    # Far apart in the data, side by side in a batch: neighbours are often of one class.
    order = np.concatenate([chosen[start::PROVEN_BATCHES] for start in range(PROVEN_BATCHES)])
    rows = data.take(order).batches(1)
    try:
        samples = list(rows)
        answers = [reference.run(sample) for sample in samples]
    except RunFailed as error:
        raise VerificationFailed(f"the model does not run on {data.source}: {error}") from error
    obstacle = ""
    size = -(-len(samples) // PROVEN_BATCHES)
    for group in alike(samples):
        obstacle = obstacle or obstacle_in_answers([answers[index] for index in group], 1)
        for start in range(0, len(group), size):
            together, alone = (
                [arrays[index] for index in group[start : start + size]] for arrays in (samples, answers)
            )
            obstacle = obstacle or obstacle_in_batches(reference.run, together, alone)
    if obstacle:
        raise BatchRefuted(f"on {data.source}, {obstacle}")


def _judge(
    reference: Session,
    data: Dataset,
    choose: Callable[[Arrays, np.ndarray[Any, np.dtype[Any]] | None], Mapping[str, Measure]],
    *,
    bounded: bool,
) -> Judge:
    requests = data.batches(JUDGED_ROWS)
    labels = data.labels[requests.order] if data.labels is not None else None
    try:
        return Judge.of(reference, requests, labels, batched=data.batched, choose=choose, bounded=bounded)
    except RunFailed as error:
        raise VerificationFailed(f"the model does not run on {data.source}: {error}") from error


def _stored(stored: str) -> tuple[str, ...]:
    """A note on a file that is not FP32, with what to do about it."""
    if not stored:
        return ()
    note = (
        f"the file is {stored} already: what is called FP32 here is the file as it is; for other precisions, build "
        "from the FP32 original"
    )
    return (note,)


def _accuracy_text(judge: Judge) -> str:
    accuracy = judge.accuracy
    if accuracy.top1 is None:
        return "candidates are compared with its answers"
    top5 = f", top-5 {accuracy.top5:.2%}" if accuracy.top5 is not None else ""
    return f"top-1 accuracy {accuracy.top1:.2%}{top5}"


def _extremes(calibration: Dataset, validation: Dataset) -> dict[str, tuple[Shape, Shape]]:
    """The least and the greatest size of each dimension of each input in the data."""
    first = (1,) if validation.batched else ()
    extremes = {}
    for name in validation.inputs:
        arrays = [data.inputs[name] for data in (calibration, validation) if name in data.inputs]
        sizes = list(zip(*{shape for array in arrays for shape in row_shapes(array)}, strict=True))
        extremes[name] = (*first, *map(min, sizes)), (*first, *map(max, sizes))
    return extremes


def _plan_settings(
    reference: Session,
    signature: Signature,
    config: Any,
    options: SearchOptions,
    request: Arrays,
    *,
    extremes: Mapping[str, tuple[Shape, Shape]],
) -> PlanSettings:
    profile = profile_for(
        signature,
        max_batch_size=int(config.max_batch_size),
        observed={name: array.shape for name, array in request.items()},
        extremes=extremes,
        tokens=find_token_range(signature, request, reference.run),
        given=parse_profile(options.plan.profile) if options.plan.profile else None,
    )
    structured = options.sparsity is not None and options.sparsity.structured
    return PlanSettings(profile, replace(options.plan, sparse_weights=structured))


def _serve(
    entrants: Sequence[Candidate],
    config: Any,
    requests: Sequence[Arrays],
    folder: Path,
    progress: Progress,
    *,
    batched: bool,
) -> tuple[Candidate, ...]:
    step = f"Timing the fastest {len(entrants)} as they are served"
    progress(BuildStep(step))
    entries = [Entry(candidate_config(config, entrant), entrant.files) for entrant in entrants]
    expected = [Exchange.of_candidate(entrant, requests, rows=1 if batched else None) for entrant in entrants]
    try:
        speeds = time_served(entries, expected, folder, rows=1)
    finally:
        shutil.rmtree(folder / "served", ignore_errors=True)
    measured = tuple(replace(entrant, served=speed) for entrant, speed in zip(entrants, speeds, strict=True))
    best = max(measured, key=lambda entrant: entrant.served.ratio if entrant.served else 0.0)
    outcome = f"{best.pairing} with {best.instances} instance{plural(best.instances)}"
    progress(BuildStep(step, f"{outcome}: {best.served.rows_per_second if best.served else 0:,.0f} rows/s"))
    return measured
