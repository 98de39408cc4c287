"""`plansmith capacity`: how many replicas a rate takes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from plansmith_client.commands.options import JsonOption  # noqa: TC001
from plansmith_client.terminal import Terminal
from plansmith_perf.capacity import capacity as capacity_of
from plansmith_perf.commands.shared_options import EXIT_MISSED
from plansmith_perf.results.documents import read_result
from plansmith_perf.results.formatting import as_milliseconds, as_rate, as_share
from plansmith_perf.slo import Slo

__all__ = ["capacity"]


def capacity(
    result: Annotated[
        Path, typer.Argument(metavar="RESULT.json", help="One replica, by `plansmith bench --rate --output`.")
    ],
    *,
    rate: Annotated[float, typer.Option(min=0.001, help="Requests per second that have to be served.")],
    slo: Annotated[str, typer.Option(metavar="p99=50ms", help="The percentile and its limit; us, ms or s.")],
    as_json: JsonOption = False,
) -> None:
    """Tell how many replicas keep an SLO at a rate, by a queueing model fitted to one that was measured.

    The model's error, measured by predicting each load from the others, is added to what it predicts. Exit code 3 where
    no number of replicas keeps the SLO.

    For example:

        plansmith capacity result.json --rate 2000 --slo p99=50ms
    """
    objective = Slo.parse(slo)
    found = capacity_of(read_result(result), rate, objective)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        console = Terminal(highlight=False, markup=False, soft_wrap=True)
        name, off = f"p{objective.percentile:g}", as_share(found.curve.error)
        if found.replicas is None:
            console.print(
                f"No number of replicas keeps {slo}: one alone takes about {as_milliseconds(found.latency)} ms, and "
                f"{as_milliseconds(found.latency * (1 + found.curve.error))} ms with the model's error"
            )
        else:
            console.print(
                f"{found.replicas} replica{'s' * (found.replicas != 1)}: {as_rate(found.each)}/s each, where {name} is "
                f"about {as_milliseconds(found.latency)} ms"
            )
        console.print(f"The measured {name} was off the model's by {off} at most; that is allowed for.")
    if found.replicas is None:
        raise typer.Exit(EXIT_MISSED)
