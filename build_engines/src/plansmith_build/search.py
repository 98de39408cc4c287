"""The search for the fastest version that is accurate enough: data in, judged and timed candidates out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from plansmith_build.accuracy import classifier_output
from plansmith_build.candidate_configs import candidate_config
from plansmith_build.candidates import Timing, try_candidates
from plansmith_build.datasets import load_dataset, split, without_rows_of
from plansmith_build.errors import VerificationFailed
from plansmith_build.graph_variants import GraphFile, GraphVariants
from plansmith_build.plan_candidates import PlanSettings
from plansmith_build.precision.calibration import CalibrationMethod
from plansmith_build.precision.variants import Jury
from plansmith_build.progress import BuildStep, plural
from plansmith_build.selection import finalists, require_usable, select
from plansmith_build.serving import CLIENTS, Entry, ServingFailed, measure_served, obstacle_to_serving
from plansmith_build.sessions import RunFailed, Session
from plansmith_build.signatures import signature_of
from plansmith_build.targets import Precision, Target, pairings
from plansmith_build.tensorrt import PlanOptions, find_token_range, parse_profile, profile_for
from plansmith_build.validation import Judge

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from plansmith_build.candidates import Candidate
    from plansmith_build.datasets import Dataset, Preprocessing
    from plansmith_build.portable import PortableModel
    from plansmith_build.precision.sparsity import Sparsity
    from plansmith_build.progress import Progress
    from plansmith_build.selection import Selection
    from plansmith_build.sessions import Arrays
    from plansmith_build.signatures import Signature

__all__ = ["SearchOptions", "SearchResult", "search"]

# Large enough for an engine to be fast, small enough to need little memory.
JUDGED_ROWS = 4
TIMED_ROWS = 8
# Each finalist is a process of its own with all the weights.
LARGEST_SERVED_BYTES = 2**30


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
        max_drop: the accuracy that may be lost, from 0 to 1.
        calibration: the methods for INT8, tried in turn until one is inside the budget.
        calibration_rows: use no more rows than this for calibration.
        validation_rows: use no more rows than this for validation.
        sparsity: how weights are pruned, if at all.
        plan: how TensorRT plans are built.
        serve: whether the fastest are also timed as they are served, by a real server.
    """

    data: str
    validation_data: str | None = None
    preprocessing: Preprocessing | None = None
    labels_key: str | None = None
    targets: tuple[Target, ...] = ()
    precisions: tuple[Precision, ...] = ()
    max_drop: float = 0.005
    calibration: tuple[CalibrationMethod, ...] = tuple(CalibrationMethod)
    calibration_rows: int = 128
    validation_rows: int = 512
    sparsity: Sparsity | None = None
    plan: PlanOptions = field(default_factory=PlanOptions)
    serve: bool = True


@dataclass(frozen=True)
class SearchResult:
    """What the search found.

    Attributes:
        selection: the candidates and the chosen ones.
        max_drop: the budget.
        judge: the validation rows and the FP32 model's accuracy on them.
        calibration: the calibration data.
        validation: the validation data.
        measured: how candidates were timed, in a sentence.
    """

    selection: Selection
    max_drop: float
    judge: Judge
    calibration: Dataset
    validation: Dataset
    measured: str


