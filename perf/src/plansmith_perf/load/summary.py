"""From what happened to each request to a measurement, and to what makes its figures doubtful."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from plansmith_perf.load.analysis import Records, distribution, latency_growth, samples_needed, stability, timeline
from plansmith_perf.load.encoded_requests import WRONG_ANSWER
from plansmith_perf.load.server_side import server_side
from plansmith_perf.results import ClosedLoop, Measurement, OpenLoop, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from plansmith_perf.load.watching import Watch

__all__ = ["summarize"]

_MESSAGES_KEPT = 20
# A generator that is busier than this, in per cent of a core, measures itself.
_BUSY_PERCENT = 90.0
_LATE_SHARE = 0.1


def summarize(
    load: ClosedLoop | OpenLoop,
    *,
    batch_size: int,
    everything: Records,
    outcomes: Sequence[str],
    throughput: float,
    watch: Watch,
    busiest: float,
    warmup_seconds: float,
    seconds: float,
    percentiles: Sequence[float],
    complete: bool = True,
) -> Measurement:
    """What the records of one load say.

    Args:
        load: that was put on the server.
        batch_size: rows a request.
        everything: all requests, those of the warm-up before 0.
        outcomes: of each request: "", or what went wrong.
        throughput: right answers per second.
        watch: finished.
        busiest: CPU of the generator's busiest process, in per cent of a core.
        warmup_seconds: length of the warm-up.
        seconds: length of the measurement, from 0 on.
        percentiles: asked for, in per cent.
        complete: False where it was interrupted.
    """
    inside = (everything.due >= 0) & (everything.due < seconds * 1e9)
    records = everything.select(inside)
    counted = zip(outcomes, inside.tolist(), strict=True)
    failures = Counter(outcome for outcome, is_inside in counted if outcome and is_inside)
    answered = records.select(records.right)
    errors = int((~records.right).sum())
    client = watch.client.usage() or Usage(cpu_percent=0.0, memory=0, processes=0)
    steady = stability(everything, seconds) if seconds else None
    lag = records.sent - records.due
    return Measurement(
        load=load,
        seconds=seconds,
        warmup_seconds=warmup_seconds,
        warmup_requests=int((everything.due < 0).sum()),
        complete=complete,
        requests=int(records.due.size),
        errors=errors,
        wrong_answers=sum(count for outcome, count in failures.items() if outcome.startswith(WRONG_ANSWER)),
        error_rate=errors / max(1, records.due.size),
        error_messages=dict(failures.most_common(_MESSAGES_KEPT)),
        throughput=throughput,
        rows_per_second=throughput * batch_size,
        latency=distribution(answered.done - answered.due, percentiles),
        service=distribution(answered.done - answered.sent, percentiles),
        dispatch_lag=distribution(lag, percentiles) if isinstance(load, OpenLoop) else None,
        stability=steady,
        latency_growth=latency_growth(records, seconds) if isinstance(load, OpenLoop) else None,
        timeline=timeline(everything, seconds),
        server_side=server_side(watch.before, watch.after),
        server_usage=watch.server.usage(),
        client_usage=client,
        notes=_notes(
            load=load,
            percentiles=percentiles,
            answered=answered,
            lag=lag,
            busiest=busiest,
            stable=steady is None or steady.stable,
        ),
    )


def _notes(
    *,
    load: ClosedLoop | OpenLoop,
    percentiles: Sequence[float],
    answered: Records,
    lag: NDArray[np.int64],
    busiest: float,
    stable: bool,
) -> list[str]:
    notes = []
    short = [percent for percent in percentiles if answered.due.size < samples_needed(percent)]
    if short:
        notes.append(
            f"too short for p{short[0]:g}: it takes {samples_needed(short[0]):,} answers, there were "
            f"{answered.due.size:,}; measure for longer with --seconds"
        )
    if not stable:
        notes.append("not stable: the throughput of its parts differs by more than 10 % and more than chance explains")
    if busiest > _BUSY_PERCENT:
        notes.append(
            f"the client is the bottleneck: one of its processes used {busiest:.0f} % of a core; give it more with "
            "--workers, or a machine of its own"
        )
    elif isinstance(load, OpenLoop) and answered.due.size:
        service = float(np.median(answered.done - answered.sent))
        if float(np.percentile(lag, 99)) > max(1e6, _LATE_SHARE * service):
            notes.append("the client was late: one request in a hundred was sent well after it was due")
    return notes
