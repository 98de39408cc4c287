"""What `plansmith bench` is to measure, for the benchmark and for the generators that make its load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_perf.load.measuring import MeasuringOptions
    from plansmith_perf.results.documents import ClosedLoop, OpenLoop
    from plansmith_perf.slo import Slo

__all__ = ["BenchmarkOptions"]


@dataclass(frozen=True)
class BenchmarkOptions:
    """What to measure.

    Attributes:
        url: the server.
        model: its model's name.
        version: of the model; "" for the server's choice.
        loads: in this order; with an SLO those of its search are measured instead.
        samples: file of real samples, or None for random values.
        golden: file of the right answers to them, or None.
        distinct_inputs: the most different requests to send.
        batch_size: rows a request.
        measuring: how each load is measured.
        tool: what makes the load: plansmith itself, or NVIDIA's perf_analyzer.
        rounds: how often the series of loads is measured; one after the other, so that what changes on the machine
            meets all loads alike.
        slo: find the highest rate that keeps it.
        arrivals: how that search spaces requests.
    """

    url: str
    model: str
    version: str
    loads: tuple[ClosedLoop | OpenLoop, ...]
    samples: Path | None
    golden: Path | None
    distinct_inputs: int
    batch_size: int
    measuring: MeasuringOptions
    tool: Literal["plansmith", "perf_analyzer"] = "plansmith"
    rounds: int = 1
    slo: Slo | None = None
    arrivals: Literal["poisson", "constant"] = "poisson"
