"""The search itself: optuna proposes, real servers answer, and a file remembers."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.tuning.records import TrialRecord
from plansmith_perf.tuning.settings import setting_from_config

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from plansmith_perf.tuning.settings import Setting
    from plansmith_perf.tuning.space import SearchSpace

__all__ = ["TuningStudy"]

_RECORD = "record"
_IN_USE = "in_use"
# So many proposals in a row that were measured before: there is hardly anything else left.
_REPEATS = 100
# Where the best of the model's own configurations is this many times slower than the limit, no setting will help.
_OUT_OF_REACH = 2.0


class TuningStudy:
    """An optuna study of one question: one model, SLO, load, machine and space.

    Raises:
        LoadTestMisconfigured: the file cannot be used.
    """

    def __init__(self, storage: Path, name: str, space: SearchSpace, *, seed: int, trials: int, resume: bool) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._limit = trials
        self._name = name
        try:
            storage.parent.mkdir(parents=True, exist_ok=True)
            self._storage = JournalStorage(JournalFileBackend(str(storage)))
            if not resume:
                with contextlib.suppress(KeyError):
                    optuna.delete_study(study_name=name, storage=self._storage)
            with warnings.catch_warnings():
                # Conditional parameters are sampled together by what optuna still calls experimental.
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                sampler = optuna.samplers.TPESampler(
                    seed=seed, multivariate=True, group=True, n_startup_trials=max(4, min(10, trials // 3))
                )
            self._study = optuna.create_study(
                study_name=name, storage=self._storage, sampler=sampler, direction="maximize", load_if_exists=True
            )
        except (OSError, ValueError, KeyError) as error:
            raise LoadTestMisconfigured(
                f"the storage {storage} cannot be used: {error}; name another file with --storage"
            ) from error
        self._end_abandoned()

    @property
    def in_use(self) -> TrialRecord | None:
        """The record of the configuration in use, where an earlier run measured it."""
        text = self._study.user_attrs.get(_IN_USE)
        return TrialRecord.model_validate_json(text) if text is not None else None

    @in_use.setter
    def in_use(self, record: TrialRecord) -> None:
        self._study.set_user_attr(_IN_USE, record.model_dump_json())

    @property
    def records(self) -> tuple[TrialRecord, ...]:
        """Every trial that was measured, in order."""
        texts = [trial.user_attrs.get(_RECORD) for trial in self._study.get_trials(deepcopy=False)]
        return tuple(TrialRecord.model_validate_json(text) for text in texts if text is not None)

    def search(
        self,
        run: Callable[[int, Setting], TrialRecord],
        *,
        limit: float,
        exhaustive: bool,
    ) -> None:
        """Measure until there are enough trials, or nothing is left.

        Args:
            run: measures a setting, as the trial of that number.
            limit: of the SLO, microseconds.
            exhaustive: everything, in order, instead of what optuna proposes.

        Raises:
            KeyboardInterrupt: Ctrl-C; everything measured until then is in the file.
        """
        own = self._enqueue(exhaustive=exhaustive)
        done = {str(record.setting): record for record in self.records}
        repeats = 0
        while len(done) < self._limit and repeats < _REPEATS:
            trial = self._study.ask()
            setting = self._space.sample(trial)
            known = done.get(str(setting.record()))
            if known is not None:
                repeats += 1
                self._tell(trial, known, limit)
                continue
            repeats = 0
            try:
                record = run(trial.number + 1, setting)
            except BaseException:
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
                raise
            trial.set_user_attr(_RECORD, record.model_dump_json())
            done[str(record.setting)] = record
            self._tell(trial, record, limit)
            if not exhaustive and len(done) >= own and _out_of_reach(list(done.values()), self.in_use, limit):
                return

    def settings(self) -> dict[int, Setting]:
        """The setting behind each record, by its number."""
        found = {}
        for trial in self._study.get_trials(deepcopy=False):
            if _RECORD in trial.user_attrs:
                found[trial.number + 1] = self._space.setting(trial.params)
        return found

    def _enqueue(self, *, exhaustive: bool) -> int:
        """What is measured first: each variant as the build configured it; returns how many these are."""
        if exhaustive:
            queue = self._space.everything()
        else:
            own = [setting_from_config(variant) for variant in self._space.variants.values()]
            queue = [params for setting in own if (params := self._space.params(setting)) is not None]
        for params in queue:
            self._study.enqueue_trial(params, skip_if_exists=True)
        return len(queue)

    def _tell(self, trial: optuna.Trial, record: TrialRecord, limit: float) -> None:
        if record.status == "measured":
            self._study.tell(trial, record.throughput)
        elif record.status == "misses":
            # Below every rate, and the closer the better.
            self._study.tell(trial, -(record.latency or 1e3 * limit) / limit)
        else:
            if record.status == "hopeless":
                trial.report(record.throughput, step=0)
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)

    def _end_abandoned(self) -> None:
        """A trial that was running when its process was killed never ends by itself."""
        running = self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        for trial in running:
            self._study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def _out_of_reach(records: Sequence[TrialRecord], in_use: TrialRecord | None, limit: float) -> bool:
    everything = [*records, *([in_use] if in_use is not None else [])]
    missed = [record.latency for record in everything if record.status == "misses" and record.latency is not None]
    usable = [record for record in everything if record.status in ("measured", "hopeless")]
    return not usable and bool(missed) and min(missed) > _OUT_OF_REACH * limit
