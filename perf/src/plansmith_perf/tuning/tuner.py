"""`plansmith tune` from beginning to end: look, search, confirm, publish."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING

from plansmith_build.repository.config import text_from_config
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_build.repository.signed_versions import signer_for
from plansmith_build.repository.signing import require_public_key
from plansmith_perf.load.analysis import samples_needed
from plansmith_perf.load.samples import make_requests
from plansmith_perf.results.environment import describe_environment
from plansmith_perf.tuning.finals import Finalist, check_round_length, play_rounds
from plansmith_perf.tuning.options import TuningOptions, TuningProgress, TuningResult
from plansmith_perf.tuning.publishing import publish_tuned
from plansmith_perf.tuning.question import Question, look
from plansmith_perf.tuning.records import TrialRecord, TuningRecord
from plansmith_perf.tuning.settings import config_of, setting_from_config
from plansmith_perf.tuning.study import TuningStudy
from plansmith_perf.tuning.trials import TrialRunner
from plansmith_perf.tuning.verdicts import decide, verdict
from plansmith_perf.tuning.workbench import Workbench

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from plansmith_perf.load.requests import CheckedRequest
    from plansmith_perf.tuning.records import FinalRound
    from plansmith_perf.tuning.settings import Setting
    from plansmith_perf.tuning.verdicts import Decision

__all__ = ["DEFAULT_TRIALS", "default_storage", "tune"]

DEFAULT_TRIALS = 24
_IN_USE = 0
_FINALISTS = 3


def default_storage() -> Path:
    """The file that remembers trials, below the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "plansmith" / "tuning.journal"


def tune(options: TuningOptions, *, progress: Callable[[TuningProgress], None] = lambda _: None) -> TuningResult:
    """Search, confirm and publish.

    Raises:
        LoadTestMisconfigured: the model cannot be tuned, or the options do not fit it.
        plansmith_build.BuildError: the model does not exist, or the result cannot be published.
        plansmith_server.ServerError: the model is not served as it is.
        plansmith_client.ClientError: it does not answer.
        KeyboardInterrupt: Ctrl-C; what was measured is in the storage, the repository is as it was.
    """
    repository = ModelRepository.at(options.repository)
    question = look(repository, options)
    if options.sign_key is not None:
        require_public_key(question.model, options.public_key)
    sign = signer_for(repository.path, options.sign_key)
    run = _Run(question, options, progress)
    trials, rounds, decision, server = run.search()
    everything = len(question.space.everything())
    record = TuningRecord(
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        model=options.model,
        model_version=question.version,
        slo=options.slo.text,
        config=question.target,
        protocol=options.protocol,
        batch_size=options.batch_size,
        inputs=options.inputs,
        search="exhaustive" if options.exhaustive else "TPE",
        seed=options.measuring.seed,
        space=everything,
        seconds=options.measuring.seconds,
        environment=describe_environment(server),
        trials=trials,
        rounds=rounds,
        winner=decision.winner if decision is not None else None,
        ratio=decision.ratio if decision is not None else None,
        p_value=decision.p_value if decision is not None else None,
        verdict=verdict(trials, decision, options.slo.text, in_use_path=question.in_use_path, rounds=options.rounds),
    )
    met = any(trial.status == "measured" for trial in trials)
    if record.winner is None:
        return TuningResult(record, met=met, diff="", published=None, storage=run.storage)
    text = text_from_config(config_of(run.setting(record.winner)))
    diff = question.diff(text)
    published = None
    if not options.dry_run and question.manifest is not None:
        run.tell("publishing")
        published = publish_tuned(
            repository,
            question.manifest,
            record,
            text,
            staging=options.staging,
            sign=sign,
            public_key=options.public_key,
        )
    return TuningResult(record, met=met, diff=diff, published=published, storage=run.storage)


