"""What docker-compose.yml must keep to, as a function of the parsed file: it names each breach."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["breaches", "parse"]

DEFAULT = re.compile(r"\$\{\w+:-([^${}]*)\}")
SAFE_RELEASE = (26, 7)
TRITON_EXIT_SECONDS = 30
# What is mounted to be written to.
WRITABLE = {("builder", "/project"), ("builder", "/cache"), ("prometheus", "/prometheus")}
PROFILES = {"cpu", "gpu", "proxy", "build", "perf", "perf-analyzer", "watch"}
GPU = {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def parse(text: str) -> dict[str, Any]:
    """A compose file as it is without any environment variable: `${NAME:-default}` is its default, innermost first."""
    while (plain := DEFAULT.sub(r"\1", text)) != text:
        text = plain
    return yaml.safe_load(text)


def breaches(document: dict[str, Any]) -> list[str]:
    """What in a compose file breaks the policy, a sentence each."""
    services = document["services"]
    found = [
        f"{name}: {breach}"
        for name, service in services.items()
        for look in (_rights, _openings, _origin)
        for breach in look(name, service)
    ]
    for name in ("triton-cpu", "triton-gpu"):
        found += [f"{name}: {breach}" for breach in _server(name, services.get(name, {}))]
    if services.get("proxy", {}).get("secrets") != ["proxy_certificate", "proxy_tokens"]:
        found.append("proxy: asks for no token")
    found += [f"{name}: has no network_mode none" for name in ("plan-check", "builder")
              if services.get(name, {}).get("network_mode") != "none"]  # fmt: skip
    gpu = services.get("triton-gpu", {})
    if gpu.get("depends_on") != {"plan-check": {"condition": "service_completed_successfully"}}:
        found.append("triton-gpu: starts without plan-check")
    if services.get("plan-check", {}).get("image") != gpu.get("image"):
        found.append("plan-check: looks for TensorRT in another image than the server's")
    release = _release(gpu.get("image", ""))
    if services.get("builder", {}).get("build", {}).get("args") != {"TRITON_RELEASE": release}:
        found.append("builder: is of another release than the server")
    if {profile for service in services.values() for profile in service.get("profiles", ())} != PROFILES:
        found.append("profiles: others than documented")
    if "file" not in document.get("secrets", {}).get("admin_key", {}):
        found.append("secrets: the key does not come from a file")
    return found


def _rights(_: str, service: dict[str, Any]) -> Iterator[str]:
    if not service.get("profiles"):
        yield "starts without being asked for"
    if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", str(service.get("user", ""))):
        yield "runs as root"
    if service.get("read_only") is not True:
        yield "can write to its own files"
    if service.get("cap_drop") != ["ALL"] or service.get("cap_add"):
        yield "keeps capabilities"
    if service.get("security_opt") != ["no-new-privileges:true"]:
        yield "can gain privileges"
    if service.get("privileged") or service.get("devices"):
        yield "reaches the machine's devices"
    if "host" in {service.get(kind) for kind in ("network_mode", "pid", "ipc", "userns_mode")}:
        yield "shares a namespace with the machine"
    for limit in ("mem_limit", "pids_limit"):
        if not re.match(r"[1-9]", str(service.get(limit, ""))):
            yield f"has no {limit}"


def _openings(name: str, service: dict[str, Any]) -> Iterator[str]:
    if not all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ())):
        yield "publishes a port beyond loopback"
    for volume in service.get("volumes", ()):
        if isinstance(volume, str):
            yield f"mounts {volume} in the short form, which creates what is missing"
            continue
        if not volume.get("read_only") and (name, volume["target"]) not in WRITABLE:
            yield f"can write to {volume['target']}"
        if "docker.sock" in volume["source"] or volume["source"] == "/":
            yield f"is given {volume['source']}"
        if volume["type"] == "bind" and volume.get("bind", {}).get("create_host_path") is not False:
            yield f"makes {volume['source']} where it is missing"


def _origin(name: str, service: dict[str, Any]) -> Iterator[str]:
    wants_gpu = name in ("triton-gpu", "builder")
    devices = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    if devices != ([GPU] if wants_gpu else []):
        yield "asks for a GPU" if devices else "asks for no GPU"
    image = service.get("image", "")
    if image.endswith(":latest") or ("/" in image and not re.search(r":[\w.-]+$|@sha256:", image)):
        yield f"its image {image} is not pinned"
    if "nvcr.io" in image and (_release(image) == "" or tuple(map(int, _release(image).split("."))) < SAFE_RELEASE):
        yield f"its image {image} has known holes"
    if any(re.search("KEY|SECRET|PASSWORD|TOKEN", str(word)) for word in service.get("environment", {})
           if not str(word).endswith("__FILE")):  # fmt: skip
        yield "has a secret in its environment"


def _server(name: str, service: dict[str, Any]) -> Iterator[str]:
    command = service.get("command", [])
    if command[:2] != ["sh", "/start-triton.sh"]:
        yield "starts with open administrative APIs"
    if f"--model-config-name={name.removeprefix('triton-')}" not in command:
        yield "serves another configuration"
    if service.get("secrets") != ["admin_key"]:
        yield "has no key"
    if any("allow-client-shm" in str(word) or "model-control-mode" in str(word) for word in command):
        yield "opens what is closed by default"
    if not service.get("ports"):
        yield "publishes no port"
    if "/infer_probe.py" not in service.get("healthcheck", {}).get("test", []):
        yield "its health check asks for no inference"
    if service.get("healthcheck", {}).get("disable"):
        yield "has no health check"
    if int(str(service.get("stop_grace_period", "10s")).removesuffix("s")) <= TRITON_EXIT_SECONDS:
        yield "is killed while requests are in flight"
    if not service.get("shm_size"):
        yield "has Docker's 64 MB of shared memory"


def _release(image: str) -> str:
    found = re.search(r"nvcr\.io/nvidia/tritonserver:(\d\d\.\d\d)-py3", image)
    return found[1] if found else ""
