"""Puts one load on a server with perf_analyzer, in the form of plansmith's own measurements."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psutil

from plansmith_build.repository.staging import temporary_folder
from plansmith_client.transports.addresses import Address
from plansmith_perf.load.analysis import Records
from plansmith_perf.load.server_side import read_counters
from plansmith_perf.load.summary import summarize, tally_of
from plansmith_perf.load.tally import Tally
from plansmith_perf.load.usage import Watch, server_processes
from plansmith_perf.perf_analyzer.program import WINDOWS
from plansmith_perf.results.documents import ClosedLoop, Distribution, Measurement, OpenLoop, Stability

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plansmith_perf.load.measuring import MeasuringOptions
    from plansmith_perf.perf_analyzer.files import PerfAnalyzerReport, RequestTimes
    from plansmith_perf.perf_analyzer.program import PerfAnalyzer, Question

__all__ = ["measure_with_perf_analyzer"]

_UNCHECKED = "perf_analyzer does not look at the answers"
_FROM_THE_SEND = "perf_analyzer counts latency from the moment of sending: what was sent late does not show"
_NOT_SETTLED = (
    "not stable: in no {wanted} of its windows in a row did perf_analyzer see an answer; it tells no more than "
    "throughput and mean latency then, the warm-up included: measure for longer with --seconds"
)
_DROPPED = "not stable: in {count} of perf_analyzer's {total} windows nothing was answered"
_SUMS_ONLY = (
    "perf_analyzer told no more than mean and percentiles: with the times of each request it exports its inputs and "
    "outputs as text, and those of this model are too large for that; so the warm-up is in its figures"
)


def measure_with_perf_analyzer(
    analyzer: PerfAnalyzer,
    question: Question,
    load: ClosedLoop | OpenLoop,
    options: MeasuringOptions,
    *,
    url: str,
    each_request: bool,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[Measurement, str]:
    """Put one load on a server; Ctrl-C ends it without a measurement, because perf_analyzer keeps none.

    Args:
        analyzer: the program.
        question: what to ask.
        load: how.
        options: for how long, and so on; the warm-up is the first part of what perf_analyzer measures.
        url: of the server, for its statistics.
        each_request: have the times of each request exported.
        progress: called with the share of the time that has passed.

    Returns:
        The measurement, and "": where a request fails perf_analyzer measures nothing.

    Raises:
        plansmith_perf.PerfError: perf_analyzer failed.
    """
    total = options.warmup_seconds + options.seconds
    watch: Watch | None = None
    start = time.monotonic_ns()
    begin, end = start + int(options.warmup_seconds * 1e9), start + int(total * 1e9)

    def watching(client: Sequence[psutil.Process]) -> Watch:
        return Watch(
            server=server_processes(Address.parse(url)),
            client=client,
            counters=lambda: read_counters(url, question.model, question.version),
        )

    def look(process: int) -> None:
        nonlocal watch
        watch = watch or watching([psutil.Process(process)])
        now = time.monotonic_ns()
        # The last readings are taken while perf_analyzer still runs: its processor time is among them.
        watch.look(min(now, end - 1), begin, end)
        progress(min(1.0, (now - start) / 1e9 / total))

    with temporary_folder() as folder:
        report = analyzer.run(question, load, seconds=total, folder=folder, each_request=each_request, watch=look)
    watch = watch or watching([])
    watch.finish()
    notes = [_UNCHECKED, *([_FROM_THE_SEND] if isinstance(load, OpenLoop) else [])]
    if report.times is not None:
        measured = _from_times(report.times, load, options, question.batch_size, watch)
    else:
        measured = _from_sums(report, load, total, question.batch_size, watch)
        notes.append(_SUMS_ONLY if report.settled else _NOT_SETTLED.format(wanted=WINDOWS))
    empty = sum(not window.rows_per_second for window in report.windows)
    if report.settled and not empty:
        return measured.model_copy(update={"notes": [*measured.notes, *notes]}), ""
    if report.settled:
        notes.append(_DROPPED.format(count=empty, total=len(report.windows)))
    shaky = _unstable([window.rows_per_second / question.batch_size for window in report.windows])
    return measured.model_copy(update={"notes": [*measured.notes, *notes], "stability": shaky}), ""


def _unstable(rates: Sequence[float]) -> Stability:
    mean = sum(rates) / len(rates) if rates else 0.0
    spread = max(abs(rate - mean) for rate in rates) / mean if mean else 0.0
    return Stability(stable=False, throughput=list(rates), spread=spread)


def _from_times(
    times: RequestTimes, load: ClosedLoop | OpenLoop, options: MeasuringOptions, batch_size: int, watch: Watch
) -> Measurement:
    skipped = int(options.warmup_seconds * 1e9)
    old = times.records
    records = Records(old.due - skipped, old.sent - skipped, old.done - skipped, old.right)
    seconds = max(0.0, times.seconds - options.warmup_seconds)
    tally = tally_of(records, [""] * len(records.due), seconds)
    measured = summarize(
        tally,
        load,
        batch_size=batch_size,
        throughput=tally.per_second(seconds),
        watch=watch,
        warmup_seconds=options.warmup_seconds,
        seconds=seconds,
        percentiles=options.percentiles,
    )
    return measured.model_copy(update={"dispatch_lag": None})


def _from_sums(
    report: PerfAnalyzerReport, load: ClosedLoop | OpenLoop, seconds: float, batch_size: int, watch: Watch
) -> Measurement:
    requests_per_second = report.rows_per_second / batch_size
    requests = round(requests_per_second * seconds)
    latency = None
    if report.mean_latency is not None:
        latency = Distribution(
            count=requests,
            mean=report.mean_latency,
            minimum=None,
            maximum=None,
            percentiles={f"{percent:g}": value for percent, value in report.latency.items()},
            histogram=None,
        )
    measured = summarize(
        Tally(),
        load,
        batch_size=batch_size,
        throughput=requests_per_second,
        watch=watch,
        warmup_seconds=0.0,
        seconds=seconds,
        percentiles=(),
        busiest=0.0,
        steady=False,
    )
    told: dict[str, Any] = {
        "requests": requests,
        "latency": latency,
        "service": latency,
        "dispatch_lag": None,
        "timeline": [],
    }
    return measured.model_copy(update=told)
