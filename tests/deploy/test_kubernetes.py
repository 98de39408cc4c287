"""The manifests are valid and keep to their policy; servers are replaced one after the other and no call fails."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from callers import calling
from containers import ROOT
from kubernetes_policy import CUSTOM_MUTATIONS, INIT_MUTATIONS, MUTATIONS, breaches, changed
from pydantic import ValidationError
from serving import add_double, wait_for

from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer
from plansmith_server.launcher.ports import find_free

SERVERS = 3
THREADS = 4


@pytest.fixture(scope="module")
def manifests(tools):
    return tools.kustomize(ROOT / "deploy")


@pytest.fixture(scope="module", params=["autoscaling", "autoscaling-keda"])
def overlaid(request, tools, tmp_path_factory):
    """What an overlay with all components gives; there are two for autoscaling, and two for the repository."""
    names = (request.param, "gpu", "repository-image")
    folder = tmp_path_factory.mktemp("kubernetes")
    return tools.overlay(folder, "watch", *(f"components/{name}" for name in names))


@pytest.fixture(scope="module")
def fetching(tools, tmp_path_factory):
    """What an overlay gives whose pods fetch the repository."""
    return tools.overlay(tmp_path_factory.mktemp("kubernetes"), "components/repository-init")


def the(manifests, kind):
    return next(manifest for manifest in manifests if manifest["kind"] == kind)


def test_all_that_is_applied_follows_the_schemas_of_kubernetes(manifests, fetching, schemas):
    assert len(manifests) == 6
    for manifest in (*manifests, *fetching):
        schemas.validate(manifest)


def test_what_the_components_add_follows_the_schemas_of_kubernetes_and_custom_resources(overlaid, schemas):
    for manifest in overlaid:
        schemas.validate(manifest)


@pytest.fixture(scope="module")
def custom(tools):
    """Every custom resource of ours, by its kind."""
    found = tools.chart("autoscaling.by=keda", "podMonitor=true", "rules=true")
    found += tools.kustomize(ROOT / "deploy" / "kserve")
    return {manifest["kind"]: manifest for manifest in found}


@pytest.mark.parametrize(("kind", "path", "value"), CUSTOM_MUTATIONS)
def test_the_schemas_of_custom_resources_see_each_mistake(custom, schemas, kind, path, value):
    schemas.validate(custom[kind])
    with pytest.raises(ValidationError):
        schemas.validate(changed(custom[kind], path, value))


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


def test_servers_of_kserve_are_pods_of_the_same_policy(custom, schemas):
    runtime, service = custom["ServingRuntime"], custom["InferenceService"]["spec"]["predictor"]
    assert service["model"]["runtime"] == runtime["metadata"]["name"]
    assert service["model"]["modelFormat"] in runtime["spec"]["supportedModelFormats"]
    assert service["model"]["protocolVersion"] in runtime["spec"]["protocolVersions"]
    containers, volumes = runtime["spec"]["containers"], runtime["spec"]["volumes"]
    pod = {"spec": {"containers": containers, "volumes": volumes}, "metadata": {"name": "models"}}
    schemas.validate({"apiVersion": "v1", "kind": "Pod", **pod})
    security = containers[0]["securityContext"]
    assert security["runAsNonRoot"]
    assert security["readOnlyRootFilesystem"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    restricted = [word.partition("=")[2] for word in containers[0]["args"] if "restricted" in word]
    assert restricted == ["shared-memory,logging,trace:plansmith-secret=$(ADMIN_KEY)"] * 2
    telemetry, key = containers[0]["env"]
    assert telemetry == {"name": "ORT_DISABLE_TELEMETRY", "value": "1"}
    assert key["name"] == "ADMIN_KEY"
    assert not key["valueFrom"]["secretKeyRef"].get("optional")


def test_the_deployment_keeps_to_its_policy(manifests):
    assert breaches(the(manifests, "Deployment")) == []


@pytest.mark.parametrize(("path", "value"), MUTATIONS)
def test_the_policy_sees_each_change_for_the_worse(manifests, path, value):
    assert breaches(changed(the(manifests, "Deployment"), path, value))


def test_a_pod_that_fetches_its_repository_keeps_to_the_policy_and_may_reach_the_storage(fetching):
    deployment = the(fetching, "Deployment")
    assert breaches(deployment) == []
    pod = deployment["spec"]["template"]["spec"]
    (models,) = [volume for volume in pod["volumes"] if volume["name"] == "models"]
    assert set(models) == {"name", "emptyDir"}
    ports = [port["port"] for rule in the(fetching, "NetworkPolicy")["spec"]["egress"] for port in rule["ports"]]
    assert ports == [443, 53, 53]


@pytest.mark.parametrize(("path", "value"), INIT_MUTATIONS)
def test_the_policy_sees_each_change_for_the_worse_of_a_pod_that_fetches(fetching, path, value):
    assert breaches(changed(the(fetching, "Deployment"), path, value))


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
    shutil.copytree(ROOT / "tests/models_python/slow", repository / "slow")
    held = repository / "slow" / "held"
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
                # A request that no other server answers: this one ends it before it goes.
                with Client(urls[place], timeout=60, retries=0) as alone, ThreadPoolExecutor() as pool:
                    last = pool.submit(alone.model("slow"), np.float32([[-1]]))
                    wait_for(held.exists)
                    stopped = pool.submit(servers[place].stop)
                    wait_for(lambda alone=alone: not alone.is_ready())
                    held.unlink()
                    assert last.result().array.tolist() == [[-1]]
                    stopped.result()
                servers[place] = start(ports)
                assert sum(caller.calls for caller in callers) > before
        assert [failure for caller in callers for failure in caller.failures] == []
    finally:
        with ThreadPoolExecutor() as pool:
            list(pool.map(TritonServer.stop, servers))
