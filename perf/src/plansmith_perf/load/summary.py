"""From what happened to the requests of a load to a measurement, and to what makes its figures doubtful."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plansmith_perf.load.analysis import samples_needed
from plansmith_perf.load.server_side import server_side
from plansmith_perf.load.tally import Tally
from plansmith_perf.results.documents import Measurement, OpenLoop, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plansmith_perf.load.analysis import Records
    from plansmith_perf.load.usage import Watch
    from plansmith_perf.results.documents import ClosedLoop

__all__ = ["Advice", "summarize", "tally_of"]

_MESSAGES_KEPT = 20
# A generator that is busier than this, in per cent of a core, measures itself.
_BUSY_PERCENT = 90.0
_LATE_SHARE = 0.1
_LATE_MICROSECONDS = 1000.0


@dataclass(frozen=True)
class Advice:
    """What makes figures doubtful, and what to do about it, in terms of a tool's options."""

    too_short: str = "measure for longer with --seconds"
    busy: str = "give it more with --workers, or a machine of its own"
    late: str = "the client was late: one request in a hundred was sent well after it was due"


_ADVICE = Advice()


def tally_of(records: Records, outcomes: Sequence[str], seconds: float) -> Tally:
    """The sum of all requests of a load, those of the warm-up before 0; the measurement lasts `seconds` from 0 on."""
    tally = Tally()
    tally.add(records, outcomes, end=seconds * 1e9)
    return tally


def summarize(
    tally: Tally,
    load: ClosedLoop | OpenLoop,
    *,
    batch_size: int,
    throughput: float,
    watch: Watch,
    warmup_seconds: float,
    seconds: float,
    percentiles: Sequence[float],
    client_usage: Usage | None = None,
    busiest: float | None = None,
    complete: bool = True,
    steady: bool = True,
    notes: Sequence[str] = (),
    advice: Advice = _ADVICE,
) -> Measurement:
    """The measurement of a load that has ended.

    Args:
        tally: what happened to its requests.
        load: that was put on the server.
        batch_size: rows a request.
        throughput: right answers per second.
        watch: finished.
        warmup_seconds: length of the warm-up.
        seconds: length of the measurement.
        percentiles: asked for, in per cent.
        client_usage: of the generator's processes, where the watch did not look at them.
        busiest: CPU of the busiest of them, in per cent of a core; None for what the watch has seen.
        complete: False where it was interrupted.
        steady: whether the load was meant to be the same from beginning to end.
        notes: what else a reader must know.
        advice: what to do about doubtful figures.
    """
    is_open = isinstance(load, OpenLoop)
    measured = Measurement(
        load=load,
        seconds=seconds,
        warmup_seconds=warmup_seconds,
        warmup_requests=tally.warmup_requests,
        complete=complete,
        requests=tally.requests,
        errors=tally.errors,
        wrong_answers=tally.wrong_answers,
        error_rate=tally.errors / max(1, tally.requests),
        error_messages=dict(tally.failures.most_common(_MESSAGES_KEPT)),
        throughput=throughput,
        rows_per_second=throughput * batch_size,
        latency=tally.latency.distribution(percentiles),
        service=tally.service.distribution(percentiles),
        dispatch_lag=tally.lag.distribution(percentiles) if is_open else None,
        stability=tally.stability(seconds) if steady else None,
        latency_growth=tally.latency_growth(seconds) if is_open and steady else None,
        timeline=tally.timeline(seconds),
        server_side=server_side(watch.before, watch.after),
        server_usage=watch.server.usage(),
        client_usage=client_usage or watch.client.usage() or Usage(cpu_percent=0.0, memory=0, processes=0),
        notes=[],
    )
    busiest = watch.client.busiest() if busiest is None else busiest
    notes = [*notes, *_doubts(tally, measured, percentiles, busiest, advice)]
    return measured.model_copy(update={"notes": notes})


def _doubts(
    tally: Tally, measured: Measurement, percentiles: Sequence[float], busiest: float, advice: Advice
) -> list[str]:
    notes = []
    answers = measured.requests - measured.errors
    short = [percent for percent in percentiles if answers < samples_needed(percent)]
    if short:
        notes.append(
            f"too short for p{short[0]:g}: it takes {samples_needed(short[0]):,} answers, there were {answers:,}; "
            f"{advice.too_short}"
        )
    if measured.stability is not None and not measured.stability.stable:
        notes.append("not stable: the throughput of its parts differs by more than 10 % and more than chance explains")
    if busiest > _BUSY_PERCENT:
        notes.append(
            f"the client is the bottleneck: one of its processes used {busiest:.0f} % of a core; {advice.busy}"
        )
    elif isinstance(measured.load, OpenLoop):
        lag, service = tally.lag.distribution((99.0,)), tally.service.distribution((50.0,))
        usual = service.percentiles["50"] if service is not None else 0.0
        if lag is not None and lag.percentiles["99"] > max(_LATE_MICROSECONDS, _LATE_SHARE * usual):
            notes.append(advice.late)
    return notes
