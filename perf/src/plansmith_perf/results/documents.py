"""The result of a load test: one versioned JSON document, whatever tool made it.

Times are microseconds, memory is bytes, CPU is per cent of one core, unless a field says otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import pydantic_core
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plansmith_perf.errors import LoadTestMisconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = [
    "ClosedLoop",
    "Distribution",
    "Environment",
    "LoadTestResult",
    "Measurement",
    "OpenLoop",
    "Part",
    "ServerSide",
    "SloOutcome",
    "Stability",
    "TimelineSecond",
    "Usage",
    "by_load",
    "read_document",
    "read_result",
]

SCHEMA_VERSION = 1

Document = TypeVar("Document", bound=BaseModel)


class Part(BaseModel):
    """Part of a document: no field more than it has."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# What no machine has more of; larger ones have no float.
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]


class ClosedLoop(Part):
    """So many requests in flight, each sent when the one before it has been answered."""

    kind: Literal["closed"] = "closed"
    concurrency: Annotated[int, Field(ge=1)]


class OpenLoop(Part):
    """Requests sent on an absolute schedule, whatever the server does: what independent users look like."""

    kind: Literal["open"] = "open"
    rate: Annotated[float, Field(gt=0, description="requests per second that the schedule asks for")]
    arrivals: Annotated[
        Literal["poisson", "constant", "recorded"],
        Field(description="'recorded': at the instants of a log, at this mean rate"),
    ]


class Distribution(Part):
    """How long something took. What is None the tool that measured did not tell."""

    count: Count
    mean: float
    minimum: float | None
    maximum: float | None
    percentiles: Annotated[dict[str, float], Field(description="by per cent, such as '99.9'")]
    histogram: Annotated[str | None, Field(description="HdrHistogram V2, compressed, base64; microseconds")]


class Stability(Part):
    """Whether the parts of a measurement agree with each other."""

    stable: bool
    throughput: Annotated[list[float], Field(description="answers per second in each fifth of the measurement")]
    spread: Annotated[float, Field(description="the greatest distance from their mean, relative to it")]


class TimelineSecond(Part):
    """What was answered in one second of the measurement."""

    second: Count
    answers: Count
    errors: Count
    median_latency: float | None
    p99_latency: float | None


class Usage(Part):
    """What a group of processes used while the measurement ran."""

    cpu_percent: float
    memory: Count
    processes: int


class ServerSide(Part):
    """Triton's own statistics of the measurement: means of a request in microseconds."""

    requests: Count
    executions: int
    queue: float
    compute_input: float
    compute_infer: float
    compute_output: float


class Measurement(Part):
    """One load, measured once."""

    load: Annotated[ClosedLoop | OpenLoop, Field(discriminator="kind")]
    seconds: Annotated[float, Field(description="length of the measurement, without the warm-up")]
    warmup_seconds: float
    warmup_requests: Count
    complete: Annotated[bool, Field(description="False where it was interrupted: it covers what came until then")]
    requests: Count
    errors: Count
    wrong_answers: Annotated[int, Field(description="of the errors: answered, but not with what it must be")] = 0
    error_rate: float
    error_messages: Annotated[dict[str, int], Field(description="how often each of the most common was seen")]
    throughput: Annotated[float, Field(ge=0, description="right answers per second")]
    rows_per_second: float
    latency: Annotated[Distribution | None, Field(description="open loop: from the time when it was due to be sent")]
    service: Annotated[Distribution | None, Field(description="from the time when it was really sent")]
    dispatch_lag: Annotated[Distribution | None, Field(description="how late it was sent")]
    stability: Stability | None
    latency_growth: Annotated[
        float | None,
        Field(description="open loop: seconds by which the latency grows each second: the share that is too much"),
    ] = None
    timeline: list[TimelineSecond]
    server_side: ServerSide | None
    server_usage: Usage | None
    client_usage: Usage
    notes: Annotated[list[str], Field(description="what to know before trusting the figures")]


class Environment(Part):
    """Where it was measured."""

    processor: str
    cores: Count
    memory: Count
    system: str
    python: str
    packages: dict[str, str]
    server: str


class SloOutcome(Part):
    """What the search for the highest rate that keeps a service level objective has found."""

    slo: str
    met: bool
    rate: Annotated[float | None, Field(description="requests per second, confirmed by a run of its own")]


class LoadTestResult(Part):
    """Everything that one run of `plansmith bench` has measured."""

    schema_version: Literal[1] = 1
    tool: str
    created: Annotated[str, Field(description="UTC, ISO 8601")]
    model: str
    model_version: str
    protocol: Literal["grpc", "http"]
    served: Annotated[str, Field(description="engine, file, instances, parameters; '' where the server is silent")] = ""
    batch_size: int
    inputs: Annotated[str, Field(description="'random', or the name of the file of samples")]
    expected_answers: Annotated[str, Field(description="'idle server', or the name of the file of golden answers")]
    workers: int
    environment: Environment
    complete: bool
    interruption: Annotated[str | None, Field(description="why the run ended early")]
    measurements: list[Measurement]
    slo: SloOutcome | None = None


def by_load(measurements: Iterable[Measurement]) -> dict[ClosedLoop | OpenLoop, list[Measurement]]:
    """The measurements of each load, in the order in which loads and rounds were measured."""
    found: dict[ClosedLoop | OpenLoop, list[Measurement]] = {}
    for measured in measurements:
        found.setdefault(measured.load, []).append(measured)
    return found


def read_result(path: Path) -> LoadTestResult:
    """Read the file of a load test; see `read_document`."""
    return read_document(path, LoadTestResult.model_validate, "a result of a load test")


def read_document(path: Path, parse: Callable[[Any], Document], name: str) -> Document:
    """Read a JSON file of one kind, whose `parse` raises ValueError for another.

    Raises:
        LoadTestMisconfigured: the file does not exist, or is not a document of that kind and schema version.
    """
    try:
        found = pydantic_core.from_json(path.read_bytes(), allow_inf_nan=False)
    except OSError as error:
        why = f"{error.strerror}; name a file that --output wrote"
        raise LoadTestMisconfigured(f"The result {path} cannot be read: {why}") from error
    except ValueError as error:
        raise LoadTestMisconfigured(
            f"{path} is not {name}: it is not JSON: {error}; give a file that --output or --json wrote"
        ) from error
    try:
        return parse(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise LoadTestMisconfigured(
            f"{path} is not {name} (schema version {SCHEMA_VERSION}): {where}: {first['msg']}"
        ) from error
    except ValueError as error:
        raise LoadTestMisconfigured(f"{path} is not {name}: {error}") from error
