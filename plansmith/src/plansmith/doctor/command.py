"""`plansmith doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plansmith.doctor import engines, machine
from plansmith_client.commands.options import JsonOption  # noqa: TC001 - typer reads the annotations
from plansmith_client.terminal import Terminal

if TYPE_CHECKING:
    from plansmith.doctor.findings import Finding

__all__ = ["doctor"]

_EXIT_FAILED = 3
_STYLES = {"ok": "green", "absent": "dim", "warning": "yellow", "failed": "red"}


def doctor(
    repository: Annotated[
        Path, typer.Option("--repository", "-r", help="The folder whose disk and plans are looked at.", exists=True)
    ] = Path(),
    http_port: Annotated[int, typer.Option("--http-port", min=1, max=65535, help="For HTTP.")] = 8000,
    grpc_port: Annotated[int, typer.Option("--grpc-port", min=1, max=65535, help="For gRPC.")] = 8001,
    metrics_port: Annotated[int, typer.Option("--metrics-port", min=1, max=65535, help="For Prometheus.")] = 8002,
    *,
    as_json: JsonOption = False,
) -> None:
    """Try what this machine has to build and serve with: a line for each thing, and what to do.

    Engines are not only looked for: a session is opened and runs. Exit code 0: what is needed works; 3: something that
    is needed, or that is there, does not. A GPU is not needed.

    For example:

        plansmith doctor
        plansmith doctor --http-port 9000 --json
    """
    numbers = {"--http-port": http_port, "--grpc-port": grpc_port, "--metrics-port": metrics_port}
    findings = [
        machine.driver(),
        machine.cuda(),
        engines.tensorrt(),
        engines.triton(),
        *engines.onnxruntime_providers(),
        engines.openvino(),
        engines.plans(repository),
        *machine.disk(repository.resolve()),
        machine.shared_memory(),
        *machine.ports(numbers),
    ]
    if as_json:
        typer.echo(json.dumps({"findings": [asdict(finding) for finding in findings]}))
    else:
        _show(findings)
    if any(finding.status == "failed" for finding in findings):
        raise typer.Exit(_EXIT_FAILED)


def _show(findings: list[Finding]) -> None:
    console = Terminal(highlight=False, soft_wrap=True)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        remedy = f"; {finding.remedy}" if finding.remedy else ""
        line = f"{finding.status:8} {finding.name:{width}}  {finding.detail}{remedy}"
        console.print(line, style=_STYLES[finding.status], markup=False)
