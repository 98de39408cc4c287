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


CUSTOM = {"PodMonitor", "ScaledObject"}


def rendered(folder):
    """What `kubectl apply -k` would apply."""
    if shutil.which("kubectl") is None:
        install("kubernetes-client")
    done = subprocess.run(["kubectl", "kustomize", folder], check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def manifests():
    return rendered(ROOT / "deploy")


@pytest.fixture(scope="module", params=["autoscaling", "autoscaling-keda"])
def overlaid(request, tmp_path_factory):
    """What an overlay with all components gives; there are two for autoscaling."""
    folder = tmp_path_factory.mktemp("kubernetes")
    shutil.copytree(ROOT / "deploy", folder / "deploy")
    names = (request.param, "gpu", "repository-image")
    components = ["../deploy/watch", *(f"../deploy/components/{name}" for name in names)]
    (folder / "overlay").mkdir()
    overlay = {"resources": ["../deploy"], "components": components}
    (folder / "overlay" / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return rendered(folder / "overlay")


def the(manifests, kind):
    return next(manifest for manifest in manifests if manifest["kind"] == kind)


def breaches(deployment, fewest=None):
    """What in the deployment breaks the policy; `fewest` servers where an autoscaler says how many."""
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
        "one may fail": spec.get("replicas", fewest) > 1,
    }
    return [name for name, holds in kept.items() if not holds]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifests_follow_the_schemas_of_kubernetes(manifests, version):
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)
    assert len(manifests) == 6


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_components_add_follows_the_schemas_of_kubernetes(overlaid, version):
    for manifest in overlaid:
        if manifest["kind"] not in CUSTOM:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_an_overlay_has_gpus_an_image_of_models_an_autoscaler_and_the_same_policy(overlaid):
    deployment = the(overlaid, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert "--model-config-name=gpu" in container["args"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounted)
    assert [(volume["name"], mounted[volume["name"]]) for volume in pod["volumes"] if "image" in volume] == [
        ("models", "/models")
    ]
    autoscaler = next(found for found in overlaid if found["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"))
    assert autoscaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    limits = autoscaler["spec"]
    fewest = limits.get("minReplicas") or limits.get("minReplicaCount")
    assert "replicas" not in deployment["spec"]
    assert breaches(deployment, fewest) == []
    monitor = the(overlaid, "PodMonitor")["spec"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"] == labels
    assert labels[monitor["jobLabel"]] == "triton"
    assert {end["port"] for end in monitor["podMetricsEndpoints"]} <= {port["name"] for port in container["ports"]}


@pytest.mark.parametrize("version", VERSIONS)
def test_servers_of_kserve_are_pods_of_the_same_policy(version):
    found = rendered(ROOT / "deploy" / "kserve")
    runtime, service = the(found, "ServingRuntime"), the(found, "InferenceService")["spec"]["predictor"]
    assert service["model"]["runtime"] == runtime["metadata"]["name"]
    assert service["model"]["modelFormat"] in runtime["spec"]["supportedModelFormats"]
    assert service["model"]["protocolVersion"] in runtime["spec"]["protocolVersions"]
    containers, volumes = runtime["spec"]["containers"], runtime["spec"]["volumes"]
    pod = {"spec": {"containers": containers, "volumes": volumes}, "metadata": {"name": "models"}}
    kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **pod}, version, strict=True)
    security = containers[0]["securityContext"]
    assert security["runAsNonRoot"]
    assert security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    restricted = [word.partition("=")[2] for word in containers[0]["args"] if "restricted" in word]
    assert restricted == ["shared-memory,logging,trace:plansmith-secret=$(ADMIN_KEY)"] * 2
    (key,) = containers[0]["env"]
    assert key["name"] == "ADMIN_KEY"
    assert not key["valueFrom"]["secretKeyRef"].get("optional")


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
