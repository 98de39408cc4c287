"""What a report says first: the answer in a sentence or two, and what to know before trusting it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from plansmith_perf.comparing.results import Comparison, median_throughput, paired_ratio
from plansmith_perf.load.latencies import settled_latency
from plansmith_perf.report.environment_tables import differences
from plansmith_perf.results.documents import ClosedLoop, LoadTestResult
from plansmith_perf.results.formatting import as_milliseconds, as_rate, as_ratio, as_share, load_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plansmith_perf.report.documents import Document
    from plansmith_perf.results.documents import Measurement, OpenLoop, SloOutcome
    from plansmith_perf.tuning.records import TuningRecord

__all__ = ["Summary", "summarize"]

# A load that gives this share of the highest throughput is as good as the one that gives it.
_NEARLY_ALL = 0.95
_LOCUST = "locust"


@dataclass(frozen=True)
class Summary:
    """The beginning of a report.

    Attributes:
        answers: sentences, the most important first.
        warnings: what makes the figures incomplete or not comparable.
        notes: what the measurements themselves say about how far to trust them.
    """

    answers: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def summarize(documents: Mapping[str, Document]) -> Summary:
    """The summary of all documents together."""
    answers: list[str] = []
    warnings: list[str] = []
    notes: list[str] = []
    for name, document in documents.items():
        before = f"{name}: " if len(documents) > 1 else ""
        if isinstance(document, LoadTestResult):
            answers += [before + sentence for sentence in _load_answers(document)]
            warnings += [before + sentence for sentence in _load_warnings(document)]
            notes += [before + sentence for sentence in _load_notes(document)]
        elif isinstance(document, Comparison):
            answers += [before + sentence for sentence in _comparison_answers(document)]
            warnings += [before + sentence for sentence in _comparison_warnings(document)]
            notes += [before + note for note in document.notes]
        else:
            answers += [before + sentence for sentence in _tuning_answers(document)]
    different = differences(documents)
    if different:
        warnings.append(
            f"The results differ in {_and(different)}: compare them with that in mind, or measure again with "
            "everything else alike."
        )
    return Summary(tuple(answers), tuple(warnings), tuple(notes))


def _load_answers(result: LoadTestResult) -> list[str]:
    sentences = []
    if result.slo is not None:
        if result.tool == _LOCUST:
            sentences += _locust_answers(result, result.slo)
        elif result.slo.met:
            rate = as_rate(result.slo.rate)
            sentences.append(f"{result.model} keeps {result.slo.slo} up to {rate} requests/s, confirmed by a run.")
        else:
            sentences.append(f"{result.model} does not keep {result.slo.slo} at any rate that was tried.")
    best = max(result.measurements, key=lambda measured: measured.throughput, default=None)
    if best is None or not best.throughput:
        return [*sentences, f"{result.model} gave no right answer."]
    if result.slo is None:
        # An open loop shows what was asked for, and not what the server could do.
        most = "at most " if isinstance(best.load, ClosedLoop) else ""
        doubt = " (not stable)" if best.stability is not None and not best.stability.stable else ""
        sentences.append(f"{result.model} answered {most}{as_rate(best.throughput)} requests/s{doubt}, {_at(best)}.")
        enough = _enough(result, best)
        if enough is not None:
            sentences.append(
                f"With {load_name(enough.load)} it was {enough.throughput / best.throughput:.0%} of that already"
                f"{_latencies(enough)}."
            )
    requests = sum(measured.requests for measured in result.measurements)
    errors = sum(measured.errors for measured in result.measurements)
    if errors:
        sentences.append(f"{errors:,} of {requests:,} requests failed ({as_share(errors / max(1, requests))}).")
    else:
        sentences.append(f"None of the {requests:,} requests failed.")
    return sentences


def _locust_answers(result: LoadTestResult, slo: SloOutcome) -> list[str]:
    """Locust puts the load on a server that it is told, and looks for no highest rate that keeps the objective."""
    verb = "kept" if slo.met else "did not keep"
    return [
        f"{result.model} {verb} {slo.slo} in one run of Locust {_at_most(measured.load)}; what it "
        "keeps under another load was not measured."
        for measured in result.measurements
    ]


def _at_most(load: ClosedLoop | OpenLoop) -> str:
    """The load of a run that may have been lower at times."""
    if isinstance(load, ClosedLoop):
        return f"with at most {load_name(load)}"
    arrivals = f"{load_name(load)} arrivals"
    return f"at {arrivals} on average" if load.arrivals == "recorded" else f"at {arrivals} or less"


def _enough(result: LoadTestResult, best: Measurement) -> Measurement | None:
    """The least load that gives nearly the highest throughput, where that is less than the load that gives it."""
    if not isinstance(best.load, ClosedLoop):
        return None
    good = [
        (measured.load.concurrency, number, measured)
        for number, measured in enumerate(result.measurements)
        if isinstance(measured.load, ClosedLoop) and measured.throughput >= _NEARLY_ALL * best.throughput
    ]
    concurrency, _, enough = min(good)
    return enough if concurrency < best.load.concurrency else None


def _at(measured: Measurement) -> str:
    load = measured.load
    where = f"with {load_name(load)}" if isinstance(load, ClosedLoop) else f"at {load_name(load)} arrivals"
    return where + _latencies(measured)


def _latencies(measured: Measurement) -> str:
    median, p99 = settled_latency(measured.latency, 50), settled_latency(measured.latency, 99)
    if median is None:
        return ""
    slowest = f", 99 % within {as_milliseconds(p99)} ms" if p99 is not None else ""
    return f": half of the answers within {as_milliseconds(median)} ms{slowest}"


def _load_warnings(result: LoadTestResult) -> list[str]:
    if result.complete and all(measured.complete for measured in result.measurements):
        return []
    why = f": {result.interruption}" if result.interruption else ""
    return [f"This result is partial{why}. It covers what was measured until then."]


def _load_notes(result: LoadTestResult) -> list[str]:
    loads: dict[str, list[str]] = {}
    for measured in result.measurements:
        for note in measured.notes:
            loads.setdefault(note, []).append(load_name(measured.load))
    # Not with commas: the name of an open loop has one.
    return [f"{'; '.join(dict.fromkeys(names))}: {note}" for note, names in loads.items()]


def _comparison_answers(comparison: Comparison) -> list[str]:
    by_name = {peer.name: peer for peer in comparison.peers}
    baseline = by_name.get(comparison.baseline)
    theirs = median_throughput(baseline) if baseline is not None else None
    sentences = []
    for peer in comparison.peers:
        ratio = paired_ratio(comparison, peer.name)
        if peer.kind == "plansmith" and peer is not baseline and ratio is not None:
            mine = median_throughput(peer)
            sentences.append(
                f"{peer.name} answered {as_ratio(ratio)} as many requests as {comparison.baseline}: "
                f"{as_rate(mine)}/s against {as_rate(theirs)}/s."
            )
    fastest = max(comparison.peers, key=lambda peer: median_throughput(peer) or 0.0, default=None)
    rate = median_throughput(fastest) if fastest is not None else None
    if fastest is None or rate is None:
        return ["No peer was measured."]
    return [*sentences, f"The fastest of {len(comparison.peers)} was {fastest.name} with {as_rate(rate)} answers/s."]


def _comparison_warnings(comparison: Comparison) -> list[str]:
    sentences = [] if comparison.complete else ["This comparison is partial: it holds the rounds until it was ended."]
    said = {"wrong": "answered wrongly", "failed": "failed", "unavailable": "could not be measured"}
    return sentences + [
        f"{peer.name} {said[peer.status]}{f': {peer.reason}' if peer.reason else ''}."
        for peer in comparison.peers
        if peer.status != "measured"
    ]


def _tuning_answers(record: TuningRecord) -> list[str]:
    sentences = [record.verdict if record.verdict.endswith((".", "!", "?")) else f"{record.verdict}."]
    if record.winner is not None and record.ratio is not None:
        p_value = f" (p = {record.p_value:.2g})" if record.p_value is not None else ""
        sentences.append(f"The winner is {record.trial(record.winner).setting}: {as_ratio(record.ratio)}{p_value}.")
    return sentences


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