class _Run:
    """The part with servers in it."""

    def __init__(self, question: Question, options: TuningOptions, progress: Callable[[TuningProgress], None]) -> None:
        everything = len(question.space.everything())
        self.storage = options.storage or default_storage()
        self._question = question
        self._options = options
        self._progress = progress
        self._total = min(everything, options.trials or (everything if options.exhaustive else DEFAULT_TRIALS))
        self._study = TuningStudy(
            self.storage,
            question.key(options),
            question.space,
            seed=options.measuring.seed,
            trials=self._total,
            resume=options.resume,
        )
        self._runner: TrialRunner | None = None

    def tell(self, doing: str, finished: TrialRecord | None = None) -> None:
        """Say where the search is."""
        self._tell(doing, len(self._study.records), self._total, finished)

    def _tell(self, doing: str, done: int, total: int, finished: TrialRecord | None = None) -> None:
        best = self._runner.best if self._runner is not None else None
        self._progress(TuningProgress(doing, done, total, best, finished))

    def setting(self, number: int) -> Setting:
        """The setting of a trial."""
        return self._study.settings()[number]

    def search(self) -> tuple[tuple[TrialRecord, ...], tuple[FinalRound, ...], Decision | None, str]:
        """The trials, the rounds, what they decide, and the name of the server."""
        options = self._options
        with Workbench(self._question.model, options.protocol) as workbench:
            self.tell("asking the portable configuration")
            runner = self._runner = TrialRunner(
                workbench=workbench,
                reference=self._reference(workbench),
                slo=options.slo,
                measuring=options.measuring,
                batch_size=options.batch_size,
                tolerance=options.measuring.tolerance,
                most=options.most_concurrency,
            )
            in_use = self._measure_in_use(runner)
            if in_use.status == "measured":
                check_round_length(options.slo, in_use, least=options.measuring.seconds)
            known = [record for record in (in_use, *self._study.records) if record.status == "measured"]
            runner.best = max(known, key=lambda record: record.throughput, default=None)
            self._study.search(
                lambda number, setting: self._measure(runner, in_use, number, setting),
                limit=options.slo.limit,
                exhaustive=options.exhaustive,
            )
            finalists = self._finalists(in_use)
            others = [finalist.record.number for finalist in finalists if finalist.record.number != _IN_USE]
            rounds: tuple[FinalRound, ...] = ()
            decision = None
            if others:
                rounds = play_rounds(runner, finalists, in_use=_IN_USE, rounds=options.rounds, progress=self._tell)
                decision = decide(
                    rounds,
                    in_use=_IN_USE if in_use.status == "measured" else None,
                    finalists=others,
                    rounds=options.rounds,
                    needed=samples_needed(options.slo.percentile),
                )
            return (in_use, *self._study.records), rounds, decision, workbench.server

    def _reference(self, workbench: Workbench) -> Sequence[CheckedRequest]:
        """Inputs, and what the portable configuration answers to them."""
        with workbench.serve(self._question.portable) as trial:
            return make_requests(trial.model, self._options)

    def _measure_in_use(self, runner: TrialRunner) -> TrialRecord:
        known = self._study.in_use
        if known is not None:
            return known
        variant = self._question.variant_in_use
        doing = f"{self._question.in_use_path} as it is"
        record = runner.run(
            _IN_USE,
            self._question.in_use,
            setting_from_config(variant).record(),
            reduced_precision=variant.reduced_precision,
            progress=lambda: self.tell(doing),
        )
        self._study.in_use = record
        self.tell(doing, record)
        return record

    def _measure(self, runner: TrialRunner, in_use: TrialRecord, number: int, setting: Setting) -> TrialRecord:
        words = str(setting.record())
        if self._question.is_in_use(setting):
            return in_use.model_copy(update={"number": number, "setting": setting.record(), "seconds": 0.0})
        self.tell(words)
        record = runner.run(
            number,
            config_of(setting),
            setting.record(),
            reduced_precision=setting.variant.reduced_precision,
            progress=lambda: self.tell(words),
        )
        self.tell(words, record)
        return record

    def _finalists(self, in_use: TrialRecord) -> list[Finalist]:
        """The best trials that seem faster than what is in use, and that itself where it keeps the SLO."""
        settings = self._study.settings()
        better = [
            record
            for record in self._study.records
            if record.status == "measured"
            and record.throughput > in_use.throughput
            and not self._question.is_in_use(settings[record.number])
        ]
        better.sort(key=lambda record: -record.throughput)
        finalists = [
            Finalist(record, config_of(setting), setting.variant.reduced_precision)
            for record in better[:_FINALISTS]
            for setting in [settings[record.number]]
        ]
        if in_use.status == "measured":
            reduced = self._question.variant_in_use.reduced_precision
            finalists.insert(0, Finalist(in_use, self._question.in_use, reduced))
        return finalists
