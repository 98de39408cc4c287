"""What a tuning run leaves behind: the evidence in the manifest and the document of `plansmith tune --json`.

Rates are requests per second, latencies microseconds.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from plansmith_perf.results.documents import Environment  # noqa: TC001 - pydantic reads the annotation

__all__ = ["FinalRound", "SettingRecord", "TrialRecord", "TrialStatus", "TuningRecord"]

TrialStatus = Literal["measured", "hopeless", "misses", "wrong", "failed"]


class _Record(BaseModel):
    # As the rest of the manifest: readers ignore fields that they do not know.
    model_config = ConfigDict(extra="ignore", frozen=True)


class SettingRecord(_Record):
    """What one trial served the model with."""

    variant: Annotated[str, Field(description="backend, model file and precision")]
    instances: int
    threads: Annotated[int, Field(description="of each instance; 0: an equal share of the cores")]
    max_batch_size: Annotated[int, Field(description="0: the model takes no batches")]
    queue_delay: Annotated[int | None, Field(description="of dynamic batching, microseconds; null: no such batching")]
    preferred_batch_size: Annotated[int, Field(description="0: none")]

    def __str__(self) -> str:
        words = [self.variant, f"{self.instances} x {self.threads or 'auto'} threads"]
        if self.queue_delay is None:
            words.append("no dynamic batching")
        else:
            words += [f"batches of {self.max_batch_size}", f"delay {self.queue_delay} us"]
        if self.preferred_batch_size:
            words.append(f"preferred {self.preferred_batch_size}")
        return ", ".join(words)


class TrialRecord(_Record):
    """One setting, and what a real server did with it."""

    number: Annotated[int, Field(description="0 is the configuration in use, as it is")]
    setting: SettingRecord
    status: Annotated[
        TrialStatus,
        Field(
            description="hopeless: ended early, a probe under more load was slower than the best; misses: the SLO is "
            "not kept at any concurrency; wrong: other answers than the portable configuration; failed: not served"
        ),
    ]
    reason: Annotated[str, Field(description="why, where it was not measured in full")]
    throughput: Annotated[float, Field(description="the highest inside the SLO; 0 if it was never kept")]
    concurrency: Annotated[int, Field(description="requests in flight at that throughput; 0 if the SLO was never kept")]
    latency: Annotated[
        float | None, Field(description="the SLO's percentile there; where the SLO is missed, at the lowest load")
    ]
    seconds: Annotated[float, Field(description="that the trial took, start of the server included")]
    answers: Annotated[
        int | None,
        Field(description="behind the latency; a search is short, and they may be too few for the percentile"),
    ] = None
    notes: Annotated[tuple[str, ...], Field(description="what to know before trusting the figures")] = ()


class FinalRound(_Record):
    """One measurement of the interleaved rounds in which the best trials are compared with the configuration in use."""

    trial: int
    round: int
    throughput: float
    latency: float | None
    kept: Annotated[bool, Field(description="whether enough was answered to judge the SLO, and it was kept")]
    concurrency: Annotated[int | None, Field(description="requests in flight; null: not recorded")] = None
    seconds: Annotated[float | None, Field(description="length of the measurement; null: not recorded")] = None
    answers: Annotated[int | None, Field(description="behind the latency; null: not recorded")] = None
    notes: Annotated[tuple[str, ...], Field(description="what to know before trusting the figures")] = ()


class TuningRecord(_Record):
    """How a configuration was found."""

    schema_version: Literal[1] = 1
    created: Annotated[str, Field(description="UTC, ISO 8601")]
    model: str
    model_version: Annotated[int, Field(description="the version that was tuned")]
    slo: str
    config: Annotated[str, Field(description="the configuration that was tuned, by path in the model's folder")]
    protocol: Literal["grpc", "http"]
    batch_size: Annotated[int, Field(description="rows a request")]
    inputs: Annotated[str, Field(description="'random', or the name of the file of samples")]
    search: Literal["TPE", "exhaustive"]
    seed: int
    space: Annotated[int, Field(description="settings that there are")]
    seconds: Annotated[float, Field(description="length of a measurement of the search; those of rounds are longer")]
    environment: Environment
    trials: tuple[TrialRecord, ...]
    rounds: tuple[FinalRound, ...]
    winner: Annotated[int | None, Field(description="number of the trial that is better; null: what is in use stays")]
    ratio: Annotated[
        float | None,
        Field(description="the winner's throughput to that of the configuration in use: median of the rounds"),
    ]
    p_value: Annotated[
        float | None, Field(description="of the rounds, if the winner were no faster: a one-sided paired t-test")
    ]
    verdict: Annotated[str, Field(description="in one sentence")]

    def trial(self, number: int) -> TrialRecord:
        """The trial of that number."""
        return next(trial for trial in self.trials if trial.number == number)
