"""`plansmith demo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from plansmith.demo.program import FILES, Demonstration, run

__all__ = ["demo"]


def demo(
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder to work in; made if need be.", file_okay=False)
    ] = Path("plansmith-demo"),
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Build, serve and ask a small model, and show what it saw: half a minute.

    A classifier of handwritten digits comes with plansmith. It is built into a verified version, served by NVIDIA's
    Triton on free ports of this machine, asked over gRPC and HTTP, and compared with ONNX Runtime in this process.
    Nothing outside the folder changes, and the server is stopped at the end.

    For example:

        plansmith demo --output /tmp/demo
    """
    seen = run(FILES, output, Console(record=True, stderr=json_))
    if json_:
        print(json.dumps(_document(seen)))  # noqa: T201


def _document(seen: Demonstration) -> dict[str, object]:
    return {
        "version": seen.version,
        "repository": str(seen.repository),
        "picture": str(seen.picture),
        "seconds": round(seen.seconds, 1),
        "measured": {
            name: {
                "accuracy": measurement.accuracy(seen.labels),
                **{f"p{percent}_ms": measurement.percentile(percent) for percent in (50, 95, 99)},
                "images_per_second": measurement.images_per_second,
            }
            for name, measurement in seen.measured.items()
        },
    }