def search(
    portable: PortableModel,
    config: Any,
    options: SearchOptions,
    folder: Path,
    *,
    class_names: Sequence[str] | None,
    seed: int,
    progress: Progress,
) -> SearchResult:
    """Try all candidates for a model that is verified already.

    Args:
        portable: the FP32 model, on disk.
        config: its configuration, an `inference.ModelConfig`.
        options: what to try.
        folder: where graphs and a repository to be measured can be made.
        class_names: the content of labels.txt, for labels that are names.
        seed: parts the data the same way each time.
        progress: told about each step.

    Raises:
        InvalidData: the data does not fit the model.
        BudgetNotMet: no candidate is accurate enough.
        VerificationFailed: the FP32 model does not run on the data.
        OSError: the disk did not take a file.
    """
    signature = signature_of(portable.network.model)
    step = f"Loading {options.data}"
    progress(BuildStep(step))
    calibration, validation = _data(portable, signature, options, class_names, seed)
    progress(BuildStep(step, f"{len(calibration)} rows to calibrate with, {len(validation)} others to validate with"))

    step = "Running the FP32 model on the data"
    progress(BuildStep(step))
    reference = Session(portable.files[0], signature, optimized=True)
    judges = [_judge(reference, part) for part in (calibration, validation)]
    _check_labels(judges[1])
    progress(BuildStep(step, _in_words(judges[1])))

    jury = Jury(signature, judges[0], judges[1], options.max_drop)
    graphs = GraphVariants(
        GraphFile(portable.files[0], portable.files),
        portable.network,
        jury,
        folder,
        methods=options.calibration,
        sparsity=options.sparsity,
    )
    request, rows = _timed_request(validation, int(config.max_batch_size))
    candidates = try_candidates(
        pairings(options.targets, options.precisions),
        graphs,
        Timing(reference, portable.files[0], request, rows),
        _plan_settings(reference, signature, config, options, request),
        unmeasured=bool(options.targets),
        progress=progress,
    )
    require_usable(candidates)
    measured = f"in one process, {rows} row{plural(rows)} a run, beside the FP32 model on ONNX Runtime"
    served: tuple[Candidate, ...] = ()
    obstacle = _obstacle_to_serving(portable, options)
    entrants = finalists(candidates)
    if len(entrants) > 1 and not obstacle:
        try:
            served = _serve(entrants, config, validation.batches(1)[0], folder, progress)
            measured += f"; the fastest also on a Triton of this machine, {CLIENTS} clients over gRPC with one row each"
        except ServingFailed as error:
            measured += f"; not as served: {error}"
    elif obstacle:
        measured += f"; not as served: {obstacle}"
    return SearchResult(select(candidates, served), options.max_drop, judges[1], calibration, validation, measured)


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
    # Half each, as long as there is little; what is more than calibration can use validates.
    share = min(0.5, options.calibration_rows / len(data))
    return split(data, fraction=share, seed=seed)


def _judge(reference: Session, data: Dataset) -> Judge:
    try:
        return Judge.of(reference, data.batches(JUDGED_ROWS), data.labels, batched=data.batched)
    except RunFailed as error:
        raise VerificationFailed(f"the model does not run on {data.source}: {error}") from error


def _check_labels(judge: Judge) -> None:
    if judge.labels is not None:
        classifier_output(judge.answers, judge.labels)


def _in_words(judge: Judge) -> str:
    accuracy = judge.accuracy
    if accuracy.top1 is None:
        return "its answers are what candidates must agree with"
    top5 = f", top-5 {accuracy.top5:.2%}" if accuracy.top5 is not None else ""
    return f"top-1 accuracy {accuracy.top1:.2%}{top5}"


def _timed_request(data: Dataset, max_batch_size: int) -> tuple[Arrays, int]:
    """A few rows as one request, repeated where the data has fewer."""
    if not data.batched:
        return data.batches(1)[0], 1
    rows = min(TIMED_ROWS, max(1, max_batch_size))
    indexes = np.arange(rows) % len(data)
    return dict(data.take(indexes).inputs), rows


def _obstacle_to_serving(portable: PortableModel, options: SearchOptions) -> str:
    if not options.serve:
        return "it was not asked for"
    if portable.network.size > LARGEST_SERVED_BYTES:
        return "the model is so large that several candidates at once may not fit into memory"
    return obstacle_to_serving()


def _plan_settings(
    reference: Session, signature: Signature, config: Any, options: SearchOptions, request: Arrays
) -> PlanSettings:
    profile = profile_for(
        signature,
        max_batch_size=int(config.max_batch_size),
        observed={name: array.shape for name, array in request.items()},
        tokens=find_token_range(signature, request, reference.run),
        given=parse_profile(options.plan.profile) if options.plan.profile else None,
    )
    structured = options.sparsity is not None and options.sparsity.structured
    return PlanSettings(profile, replace(options.plan, sparse_weights=structured))


def _serve(
    entrants: Sequence[Candidate], config: Any, request: Arrays, folder: Path, progress: Progress
) -> tuple[Candidate, ...]:
    step = f"Timing the fastest {len(entrants)} as they are served"
    progress(BuildStep(step))
    entries = [Entry(candidate_config(config, entrant), entrant.files) for entrant in entrants]
    try:
        rates = measure_served(entries, request, folder, rows=1)
    finally:
        shutil.rmtree(folder / "served", ignore_errors=True)
    measured = tuple(
        replace(entrant, served_rows_per_second=rate or None) for entrant, rate in zip(entrants, rates, strict=True)
    )
    best = max(measured, key=lambda entrant: entrant.served_rows_per_second or 0.0)
    outcome = f"{best.pairing} with {best.instances} instance{plural(best.instances)}"
    progress(BuildStep(step, f"{outcome}: {best.served_rows_per_second or 0:,.0f} rows/s"))
    return measured
