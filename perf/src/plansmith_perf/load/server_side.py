"""What Triton tells of a model: how long requests queued and computed, and whether it takes sequences."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import quote, urlsplit

import grpc
import urllib3
from google.protobuf import json_format
from tritonclient.grpc import service_pb2, service_pb2_grpc

from plansmith_client.transports.addresses import Address
from plansmith_client.transports.grpc.transport import CHANNEL_OPTIONS
from plansmith_perf.results.documents import ServerSide

__all__ = ["Counters", "read_counters", "server_side", "takes_sequences"]

TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Counters:
    """Triton's counters since it loaded the model, over all of its versions: numbers and nanoseconds."""

    requests: int
    executions: int
    queue: int
    compute_input: int
    compute_infer: int
    compute_output: int


def read_counters(url: str, model: str, version: str) -> Counters | None:
    """The counters now; None where the server does not tell: statistics are Triton's extension."""
    address = Address.parse(url)
    with contextlib.suppress(grpc.RpcError, urllib3.exceptions.HTTPError, ValueError, KeyError):
        if address.scheme in ("grpc", "grpcs"):
            return _counters(_over_grpc(address, "ModelStatistics", model, version))
        return _counters(_over_http(address, "stats", model, version))
    return None


def takes_sequences(url: str, model: str, version: str) -> bool:
    """Whether requests to a model must belong to sequences; False where the server does not tell."""
    address = Address.parse(url)
    with contextlib.suppress(grpc.RpcError, urllib3.exceptions.HTTPError, ValueError):
        if address.scheme in ("grpc", "grpcs"):
            # Protobuf tells which of the schedulers is set, even where it has no settings.
            return "sequence_batching" in _over_grpc(address, "ModelConfig", model, version).get("config", {})
        return "sequence_batching" in _over_http(address, "config", model, version)
    return False


def server_side(before: Counters | None, after: Counters | None) -> ServerSide | None:
    """What happened between two readings; None where one is missing, or the model was reloaded between them."""
    if before is None or after is None:
        return None
    change = {field.name: getattr(after, field.name) - getattr(before, field.name) for field in fields(Counters)}
    if min(change.values()) < 0:
        return None
    requests, executions = change.pop("requests"), change.pop("executions")
    means = {name: value / 1000 / max(requests, 1) for name, value in change.items()}
    return ServerSide(requests=requests, executions=executions, **means)


def _over_grpc(address: Address, method: str, model: str, version: str) -> dict[str, Any]:
    secure = address.scheme == "grpcs"
    channel = (
        grpc.secure_channel(address.target, grpc.ssl_channel_credentials(), CHANNEL_OPTIONS)
        if secure
        else grpc.insecure_channel(address.target, CHANNEL_OPTIONS)
    )
    with channel:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = getattr(service_pb2, f"{method}Request")(name=model, version=version)
        reply = getattr(stub, method)(request, timeout=TIMEOUT_SECONDS)
    return json_format.MessageToDict(reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _over_http(address: Address, what: str, model: str, version: str) -> dict[str, Any]:
    part = f"/versions/{version}" if version else ""
    base = f"{urlsplit(address.url).scheme}://{address.target}{address.path}"
    url = f"{base}/v2/models/{quote(model, safe='')}{part}/{what}"
    with urllib3.PoolManager() as pool:
        reply = pool.request("GET", url, timeout=TIMEOUT_SECONDS, retries=False)
    document: dict[str, Any] = json.loads(reply.data)
    return document


def _counters(document: dict[str, Any]) -> Counters:
    totals = dict.fromkeys((field.name for field in fields(Counters)), 0)
    for entry in document["model_stats"]:
        statistics = entry["inference_stats"]
        totals["requests"] += int(statistics["success"]["count"])
        totals["executions"] += int(entry["execution_count"])
        for name in ("queue", "compute_input", "compute_infer", "compute_output"):
            totals[name] += int(statistics[name]["ns"])
    return Counters(**totals)
