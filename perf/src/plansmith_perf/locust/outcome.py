"""What a load test with Locust ends with: a result document, a summary, and whether the SLO was kept."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from plansmith_perf.load.analysis import samples_needed
from plansmith_perf.load.summary import Advice
from plansmith_perf.results.documents import ClosedLoop, LoadTestResult, Measurement, OpenLoop, SloOutcome
from plansmith_perf.results.environment import describe_environment
from plansmith_perf.results.formatting import as_given

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plansmith_perf.load.tally import Tally
    from plansmith_perf.locust.node import Prepared
    from plansmith_perf.locust.options import LoadOptions
    from plansmith_perf.slo import Slo

__all__ = [
    "ADVICE",
    "Outcome",
    "describe_shape",
    "headings",
    "keeps_slo",
    "latency_rows",
    "load_of",
    "make_result",
    "summary",
]

ADVICE = Advice(
    too_short="run for longer",
    busy="give it more with --processes, or a machine of its own; plansmith bench asks for less",
    late="one request in a hundred was sent well after it was due: all users were busy, or other programs wanted the "
    "processor; if the former, give it more with --users",
)


@dataclass(frozen=True)
class Outcome:
    """A finished test.

    Attributes:
        measurement: what was measured.
        slo_met: see `keeps_slo`.
        interruption: why it ended early; "" where it did not.
    """

    measurement: Measurement
    slo_met: bool | None
    interruption: str


def load_of(options: LoadOptions, recorded_rate: float) -> ClosedLoop | OpenLoop:
    """The load that was asked for, at its peak.

    Args:
        options: of the test.
        recorded_rate: requests per second of a replayed log.
    """
    if options.is_open_loop:
        arrivals = options.arrivals if options.arrival_log is None else "recorded"
        return OpenLoop(rate=options.arrival_rate or recorded_rate, arrivals=arrivals)
    return ClosedLoop(concurrency=options.users)


def describe_shape(options: LoadOptions) -> list[str]:
    """What a reader must know of a load that is not the same from beginning to end."""
    if options.load_shape == "constant":
        return []
    if options.arrival_log is not None:
        return [f"the load was a replay of the arrivals recorded in {options.arrival_log.name}"]
    words = {
        "ramp": "along a line",
        "step": f"in {options.shape_steps} steps",
        "spike": f"for {options.shape_spike:.0%} of the run time",
    }[options.load_shape]
    unit = f"{as_given(options.arrival_rate)} requests/s" if options.is_open_loop else f"{options.users} users"
    return [f"the load was a {options.load_shape}: from {options.shape_base:.0%} of {unit} to all of it, {words}"]


def keeps_slo(options: LoadOptions, measurement: Measurement) -> bool | None:
    """Whether the SLO was kept; None where there was none, or where too few answers came to say that it was."""
    if options.slo is None or not measurement.complete:
        return None
    if not options.slo.is_met(measurement):
        return False
    return True if options.slo.has_enough(measurement) else None


def make_result(
    options: LoadOptions, protocol: Literal["grpc", "http"], prepared: Prepared, workers: int, outcome: Outcome
) -> LoadTestResult:
    """The document that `plansmith bench` writes too."""
    slo = None
    if options.slo is not None and outcome.slo_met is not None:
        rate = options.arrival_rate if outcome.slo_met and options.load_shape == "constant" else 0.0
        slo = SloOutcome(slo=options.slo.text, met=outcome.slo_met, rate=rate or None)
    return LoadTestResult(
        tool="locust",
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        model=prepared.model,
        model_version=", ".join(prepared.versions),
        protocol=protocol,
        served=prepared.served,
        batch_size=options.batch_size,
        inputs=options.requests.inputs,
        expected_answers=options.golden.name if options.golden else "idle server",
        workers=workers,
        environment=describe_environment(prepared.server),
        complete=outcome.measurement.complete,
        interruption=outcome.interruption or None,
        measurements=[outcome.measurement],
        slo=slo,
    )


def headings(percentiles: Sequence[float]) -> list[str]:
    """Of the columns of `latency_rows`."""
    return ["", *(f"p{percent:g}" for percent in percentiles), "max"]


def latency_rows(tally: Tally, percentiles: Sequence[float], *, is_open_loop: bool) -> list[list[str]]:
    """What was measured, and its percentiles and maximum in milliseconds, with the resolution of a microsecond."""
    rows = []
    found = {"latency": tally.latency}
    if is_open_loop:
        found |= {"service": tally.service, "sent late by": tally.lag}
    for name, durations in found.items():
        # A percentile is the upper end of its bucket.
        times = [min(time, durations.maximum) for time in durations.percentiles(percentiles)]
        if times:
            rows.append([name, *(f"{time / 1000:.3f}" for time in (*times, durations.maximum))])
    return rows


def summary(options: LoadOptions, outcome: Outcome, tally: Tally) -> list[str]:
    """The lines to print at the end of a test."""
    measured = outcome.measurement
    rows = latency_rows(tally, options.percentiles, is_open_loop=options.is_open_loop)
    answers = measured.requests - measured.errors
    clock = "from the time when each request was due" if options.is_open_loop else "from the time when each was sent"
    lines = [
        f"{answers:,} right answers to {measured.requests:,} requests in {measured.seconds:.1f} s:",
        f"{measured.throughput:,.1f} a second; milliseconds {clock}:",
        *(
            f"{row[0]:12}" + "".join(f"{cell:>11}" for cell in row[1:])
            for row in [headings(options.percentiles), *rows]
        ),
        *(f"{count} x {message}" for message, count in measured.error_messages.items()),
        *measured.notes,
    ]
    if outcome.interruption:
        lines.append(f"ended early: {outcome.interruption}; the result is partial")
    if options.slo is not None:
        lines.append(f"the SLO {options.slo.text} {_verdict(options.slo, outcome)}")
    return lines


def _verdict(slo: Slo, outcome: Outcome) -> str:
    if outcome.slo_met is not None:
        return "is kept" if outcome.slo_met else f"is missed: {slo.why_missed(outcome.measurement)}"
    if outcome.interruption:
        return "cannot be judged"
    return f"cannot be judged: p{slo.percentile:g} takes {samples_needed(slo.percentile):,} answers"
