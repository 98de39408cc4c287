"""What Triton tells of a model: how it is configured, and how long requests queued and computed."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import grpc
import urllib3
from google.protobuf import json_format
from tritonclient.grpc import service_pb2, service_pb2_grpc

from plansmith_client.transports.addresses import Address
from plansmith_client.transports.grpc.channels import CHANNEL_OPTIONS
from plansmith_perf.results.documents import ServerSide

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Counters", "describe_config", "read_config", "read_counters", "server_side"]

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


def read_config(url: str, model: str, version: str) -> dict[str, Any]:
    """The model's configuration as the server completed it; empty where it does not tell."""
    address = Address.parse(url)
    with contextlib.suppress(grpc.RpcError, urllib3.exceptions.HTTPError, ValueError):
        if address.scheme in ("grpc", "grpcs"):
            # Protobuf tells which of the schedulers is set, even where it has no settings.
            found: dict[str, Any] = _over_grpc(address, "ModelConfig", model, version).get("config", {})
            return found
        return _over_http(address, "config", model, version)
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
