"""From what happened to the requests of a load to a measurement, and to what makes its figures doubtful."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plansmith_perf.load.analysis import samples_needed
from plansmith_perf.load.server_side import server_side
from plansmith_perf.load.tally import Tally
from plansmith_perf.results.documents import ClosedLoop, Measurement, OpenLoop, ServerSide, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plansmith_perf.load.analysis import Records
    from plansmith_perf.load.watching import Watch

__all__ = ["Advice", "Circumstances", "measurement_of", "summarize"]

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


@dataclass(frozen=True)
class Circumstances:
    """What is known of a load in addition to what happened to its requests.

    Attributes:
        load: that was put on the server.
        batch_size: rows a request.
        throughput: right answers per second.
        warmup_seconds: length of the warm-up.
        seconds: length of the measurement.
        percentiles: asked for, in per cent.
        complete: False where it was interrupted.
        server_side: the server's own statistics.
        server_usage: of its processes.
        client_usage: of the generator's processes.
        busiest: CPU of the generator's busiest process, in per cent of a core.
        steady: whether the load was meant to be the same from beginning to end.
        notes: what else a reader must know.
        advice: what to do about doubtful figures.
    """

    load: ClosedLoop | OpenLoop
    batch_size: int
    throughput: float
    warmup_seconds: float
    seconds: float
    percentiles: Sequence[float]
    complete: bool
    server_side: ServerSide | None
    server_usage: Usage | None
    client_usage: Usage
    busiest: float
    steady: bool = True
    notes: Sequence[str] = ()
    advice: Advice = Advice()


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
    tally = Tally()
    tally.add(everything, outcomes, end=seconds * 1e9)
    return measurement_of(
        tally,
        Circumstances(
            load=load,
            batch_size=batch_size,
            throughput=throughput,
            warmup_seconds=warmup_seconds,
            seconds=seconds,
            percentiles=percentiles,
            complete=complete,
            server_side=server_side(watch.before, watch.after),
            server_usage=watch.server.usage(),
            client_usage=watch.client.usage() or Usage(cpu_percent=0.0, memory=0, processes=0),
            busiest=busiest,
        ),
    )


def measurement_of(tally: Tally, circumstances: Circumstances) -> Measurement:
    """The measurement of a load that has ended."""
    load, percentiles, seconds = circumstances.load, circumstances.percentiles, circumstances.seconds
    stability = tally.stability(seconds) if circumstances.steady else None
    measured = Measurement(
        load=load,
        seconds=seconds,
        warmup_seconds=circumstances.warmup_seconds,
        warmup_requests=tally.warmup_requests,
        complete=circumstances.complete,
        requests=tally.requests,
        errors=tally.errors,
        wrong_answers=tally.wrong_answers,
        error_rate=tally.errors / max(1, tally.requests),
        error_messages=dict(tally.failures.most_common(_MESSAGES_KEPT)),
        throughput=circumstances.throughput,
        rows_per_second=circumstances.throughput * circumstances.batch_size,
        latency=tally.latency.distribution(percentiles),
        service=tally.service.distribution(percentiles),
        dispatch_lag=tally.lag.distribution(percentiles) if isinstance(load, OpenLoop) else None,
        stability=stability,
        latency_growth=tally.latency_growth(seconds) if isinstance(load, OpenLoop) and circumstances.steady else None,
        timeline=tally.timeline(seconds),
        server_side=circumstances.server_side,
        server_usage=circumstances.server_usage,
        client_usage=circumstances.client_usage,
        notes=[],
    )
    notes = [*circumstances.notes, *_doubts(tally, measured, circumstances)]
    return measured.model_copy(update={"notes": notes})


def _doubts(tally: Tally, measured: Measurement, circumstances: Circumstances) -> list[str]:
    notes = []
    advice = circumstances.advice
    answers = measured.requests - measured.errors
    short = [percent for percent in circumstances.percentiles if answers < samples_needed(percent)]
    if short:
        notes.append(
            f"too short for p{short[0]:g}: it takes {samples_needed(short[0]):,} answers, there were {answers:,}; "
            f"{advice.too_short}"
        )
    if measured.stability is not None and not measured.stability.stable:
        notes.append("not stable: the throughput of its parts differs by more than 10 % and more than chance explains")
    if circumstances.busiest > _BUSY_PERCENT:
        notes.append(
            f"the client is the bottleneck: one of its processes used {circumstances.busiest:.0f} % of a core; "
            f"{advice.busy}"
        )
    elif isinstance(circumstances.load, OpenLoop):
        lag, service = tally.lag.distribution((99.0,)), tally.service.distribution((50.0,))
        usual = service.percentiles["50"] if service is not None else 0.0
        if lag is not None and lag.percentiles["99"] > max(_LATE_MICROSECONDS, _LATE_SHARE * usual):
            notes.append(advice.late)
    return notes
