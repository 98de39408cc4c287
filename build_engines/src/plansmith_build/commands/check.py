"""`plansmith check`."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.markup import escape

from plansmith_build.commands.build_display import current_step
from plansmith_build.commands.confinement import Limits, MemoryOption, TimeOption, confined
from plansmith_build.engines.tensorrt.options import PlanOptions
from plansmith_build.engines.tensorrt_rtx.capabilities import parse_capabilities
from plansmith_client.commands.options import JsonOption  # noqa: TC001 - typer reads the annotations
from plansmith_client.terminal import Column, FittingTable, Terminal, facts_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from plansmith_build.checking import Answer, CheckReport
    from plansmith_build.progress import BuildStep

__all__ = ["check"]

EXIT_REFUSED = 3
_STYLES = {"yes": "green", "no": "red", "unknown": "dim"}


_Engine = StrEnum("_Engine", ["onnxruntime", "openvino", "tensorrt"])
_Precision = StrEnum("_Precision", ["fp32", "fp16", "bf16", "int8", "int8-fp16", "w8a16", "w4a16", "fp8", "w4"])


def check(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The ONNX file.")],
    *,
    target: Annotated[
        list[_Engine] | None,
        typer.Option(help="Ask this engine; may be repeated. By default all, and a refusal does not fail the command."),
    ] = None,
    precision: Annotated[
        list[_Precision] | None,
        typer.Option(help="Ask for this precision; may be repeated. By default those that an engine may gain by."),
    ] = None,
    max_batch_size: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Largest batch that would be served; 0 for no batches.")
    ] = 32,
    profile: Annotated[
        str | None, typer.Option(help="name:min,opt,max shapes for TensorRT, as `plansmith build` takes them.")
    ] = None,
    compute_capability: Annotated[
        str,
        typer.Option(help="What TensorRT for RTX compiles for, such as 8.6,8.9,12.0. By default for Ampere and later."),
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Makes the random inputs repeatable.")] = 0,
    memory_limit: MemoryOption = None,
    time_limit: TimeOption = 1800.0,
    as_json: JsonOption = False,
) -> None:
    """Find out what each engine says to an ONNX file; nothing is published.

    ONNX Runtime and OpenVINO run it on random inputs. TensorRT for RTX, NVIDIA's own compiler, compiles it without a
    GPU: what it refuses, TensorRT refuses, too. Accuracy is for `plansmith build --data` to judge.

    Exits with 3 where an engine that was asked for by --target takes the model in no precision.

    For example:

        plansmith check resnet50.onnx
        plansmith check resnet50.onnx --target tensorrt --precision int8
    """

    def work(alive: Callable[[], None]) -> None:
        from plansmith_build.checking import CheckOptions  # noqa: PLC0415 - onnx and ONNX Runtime, not for `--help`
        from plansmith_build.checking import check as check_file  # noqa: PLC0415
        from plansmith_build.search.targets import Precision, Target  # noqa: PLC0415

        options = CheckOptions(
            targets=tuple(Target(entry.value) for entry in target or ()),
            precisions=tuple(Precision(entry.value) for entry in precision or ()),
            max_batch_size=max_batch_size,
            plan=PlanOptions(profile=profile or "", compute_capabilities=parse_capabilities(compute_capability)),
            seed=seed,
        )
        display = Terminal(stderr=True, highlight=False, soft_wrap=True)
        with display.status("Loading onnx and ONNX Runtime") as status:

            def progress(step: BuildStep) -> None:
                alive()
                if not step.outcome:
                    status.update(current_step(step))

            report = check_file(model, options, progress)
        if as_json:
            typer.echo(json.dumps(asdict(report), indent=2))
        else:
            _show(Terminal(highlight=False), report)
        if any(report.refused_by(entry.value) for entry in target or ()):
            raise typer.Exit(EXIT_REFUSED)

    confined(work, Limits(memory_limit, time_limit), subject=str(model))


def _show(console: Terminal, report: CheckReport) -> None:
    facts = facts_table()
    facts.add_row("model", escape(f"{report.file}, {decimal(report.size)}, {report.nodes} nodes, opset {report.opset}"))
    facts.add_row("inputs", escape("\n".join(report.inputs)))
    facts.add_row("outputs", escape("\n".join(report.outputs)))
    batches = f"up to {report.max_batch_size} rows: " if report.max_batch_size else "none: "
    facts.add_row("batches", escape(batches + report.batching))
    if report.repairs:
        facts.add_row("repairs", escape("\n".join(report.repairs)))
    console.print(facts)
    console.print()
    columns = [Column(heading, "words") for heading in ("engine", "device", "precision", "", "what it says")]
    rows = [
        (engine, device.upper(), " ".join(answer.precision for answer in answers), verdict, said)
        for (engine, device, verdict, said), answers in _alike(report.answers).items()
    ]
    console.print(FittingTable(columns, rows, styles=[_STYLES[row[3]] for row in rows]))


def _alike(answers: tuple[Answer, ...]) -> dict[tuple[str, str, str, str], list[Answer]]:
    """Answers by what they say: an obstacle of one engine is often the same in every precision."""
    found: dict[tuple[str, str, str, str], list[Answer]] = {}
    for answer in answers:
        found.setdefault((answer.target, answer.device, answer.verdict, _in_words(answer)), []).append(answer)
    return found


def _in_words(answer: Answer) -> str:
    words = [answer.said]
    if answer.size is not None:
        words.append(f"{decimal(answer.size)} in {answer.seconds or 0:.1f} s")
    if answer.relative_error is not None:
        words.append(f"relative error {answer.relative_error:.1g}")
    return ", ".join(words)
