"""What Triton tells of a model: how it is configured, and how long requests queued and computed."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from plansmith_client import Client, ClientError
from plansmith_perf.results.documents import ServerSide

if TYPE_CHECKING:
    from collections.abc import Mapping

    from plansmith_client import Model

__all__ = ["Counters", "describe_config", "read_config", "read_counters", "server_side"]

_TIMEOUT_SECONDS = 5.0
_TIMES = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True)
class Counters:
    """Triton's counters since it loaded the model, over all of its versions: numbers and seconds."""

    requests: int
    executions: int
    queue: float
    compute_input: float
    compute_infer: float
    compute_output: float


def read_counters(url: str, model: str, version: str) -> Counters | None:
    """The counters now; None where the server does not tell: statistics are Triton's extension."""
    with (
        contextlib.suppress(ClientError),
        Client(url, timeout=_TIMEOUT_SECONDS, retries=0, shared_memory=False) as client,
    ):
        versions = client.model(model, version).statistics()
        if versions:
            return Counters(
                requests=sum(one.success.count for one in versions),
                executions=sum(one.executions for one in versions),
                **{name: sum(getattr(one, name).seconds for one in versions) for name in _TIMES},
            )
    return None


def read_config(model: Model) -> dict[str, Any]:
    """The model's configuration as the server completed it; empty where it does not tell."""
    with contextlib.suppress(ClientError):
        return model.config(timeout=_TIMEOUT_SECONDS)
    return {}


def describe_config(config: Mapping[str, Any]) -> str:
    """Engine, file, instances and parameters, which say the precision, in a few words; "" where nothing is known."""
    groups = [
        f"{group.get('count', 1)} x {str(group.get('kind', 'KIND_AUTO')).removeprefix('KIND_')}"
        for group in config.get("instance_group", ())
    ]
    values = {name: value.get("string_value", "") for name, value in config.get("parameters", {}).items()}
    batches = int(config.get("max_batch_size") or 0)
    dynamic = "dynamic batches" if "dynamic_batching" in config else "batches"
    words = [
        config.get("backend") or config.get("platform"),
        config.get("default_model_filename"),
        ", ".join(groups),
        f"{dynamic} of up to {batches}" if batches else "",
        *(f"{name}={value}" for name, value in sorted(values.items())),
    ]
    return "; ".join(filter(None, words))


def server_side(before: Counters | None, after: Counters | None) -> ServerSide | None:
    """What happened between two readings; None where one is missing, or the model was reloaded between them."""
    if before is None or after is None:
        return None
    change = {field.name: getattr(after, field.name) - getattr(before, field.name) for field in fields(Counters)}
    requests, executions = change.pop("requests"), change.pop("executions")
    if min(requests, executions) < 0:
        return None
    means = {name: 1e6 * value / max(requests, 1) for name, value in change.items()}
    return ServerSide(requests=requests, executions=executions, **means)
