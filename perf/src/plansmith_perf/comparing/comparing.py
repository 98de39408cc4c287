"""Measures a model on every peer in interleaved rounds: the work of `plansmith bench compare`."""

from __future__ import annotations

import datetime as dt
import math
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from plansmith_build.errors import BuildError
from plansmith_client import ClientError
from plansmith_perf.comparing.answers import Agreement, compare_answers
from plansmith_perf.comparing.peer import PeerUnavailable
from plansmith_perf.comparing.results import Comparison, PeerResult, PeerStatus
from plansmith_perf.comparing.subject import Subject, open_subject
from plansmith_perf.errors import PerfError, WrongAnswer
from plansmith_perf.load.encoded_requests import WRONG_ANSWER, one_line
from plansmith_perf.load.samples import RequestOptions
from plansmith_perf.results.environment import describe_environment
from plansmith_server.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from plansmith_perf.comparing.contestants import Contestant
    from plansmith_perf.comparing.peer import Peer
    from plansmith_perf.results.documents import Measurement

__all__ = ["ComparisonOptions", "run_comparison"]


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions(RequestOptions):
    """What to compare and how; seconds for times.

    Attributes:
        repository: the folder.
        model: its name.
        peers: in this order.
        baseline: name of the one to which ratios are given.
        rounds: how often each is measured.
        concurrency: requests in flight.
        notes: to be kept with the result.
    """

    repository: Path
    model: str
    peers: Sequence[Peer]
    baseline: str
    rounds: int
    concurrency: int
    notes: Sequence[str] = ()


@dataclass
class _Entry:
    """One peer while it is compared."""

    peer: Peer
    contestant: Contestant | None = None
    agreement: Agreement | None = None
    versions: dict[str, str] = field(default_factory=dict)
    detail: str = ""
    status: PeerStatus = "measured"
    reason: str = ""
    rounds: list[Measurement] = field(default_factory=list)

    def fail(self, status: PeerStatus, reason: str) -> None:
        """Take it out of the comparison."""
        self.contestant, self.status, self.reason = None, status, reason

    def result(self) -> PeerResult:
        """Its row of the result."""
        agreement = self.agreement
        difference = agreement.largest_difference if agreement else None
        return PeerResult(
            name=self.peer.name,
            kind=self.peer.kind,
            setup="; ".join(filter(None, (self.peer.setup, self.detail))),
            source=self.peer.source,
            versions=self.versions,
            status=self.status,
            reason=self.reason or None,
            largest_difference=difference if difference is not None and math.isfinite(difference) else None,
            top1_agreement=agreement.top1 if agreement else None,
            rounds=self.rounds,
        )


def run_comparison(
    options: ComparisonOptions, *, progress: Callable[[str, float], None] = lambda _doing, _done: None
) -> Comparison:
    """Start every peer, compare their answers, and measure each once a round, the order rotated.

    A peer that cannot be installed, does not start, answers wrongly or goes away is a row that says so. Ctrl-C ends the
    rounds: the result holds those that were whole until then, and says so.

    Raises:
        LoadTestMisconfigured: the model cannot be compared, or the options do not fit it.
        plansmith_build.BuildError: the repository has no such model.
        plansmith_server.ServerError: plansmith's own server does not start.
        plansmith_client.ClientError: it does not answer.
    """
    entries = [_Entry(peer) for peer in options.peers]
    complete = True
    with ExitStack() as stack:
        progress(f"Starting {options.model} on Triton", 0)
        subject = stack.enter_context(open_subject(options.repository, options.model, options))
        server = f"triton {subject.server.version}"
        version = str(subject.version)
        try:
            for entry in entries:
                progress(f"Starting {entry.peer.name}", 0)
                _open(entry, subject, options, stack)
            _play(entries, options, progress)
        except KeyboardInterrupt:
            complete = False
        progress("Stopping the servers", options.rounds * len(entries))
    for entry in entries:
        if entry.status == "measured" and not entry.rounds:
            entry.fail("failed", "interrupted before its first measurement")
    return Comparison(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        model=options.model,
        model_version=version,
        batch_size=options.batch_size,
        concurrency=options.concurrency,
        seconds=options.measuring.seconds,
        environment=describe_environment(server),
        complete=complete,
        baseline=options.baseline,
        peers=[entry.result() for entry in entries],
        notes=list(options.notes),
    )


def _open(entry: _Entry, subject: Subject, options: ComparisonOptions, stack: ExitStack) -> None:
    """Start a peer and compare its answers; whatever goes wrong is its row."""
    peer = entry.peer
    if obstacle := peer.obstacle(subject):
        entry.fail("unavailable", obstacle)
        return
    try:
        contestant = stack.enter_context(peer.open(subject, options.concurrency))
        entry.versions = dict(contestant.versions)
        entry.agreement = compare_answers(
            contestant.ask,
            contestant.ask_together,
            subject.requests,
            at_once=options.concurrency,
            reduced_precision=peer.reduced_precision(subject),
            tolerance=options.measuring.tolerance,
        )
        if entry.agreement.problem:
            entry.fail("wrong", entry.agreement.problem)
            return
        contestant.prepare(entry.agreement)
    except PeerUnavailable as error:
        entry.fail("unavailable", str(error))
    except WrongAnswer as error:
        entry.fail("wrong", str(error))
    except Exception as error:  # noqa: BLE001 - each peer's library raises its own
        entry.fail("failed", _reason(error))
    else:
        entry.contestant, entry.detail = contestant, contestant.detail


def _play(entries: Sequence[_Entry], options: ComparisonOptions, progress: Callable[[str, float], None]) -> None:
    done = 0
    for number in range(options.rounds):
        # Not always in the same order: what comes first finds the machine as the last round left it.
        first = number % len(entries)
        for entry in [*entries[first:], *entries[:first]]:
            if entry.contestant is not None:
                shown = partial(_show_share, progress, f"Measuring {entry.peer.name}", done)
                _measure(entry, entry.contestant, options, shown)
            done += 1


def _show_share(progress: Callable[[str, float], None], doing: str, done: int, share: float) -> None:
    progress(doing, done + share)


def _measure(
    entry: _Entry, contestant: Contestant, options: ComparisonOptions, progress: Callable[[float], None]
) -> None:
    try:
        measured = contestant.measure(options.concurrency, options.measuring, progress)
    except Exception as error:  # noqa: BLE001 - as above
        entry.fail("failed", _reason(error))
        return
    messages = measured.error_messages
    if measured.wrong_answers:
        entry.rounds.append(measured)
        # The most common errors may be others.
        shown = next((message for message in messages if message.startswith(WRONG_ANSWER)), "")
        said = (
            shown.removeprefix(WRONG_ANSWER).lstrip(": ")
            or f"{measured.wrong_answers} answers are not what they must be"
        )
        entry.fail("wrong", f"under load: {said}")
    elif not measured.throughput:
        entry.fail("failed", next(iter(messages), "it answered nothing under load"))
    else:
        entry.rounds.append(measured)


def _reason(error: Exception) -> str:
    """What went wrong in one line; an error from outside plansmith keeps its type's name."""
    known = isinstance(error, (PerfError, ServerError, ClientError, BuildError))
    return one_line(str(error) if known else f"{type(error).__name__}: {error}")
