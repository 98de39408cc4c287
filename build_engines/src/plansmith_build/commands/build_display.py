"""What `plansmith build` shows when it is done."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from plansmith_client.terminal import Column, FittingTable, Terminal, facts_table

if TYPE_CHECKING:
    from plansmith_build.building import BuildResult
    from plansmith_build.progress import BuildStep
    from plansmith_build.repository.manifest import CandidateRecord, Manifest, SearchRecord, Verification

__all__ = ["RUNNING_SERVER", "candidates_table", "current_step", "result_as_json", "show_result"]

RUNNING_SERVER = (
    "A server that already runs takes this version when it is restarted; with serve --poll 5 by itself; with serve "
    "--control explicit by plansmith load."
)
_STYLES = {
    "chosen": "bold green",
    "kept": "green",
    "slower": "",
    "verified, not measured": "cyan",
    "compiled, not measured": "cyan",
}


def current_step(step: BuildStep) -> Table:
    """The line next to the spinner: what is being done, and a bar where the progress is known."""
    line = Table.grid(padding=(0, 1))
    line.add_row(
        escape(step.title), *([ProgressBar(total=1, completed=step.done, width=30)] if step.done is not None else [])
    )
    return line


def result_as_json(result: BuildResult) -> str:
    """One JSON document: where the version is, and its manifest."""
    return json.dumps(
        {
            "name": result.name,
            "version": result.version,
            "path": str(result.path),
            "notes": result.notes,
            "manifest": result.manifest.model_dump(mode="json"),
        },
        indent=2,
    )


def show_result(result: BuildResult, repository: Path) -> None:
    """Tables on standard output."""
    manifest = result.manifest
    console = Terminal(highlight=False)
    if manifest.search is not None:
        console.print(candidates_table(manifest.search))
        console.print()
    table = facts_table()
    table.add_row("published", f"{escape(result.name)} version {result.version} in {escape(str(result.path))}")
    table.add_row("inputs", escape("\n".join(map(str, manifest.inputs))))
    table.add_row("outputs", escape("\n".join(map(str, manifest.outputs))))
    table.add_row("batches", escape(_batches(manifest)))
    graph = manifest.graph
    table.add_row("graph", escape(graph.in_words()))
    if graph.repairs:
        table.add_row("repaired", escape("\n".join(graph.repairs)))
    table.add_row("verified", escape(_verification(manifest.verification)))
    if manifest.server_trial is not None:
        table.add_row("tried", escape(manifest.server_trial.in_words()))
    if manifest.search is not None:
        table.add_row("accuracy", escape(_accuracy(manifest.search)))
        for warning in manifest.search.warnings:
            table.add_row("warning", escape(warning))
        table.add_row("measured", escape(manifest.search.measured))
        for candidate in manifest.search.candidates:
            if candidate.config is not None:
                table.add_row(escape(candidate.config), escape(_served_by(candidate)))
    for note in result.notes:
        table.add_row("note", escape(note))
    console.print(table)
    where = "" if repository == Path("model_repository") else f" --repository {shlex.quote(str(repository))}"
    console.print(f"\nNext: plansmith serve{where}", markup=False, soft_wrap=True)
    if result.version > 1:
        console.print(RUNNING_SERVER, markup=False, soft_wrap=True)


def candidates_table(search: SearchRecord) -> FittingTable:
    """Every candidate with its accuracy and speed; below them the reasons of those that have none."""
    tried = [candidate for candidate in search.candidates if candidate.status != "not possible here"]
    cells = {
        Column("target", "words"): [candidate.target for candidate in tried],
        Column("device", "name", spare=4): [candidate.device.upper() for candidate in tried],
        Column("precision", "words"): [candidate.precision for candidate in tried],
        Column("top-1", spare=2): [_top1(candidate) for candidate in tried],
        Column("loses"): [_judgement(candidate)[0] for candidate in tried],
        Column("at most", spare=3): [_judgement(candidate)[1] for candidate in tried],
        Column("judged by", "words", spare=5): [_judgement(candidate)[2] for candidate in tried],
        Column("rows/s"): [_number(candidate.rows_per_second) for candidate in tried],
        Column("x FP32"): [f"{candidate.ratio_to_fp32:.2f}" if candidate.ratio_to_fp32 else "" for candidate in tried],
        Column("served", spare=1): [_number(candidate.served_rows_per_second) for candidate in tried],
        Column("", "words"): [candidate.status for candidate in tried],
    }
    # A column without a word would squeeze the others.
    cells = {column: texts for column, texts in cells.items() if any(texts)}
    styles = [_STYLES.get(candidate.status, "dim") for candidate in tried]
    return FittingTable(list(cells), list(zip(*cells.values(), strict=True)), "", _reasons(search), styles)


def _batches(manifest: Manifest) -> str:
    batching = manifest.batching
    if not batching.max_batch_size:
        return f"none: {batching.reason}"
    rows = f"up to {batching.max_batch_size} rows"
    # Ids of tokens: who makes them has the mask that filling up needs.
    if any(tensor.datatype in {"INT32", "INT64"} and tensor.shape[1:] == (-1,) for tensor in manifest.inputs):
        return f"{rows} of one length: the step `text` of a pipeline fills texts up (`pad`)"
    return rows


def _reasons(search: SearchRecord) -> list[str]:
    """What there is to say of candidates, once for the precisions of which it is the same."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for candidate in search.candidates:
        left = f"{len(candidate.kept_in_fp32)} nodes left in FP32" if candidate.kept_in_fp32 else ""
        # What became of other methods than the fastest stands in the manifest.
        reason = candidate.reason if candidate.status not in {"chosen", "kept", "slower"} else ""
        if remark := ": ".join(filter(None, (reason, left))):
            key = (candidate.target, candidate.device.upper(), candidate.status, remark)
            found.setdefault(key, []).append(candidate.precision)
    return [
        f"{target} {device} {' '.join(precisions)}, {status}: {remark}"
        for (target, device, status, remark), precisions in found.items()
    ]


