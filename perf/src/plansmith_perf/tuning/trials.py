"""One trial: a server with one configuration, its answers compared, its throughput inside the SLO."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plansmith_client import ClientError
from plansmith_perf.errors import PerfError, WrongAnswer
from plansmith_perf.tuning.answers import compared_answers
from plansmith_perf.tuning.ladder import climb
from plansmith_perf.tuning.records import TrialRecord, TrialStatus
from plansmith_server.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plansmith_perf.load.measuring import MeasuringOptions
    from plansmith_perf.load.requests import CheckedRequest
    from plansmith_perf.slo import Slo
    from plansmith_perf.tuning.ladder import Climb
    from plansmith_perf.tuning.records import SettingRecord
    from plansmith_perf.tuning.workbench import LoadedTrial, Workbench

__all__ = ["TrialRunner"]


@dataclass
class TrialRunner:
    """What all trials of a run have in common.

    Attributes:
        workbench: where servers are made.
        reference: the inputs, and the portable configuration's answers to them.
        slo: to be kept.
        measuring: how each load is measured.
        batch_size: rows a request.
        tolerance: of answers, where the precision is not reduced.
        most: requests in flight.
        best: the trial to beat.
    """

    workbench: Workbench
    reference: Sequence[CheckedRequest]
    slo: Slo
    measuring: MeasuringOptions
    batch_size: int
    tolerance: float
    most: int
    best: TrialRecord | None = None

    def run(
        self,
        number: int,
        config: Any,
        setting: SettingRecord,
        *,
        reduced_precision: bool,
        progress: Callable[[], None] = lambda: None,
    ) -> TrialRecord:
        """Serve, compare and measure; whatever goes wrong with a configuration is its record.

        Raises:
            KeyboardInterrupt: Ctrl-C; the server is stopped.
        """
        began = time.monotonic()
        status: TrialStatus = "measured"
        reason = ""
        found: Climb | None = None
        try:
            with self.workbench.serve(config) as trial:
                self.prepare(trial, reduced_precision=reduced_precision)
                found = self._climb(trial, progress)
        except WrongAnswer as error:
            status, reason = "wrong", str(error)
        except (ServerError, ClientError, PerfError) as error:
            status, reason = "failed", str(error)
        best = found.best if found is not None else None
        shown = best
        if found is not None and found.hopeless:
            status, shown = "hopeless", found.lowest
            reason = f"{found.lowest.throughput:,.0f} requests/s with {_concurrency(found.lowest)} in flight"
        elif found is not None and best is None:
            status, shown, reason = "misses", found.lowest, f"with {_concurrency(found.lowest)} in flight"
        latency = shown.latency.percentiles[f"{self.slo.percentile:g}"] if shown and shown.latency else None
        record = TrialRecord(
            number=number,
            setting=setting,
            status=status,
            reason=reason,
            throughput=shown.throughput if shown is not None and status in ("measured", "hopeless") else 0.0,
            concurrency=_concurrency(best) if best is not None and status == "measured" else 0,
            latency=latency,
            seconds=time.monotonic() - began,
            answers=shown.requests - shown.errors if shown is not None else None,
            notes=tuple(shown.notes) if shown is not None else (),
        )
        if status == "measured" and (self.best is None or record.throughput > self.best.throughput):
            self.best = record
        return record

    def prepare(self, trial: LoadedTrial, *, reduced_precision: bool) -> None:
        """Compare the idle server's answers and encode the requests.

        Raises:
            WrongAnswer: it computes something else than the portable configuration.
            plansmith_client.ClientError: it does not answer.
        """
        answers = compared_answers(
            trial.model, self.reference, reduced_precision=reduced_precision, tolerance=self.tolerance
        )
        trial.prepare(answers, self.batch_size)

    def _climb(self, trial: LoadedTrial, progress: Callable[[], None]) -> Climb:
        start = self.best.concurrency if self.best is not None else 1
        to_beat = self.best.throughput if self.best is not None else 0.0
        series = climb(self.slo, start=start, most=self.most, to_beat=to_beat)
        load = next(series)
        while True:
            measured = trial.measure(load, self.measuring, lambda _: progress())
            try:
                load = series.send(measured)
            except StopIteration as end:
                found: Climb = end.value
                return found


def _concurrency(measurement: Any) -> int:
    return int(measurement.load.concurrency)
