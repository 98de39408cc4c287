"""What a search found, as the manifest writes it down."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from plansmith_build.engines.cpu_features import cores
from plansmith_build.repository.manifest import (
    AccuracyRecord,
    AgreementRecord,
    CandidateRecord,
    CompiledRecord,
    DataRecord,
    SearchRecord,
)

if TYPE_CHECKING:
    from plansmith_build.datasets import Dataset
    from plansmith_build.engines.tensorrt_rtx import CompiledEngine
    from plansmith_build.judging.accuracy import Accuracy
    from plansmith_build.search.candidates import Candidate
    from plansmith_build.search.search import SearchResult

__all__ = ["data_record", "search_record"]


def search_record(result: SearchResult) -> SearchRecord:
    """The record of a search, every candidate included."""
    named = {candidate.pairing: name for name, candidate in result.selection.named.items()}
    return SearchRecord(
        max_drop=result.budget.max_drop,
        max_error=result.budget.max_error,
        prove=result.budget.prove,
        warnings=result.warnings,
        calibration=result.calibration,
        validation=result.validation,
        preprocessing=result.preprocessing.model_dump(mode="json", exclude_none=True) if result.preprocessing else None,
        fp32=_accuracy(result.fp32, result),
        measured=result.timing,
        cores=cores(),
        candidates=tuple(
            _candidate(candidate, named.get(candidate.pairing), result) for candidate in result.selection.candidates
        ),
    )


def data_record(dataset: Dataset) -> DataRecord:
    """What is remembered of data."""
    return DataRecord(
        kind=dataset.kind,
        source=dataset.source,
        sha256=dataset.sha256,
        rows=len(dataset),
        labelled=dataset.labels is not None,
    )


def _accuracy(accuracy: Accuracy, result: SearchResult) -> AccuracyRecord:
    return AccuracyRecord(
        rows=accuracy.rows,
        top1=accuracy.top1,
        top5=accuracy.top5,
        outputs=tuple(
            AgreementRecord(
                name=output.name,
                top1_agreement=output.top1_agreement,
                cosine=output.cosine,
                signal_to_noise_db=_finite(output.signal_to_noise_db),
                max_absolute_error=_finite(output.max_absolute_error),
                differing=output.differing,
                measure=str(output.measure),
                loss=_finite(loss),
                bound=_finite(output.bound),
                allowed=result.budget.allowed(output.measure),
            )
            for output, loss in accuracy.losses_from(result.fp32)
        ),
    )


def _finite(number: float | None) -> float | None:
    """JSON has no infinity."""
    return number if number is not None and math.isfinite(number) else None


def _candidate(candidate: Candidate, name: str | None, result: SearchResult) -> CandidateRecord:
    speed = candidate.speed
    graph = candidate.graph
    return CandidateRecord(
        target=candidate.pairing.target,
        device=candidate.pairing.device,
        precision=candidate.precision,
        status=candidate.status,
        reason=candidate.reason,
        config=f"configs/{name}.pbtxt" if name is not None else None,
        file=candidate.files[0].name if name is not None else None,
        engine=candidate.engine,
        layout=graph.layout if graph is not None else "",
        kept_in_fp32=graph.kept if graph is not None else (),
        accuracy=_accuracy(candidate.accuracy, result) if candidate.accuracy is not None else None,
        judged_by=candidate.judged_by.name if candidate.judged_by is not None else None,
        drop=_finite(candidate.drop),
        rows_per_second=speed.rows_per_second if speed is not None else None,
        fp32_rows_per_second=speed.reference_rows_per_second if speed is not None else None,
        ratio_to_fp32=speed.ratio if speed is not None else None,
        served_rows_per_second=candidate.served.rows_per_second if candidate.served is not None else None,
        served_ratio=candidate.served.ratio if candidate.served is not None else None,
        instances=candidate.instances,
        threads=candidate.threads,
        is_batched=candidate.is_batched,
        compiled=_compiled(candidate.compiled) if candidate.compiled is not None else None,
    )


def _compiled(engine: CompiledEngine) -> CompiledRecord:
    first, *others = [
        {name: (part.minimum[name], part.optimum[name], part.maximum[name]) for name in part.minimum}
        for part in engine.profile.each
    ]
    return CompiledRecord(
        compiler=f"TensorRT for RTX {engine.version}",
        compute_capabilities=engine.capabilities,
        profile=first,
        further_profiles=tuple(others),
        seconds=engine.seconds,
        size=engine.size,
    )
