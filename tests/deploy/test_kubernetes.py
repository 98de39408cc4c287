"""The manifests are valid and keep to their policy; servers are replaced one after the other and no call fails."""

from __future__ import annotations

import copy
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import reduce

import kubernetes_validate
import pytest
import yaml
from callers import calling
from containers import ROOT, install
from serving import add_double

from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer
from plansmith_server.launcher.ports import find_free

VERSIONS = ("1.37", "1.36", "1.35")
TRITON_EXIT_SECONDS = 30
SERVERS = 3
THREADS = 4
POD = "spec template spec "
CONTAINER = POD + "containers 0 "
MUTATIONS = [
    (POD + "securityContext runAsNonRoot", False),
    (POD + "securityContext seccompProfile", None),
    (POD + "automountServiceAccountToken", True),
    (POD + "hostNetwork", True),
    (POD + "hostIPC", True),
    (POD + "volumes 0", {"name": "models", "hostPath": {"path": "/srv"}}),
    (POD + "terminationGracePeriodSeconds", 30),
    (CONTAINER + "image", "nvcr.io/nvidia/tritonserver:latest"),
    (CONTAINER + "securityContext allowPrivilegeEscalation", True),
    (CONTAINER + "securityContext readOnlyRootFilesystem", False),
    (CONTAINER + "securityContext capabilities", None),
    (CONTAINER + "resources limits", {}),
    (CONTAINER + "volumeMounts 0 readOnly", False),
    (CONTAINER + "args 1", "/models/start.sh"),
    (CONTAINER + "lifecycle", None),
    (CONTAINER + "livenessProbe", {"httpGet": {"path": "/v2/health/live", "port": "http"}}),
    (CONTAINER + "startupProbe", None),
    (CONTAINER + "readinessProbe", None),
    ("spec strategy rollingUpdate maxUnavailable", 1),
    ("spec replicas", 1),
]


@pytest.fixture(scope="module")
def manifests():
    if shutil.which("kubectl") is None:
        install("kubernetes-client")
    done = subprocess.run(["kubectl", "kustomize", ROOT / "deploy"], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(done.stdout))


def the(manifests, kind):
    return next(manifest for manifest in manifests if manifest["kind"] == kind)


def breaches(deployment):
    """What in the deployment breaks the policy."""
    spec, pod = deployment["spec"], deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    security = container["securityContext"]
    probe = ["python3", "-I", "-S", "/scripts/infer_probe.py"]
    pause = ((container.get("lifecycle") or {}).get("preStop") or {}).get("exec", {}).get("command", ["sleep", "0"])
    kept = {
        "no root": pod["securityContext"].get("runAsNonRoot") is True,
        "system calls are filtered": bool(pod["securityContext"].get("seccompProfile")),
        "no token": pod["automountServiceAccountToken"] is False,
        "no namespace of the machine": not any(pod.get(name) for name in ("hostNetwork", "hostIPC", "hostPID")),
        "no folder of the machine": not any("hostPath" in volume for volume in pod["volumes"]),
        "image is pinned": container["image"].endswith("tritonserver:26.11-py3"),
        "no privileges": security["allowPrivilegeEscalation"] is False,
        "files are read-only": security["readOnlyRootFilesystem"] is True,
        "no capabilities": (security.get("capabilities") or {}).get("drop") == ["ALL"],
        "memory is limited": "memory" in container["resources"]["limits"],
        "models are read-only": container["volumeMounts"][0]["readOnly"] is True,
        "administrative APIs take a key": container["args"][:2] == ["sh", "/scripts/start-triton.sh"],
        "wedged servers are restarted": container["livenessProbe"].get("exec", {}).get("command") == probe,
        "slow starts are waited for": bool(container.get("startupProbe")),
        "only ready servers are asked": bool(container.get("readinessProbe")),
        "clients learn of an end before it": int(pause[1]) > 0,
        "requests in flight end": pod["terminationGracePeriodSeconds"] > int(pause[1]) + TRITON_EXIT_SECONDS,
        "none goes before another came": spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0,
        "one may fail": spec["replicas"] > 1,
    }
    return [name for name, holds in kept.items() if not holds]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_follow_the_schemas_of_kubernetes(manifests, version):
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)
    assert len(manifests) == 6


def test_the_deployment_keeps_to_its_policy(manifests):
    assert breaches(the(manifests, "Deployment")) == []


@pytest.mark.parametrize(("path", "value"), MUTATIONS)
def test_the_policy_sees_each_change_for_the_worse(manifests, path, value):
    changed = copy.deepcopy(the(manifests, "Deployment"))
    keys = [int(word) if word.isdigit() else word for word in path.split()]
    reduce(lambda inner, key: inner[key], keys[:-1], changed)[keys[-1]] = value
    assert breaches(changed)


def test_services_budget_and_network_policy_mean_the_pods_of_the_deployment(manifests):
    labels = the(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    ports = {
        port["name"] for port in the(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]["ports"]
    }
    for manifest in manifests:
        if manifest["kind"] == "Service":
            assert manifest["spec"]["selector"] == labels
            assert {port["targetPort"] for port in manifest["spec"]["ports"]} <= ports
    assert the(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    policy = the(manifests, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert policy["egress"] == []
    assert all(rule["from"] for rule in policy["ingress"])


def test_no_call_fails_while_the_servers_are_restarted_one_after_the_other(tmp_path):
    repository = tmp_path / "models"
    repository.mkdir()
    add_double(repository, "double", 'backend: "onnxruntime" instance_group { kind: KIND_CPU count: 1 }')
    addresses = [find_free("127.0.0.1", 3) for _ in range(SERVERS)]

    def start(ports):
        names = ("http_port", "grpc_port", "metrics_port")
        return TritonServer(ServerOptions(repository=repository, **dict(zip(names, ports, strict=True)))).start()

    with ThreadPoolExecutor() as pool:
        servers = list(pool.map(start, addresses))
    try:
        urls = [f"127.0.0.1:{grpc}" for _, grpc, _ in addresses]
        with Client(urls, timeout=30) as client, calling(THREADS, client, "double", [[[2, 4]]]) as callers:
            for place, ports in enumerate(addresses):
                before = sum(caller.calls for caller in callers)
                servers[place].stop()
                servers[place] = start(ports)
                assert sum(caller.calls for caller in callers) > before
        assert [failure for caller in callers for failure in caller.failures] == []
    finally:
        with ThreadPoolExecutor() as pool:
            list(pool.map(TritonServer.stop, servers))
