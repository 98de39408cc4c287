"""The search for the configuration with the highest throughput inside a service level objective."""

from plansmith_perf.tuning.options import TuningOptions, TuningProgress, TuningResult
from plansmith_perf.tuning.publishing import TunedManifest
from plansmith_perf.tuning.records import FinalRound, SettingRecord, TrialRecord, TuningRecord
from plansmith_perf.tuning.settings import Setting
from plansmith_perf.tuning.space import SpaceLimits
from plansmith_perf.tuning.tuner import tune

__all__ = [
    "FinalRound",
    "Setting",
    "SettingRecord",
    "SpaceLimits",
    "TrialRecord",
    "TunedManifest",
    "TuningOptions",
    "TuningProgress",
    "TuningRecord",
    "TuningResult",
    "tune",
]
