"""Everything that plansmith-perf raises.

PerfError                 base; `exit_code` is what the `plansmith` command exits with
├── WrongAnswer           a server answered, but not what it must
├── LoadTestMisconfigured the options of a load test contradict each other or the model
└── PerfAnalyzerMissing   NVIDIA's perf_analyzer cannot be had or does not start here
"""

__all__ = ["LoadTestMisconfigured", "PerfAnalyzerMissing", "PerfError", "WrongAnswer"]


class PerfError(Exception):
    """Base of the family."""

    exit_code = 1


class WrongAnswer(PerfError):
    """A server answered, but with a wrong shape, dtype or value."""

    exit_code = 3


class LoadTestMisconfigured(PerfError):
    """The options of a load test contradict each other or the model."""

    exit_code = 2


class PerfAnalyzerMissing(PerfError):
    """NVIDIA's perf_analyzer cannot be had or does not start here."""
