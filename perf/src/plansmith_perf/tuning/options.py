"""What a tuning run is told, what it tells while it works, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from plansmith_perf.load.samples import RequestOptions

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_build.repository.publishing import Published
    from plansmith_perf.slo import Slo
    from plansmith_perf.tuning.records import TrialRecord, TuningRecord
    from plansmith_perf.tuning.space import SpaceLimits

__all__ = ["TuningOptions", "TuningProgress", "TuningResult"]


@dataclass(frozen=True, kw_only=True)
class TuningOptions(RequestOptions):
    """What to tune and how; seconds for times.

    The seed of `measuring` is the sampler's, too; its tolerance that of the comparison with the portable configuration.

    Attributes:
        repository: the folder.
        model: its name.
        slo: to be kept.
        config_name: the configuration to tune, configs/NAME.pbtxt.
        trials: how many settings are measured; None for 24, or with `exhaustive` for all.
        exhaustive: every setting instead of what the sampler proposes.
        limits: of the choices.
        storage: the file that remembers trials; None for one in the cache folder.
        resume: go on with the trials in it.
        protocol: of the load.
        most_concurrency: requests in flight, never more.
        rounds: interleaved, of the best trials and the configuration in use.
        dry_run: publish nothing.
        sign_key: sign the new version with this private key.
        public_key: verify by this key what is signed already; `sign_key` needs it where anything is.
        staging: the folder to stage in; see `plansmith_build.repository.staging.staging_folder`.
    """

    repository: Path
    model: str
    slo: Slo
    config_name: str
    trials: int | None
    exhaustive: bool
    limits: SpaceLimits
    storage: Path | None
    resume: bool
    protocol: Literal["grpc", "http"]
    most_concurrency: int
    rounds: int
    dry_run: bool
    sign_key: Path | None = None
    public_key: Path | None = None
    staging: Path | None = None


@dataclass(frozen=True)
class TuningProgress:
    """Where a run is.

    Attributes:
        doing: in a few words.
        done: trials that were measured; in the rounds at the end, the measurements of those.
        total: as many as are to be.
        best: so far.
        finished: the trial that has just ended, if one has.
    """

    doing: str
    done: int
    total: int
    best: TrialRecord | None
    finished: TrialRecord | None = None


@dataclass(frozen=True)
class TuningResult:
    """What came of it.

    Attributes:
        record: the evidence.
        met: whether any configuration keeps the SLO.
        diff: of the tuned configuration to the one in use, unified; empty where that stays.
        published: the new version; None with `dry_run`, or without a winner.
        storage: the file that remembers the trials.
    """

    record: TuningRecord
    met: bool
    diff: str
    published: Published | None
    storage: Path
