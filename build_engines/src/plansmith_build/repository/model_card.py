"""A model card (https://huggingface.co/docs/hub/model-cards) from what a manifest records: YAML, then Markdown."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import TYPE_CHECKING

from plansmith_client.visible import markdown_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from plansmith_build.repository.manifest import DataRecord, Manifest, OutputError, SearchRecord

__all__ = ["model_card"]


def model_card(manifest: Manifest) -> str:
    """The card of one version.

    What a manifest cannot know is left to be written: purpose, training, limits and licence. Of data the file's name is
    given and not its folder.
    """
    return "\n".join([*_metadata(manifest), *_body(manifest)]) + "\n"


def _metadata(manifest: Manifest) -> Iterator[str]:
    # JSON is YAML, whatever the names hold.
    entries = {"library_name": "plansmith", "tags": _tags(manifest), "model-index": _index(manifest)}
    yield "---"
    yield from (f"{key}: {json.dumps(value)}" for key, value in entries.items() if value)
    yield "---"


def _tags(manifest: Manifest) -> list[str]:
    candidates = manifest.search.candidates if manifest.search else ()
    precisions = {candidate.precision for candidate in candidates if candidate.config}
    return ["onnx", "triton-inference-server", *sorted(precisions - {"fp32"})]


def _index(manifest: Manifest) -> list[dict[str, object]]:
    """The accuracy of each configuration, where the data had labels."""
    search = manifest.search
    results = [
        {
            "task": {"type": "other"},
            "dataset": {"type": search.validation.sha256, "name": PurePath(search.validation.source).name},
            "metrics": [
                {"type": "accuracy", "value": candidate.accuracy.top1, "name": f"top-1, {candidate.precision}"}
            ],
        }
        for candidate in (search.candidates if search else ())
        if search and candidate.config and candidate.accuracy and candidate.accuracy.top1 is not None
    ]
    return [{"name": manifest.model, "results": results}] if results else []


def _body(manifest: Manifest) -> Iterator[str]:
    source, environment = manifest.source, manifest.environment
    yield f"\n# {markdown_text(manifest.model)}\n"
    yield (
        f"Version {manifest.version}, built {manifest.created:%Y-%m-%d} by plansmith "
        f"{markdown_text(environment.plansmith)} from "
        f"{markdown_text(source.file)} (SHA-256 {markdown_text(source.sha256)})."
    )
    yield "\nWhat it is for, what it was trained on, its limits and its licence are not recorded: write them here."
    yield "\n## Inputs and outputs\n"
    tensors = [("input", tensor) for tensor in manifest.inputs] + [("output", tensor) for tensor in manifest.outputs]
    rows = [(kind, tensor.name, tensor.datatype, str(list(tensor.shape))) for kind, tensor in tensors]
    yield from _table(("", "name", "datatype", "shape; -1 varies"), rows)
    if manifest.labels:
        yield f"\nClasses: {markdown_text(', '.join(manifest.labels.split(chr(10))).rstrip(', '))}."
    yield "\n## Accuracy\n"
    verification = manifest.verification
    yield f"Compared with the file as it came, on {verification.samples} {verification.inputs} inputs:\n"
    yield from _table(
        ("output", "relative error", "allowed"),
        ((output.name, _error(output), str(output.tolerance)) for output in verification.outputs),
    )
    if manifest.search is not None:
        yield from _candidates(manifest.search)
    yield "\n## Built on\n"
    machine = [environment.cpu, *environment.gpus, environment.system]
    tools = [f"{name} {version}" for name, version in environment.tools.items()]
    yield f"{markdown_text(', '.join(machine))}; {markdown_text(', '.join(tools))}."
    if manifest.server_trial is not None:
        yield f"{markdown_text(manifest.server_trial.in_words())}."


def _candidates(search: SearchRecord) -> Iterator[str]:
    yield f"\nCalibrated with {_data(search.calibration)}, judged on {_data(search.validation)}:\n"
    heads = ("engine", "precision", "top-1", "loses", "rows/s", "", "configuration")
    rows = [
        (
            *(candidate.target, candidate.precision, _share(candidate.accuracy.top1), _share(candidate.drop)),
            f"{rate:,.0f}" if (rate := candidate.served_rows_per_second or candidate.rows_per_second) else "",
            *(candidate.status, candidate.config or ""),
        )
        for candidate in search.candidates
        if candidate.accuracy is not None
    ]
    yield from _table(heads, rows)
    yield f"\nSpeeds were measured {markdown_text(search.measured)}."
    yield from (f"\n**Mind:** {markdown_text(warning)}" for warning in search.warnings)


def _error(output: OutputError) -> str:
    if not output.finite:
        return "empty, NaN or infinite: not verified"
    return f"{output.max_relative_error:.2g}" if output.values_compared else "random values"


def _share(value: float | None) -> str:
    return f"{value:.2%}" if value is not None else ""


def _data(data: DataRecord) -> str:
    labels = " with labels" if data.labelled else ""
    where = f" of {markdown_text(PurePath(data.source).name)} (SHA-256 {data.sha256})" if data.kind != "random" else ""
    return f"{data.rows} {'random ' * (data.kind == 'random')}rows{labels}{where}"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    yield from (f"| {' | '.join(map(markdown_text, row))} |" for row in rows)