def _top1(candidate: CandidateRecord) -> str:
    accuracy = candidate.accuracy
    return f"{accuracy.top1:.2%}" if accuracy is not None and accuracy.top1 is not None else ""


def _judgement(candidate: CandidateRecord) -> tuple[str, str, str]:
    """What the output that judges a candidate loses, how much at most with 95 % confidence, and by which measure."""
    outputs = candidate.accuracy.outputs if candidate.accuracy is not None else ()
    judge = next((output for output in outputs if output.name == candidate.judged_by), None)
    if judge is None:
        return (_share(candidate.drop), "", "")
    by = f"{judge.measure} of {judge.name}" if len(outputs) > 1 else judge.measure
    return (_share(judge.loss), _share(judge.bound), by)


def _share(value: float | None) -> str:
    return f"{value:.2%}" if value is not None else ""


def _number(value: float | None) -> str:
    return f"{value:,.0f}" if value is not None else ""


def _accuracy(search: SearchRecord) -> str:
    data = f"{search.validation.rows} rows of {search.validation.source}"
    if search.validation.kind == "random":
        data = f"{search.validation.rows} random rows, which say little of real data"
    measures: dict[tuple[str, float | None], list[str]] = {}
    for output in search.fp32.outputs:
        measures.setdefault((output.measure, output.allowed), []).append(output.name)
    said = [
        f"{', '.join(names)} by {measure or 'agreement'}, at most {_share(allowed or search.max_drop)} may be lost"
        for (measure, allowed), names in measures.items()
    ]
    own = f"FP32 has {search.fp32.top1:.2%} top-1 " if search.fp32.top1 is not None else "compared with FP32 "
    proof = "; what cannot be ruled out with 95 % confidence counts as lost" if search.prove else ""
    return f"{own}on {data}; {'; '.join(said)}{proof}"


def _served_by(candidate: CandidateRecord) -> str:
    layout = f"{candidate.instances} instance{'' if candidate.instances == 1 else 's'}"
    threads = f" of {candidate.threads} thread{'' if candidate.threads == 1 else 's'}" if candidate.threads else ""
    return f"{candidate.target} {candidate.precision}, {candidate.file}, {layout}{threads}"


def _verification(verification: Verification) -> str:
    rows = f", {verification.rows_together} rows as one batch" if verification.rows_together else ""
    inputs = "random samples" if verification.inputs == "random" else "of your samples"
    where = f"on {verification.samples} {inputs}{rows}"
    unknown = [output.name for output in verification.outputs if not output.finite]
    note = (
        f"; not the values of {', '.join(unknown)}, empty, NaN or infinite on every input that was tried: give inputs "
        "of your own with --samples"
        if unknown
        else ""
    )
    if not verification.outputs:
        return verification.candidate
    compared = [output for output in verification.outputs if output.values_compared and output.finite]
    if not compared:
        reason = "" if unknown else ": the model gives other values each time"
        return f"shapes only {where}{reason}{note}"
    worst = max(compared, key=lambda output: output.max_relative_error)
    return f"relative error {worst.max_relative_error:.2g} ({worst.tolerance:.2g} allowed) {where}{note}"
