"""What `plansmith bench` is to measure, for the benchmark and for the generators that make its load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from plansmith_perf.load.samples import RequestOptions

if TYPE_CHECKING:
    from plansmith_perf.results.documents import ClosedLoop, OpenLoop
    from plansmith_perf.slo import Slo

__all__ = ["BenchmarkOptions"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(RequestOptions):
    """What to measure.

    Attributes:
        url: the server.
        model: its model's name.
        version: of the model; "" for the server's choice.
        loads: in this order; with an SLO those of its search are measured instead.
        tool: what makes the load: plansmith itself, or NVIDIA's perf_analyzer.
        rounds: how often the series of loads is measured; one after the other, so that what changes on the machine
            meets all loads alike.
        slo: find the highest rate that keeps it.
        arrivals: how that search spaces requests.
    """

    url: str
    model: str
    version: str = ""
    loads: tuple[ClosedLoop | OpenLoop, ...]
    tool: Literal["plansmith", "perf_analyzer"] = "plansmith"
    rounds: int = 1
    slo: Slo | None = None
    arrivals: Literal["poisson", "constant"] = "poisson"
