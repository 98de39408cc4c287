"""The chart is the manifests of kustomize, in other words: rendered by the real Helm, object by object."""

from __future__ import annotations

import re

import pytest
import yaml
from containers import ROOT
from kubernetes_policy import breaches
from kubernetes_tools import CHART

HASH = re.compile(r"-[0-9a-z]{10}$")
URL = ("repository.url=s3://bucket/model_repository", "repository.fetcherImage=registry.example/plansmith-fetcher:1")
# What an overlay names, and what says the same in values.
SAME = {
    "": (),
    "components/gpu": ("gpus=1",),
    "components/autoscaling": ("autoscaling.by=hpa",),
    "components/autoscaling-keda": ("autoscaling.by=keda",),
    "components/repository-image": ("repository.image=registry.example/models:1",),
    "components/repository-init": URL,
    "watch": ("podMonitor=true", "dashboards=true"),
    "components/gpu components/autoscaling-keda components/repository-init watch": (
        *("gpus=1", "autoscaling.by=keda", *URL, "podMonitor=true", "dashboards=true"),
    ),
}
# What a release of ours may look like.
GIVEN = (
    "image=registry.example/triton@sha256:" + 64 * "a",
    "replicas=5",
    "gpus=2",
    "resources.limits.memory=64Gi",
    "adminKeySecret=our-key",
    "repository.claim=ours",
    "monitoringNamespace=observability",
    "env.OTLP_TRACES_URL=http://collector:4318/v1/traces",
    "pod.imagePullSecrets[0].name=registry",
    "pod.nodeSelector.zone=a",
    "rules=true",
)
REFUSED = [
    "image=nvcr.io/nvidia/tritonserver",
    "image=nvcr.io/nvidia/tritonserver:latest",
    "replicas=0",
    "replicas=two",
    "gpus=-1",
    "replica=3",
    "resources.limit.memory=1Gi",
    "repository.pvc=models",
    "repository.claim=Models",
    "repository.url=s3://bucket/models",
    "repository.url=bucket/models," + URL[1],
    "repository.url=s3://key:secret@bucket/models," + URL[1],
    "repository.claim=models,repository.image=registry.example/models:1",
    "repository.image=registry.example/models:latest",
    "autoscaling.by=vpa",
    "autoscaling.maxReplicas=4",
    "autoscaling.by=hpa,autoscaling.minReplicas=0",
    "podMonitor=yes",
    "env.DEBUG=null,env.COUNT=3",
    "pod.hostNetwork=true",
    "pod.securityContext.runAsUser=0",
    "pod.automountServiceAccountToken=true",
    "pod.volumes[0].name=models",
    "pod.containers[0].name=triton",
]


def by_name(manifests):
    """Objects by kind and name, whose hash of a content the two tools write in their own ways."""
    text = yaml.safe_dump_all(manifests)
    for name in {found["metadata"]["name"] for found in manifests if found["kind"] == "ConfigMap"}:
        text = text.replace(name, HASH.sub("", name))
    return {(found["kind"], found["metadata"]["name"]): found for found in yaml.safe_load_all(text)}


@pytest.mark.parametrize("components", SAME)
def test_values_say_what_the_components_of_kustomize_say(tools, tmp_path, components):
    assert by_name(tools.chart(*SAME[components])) == by_name(tools.overlay(tmp_path, *components.split()))


def test_a_packaged_chart_brings_all_it_reads(tools, tmp_path):
    done = tools.helm("package", CHART, "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.iterdir()
    everything = ("gpus=1", "autoscaling.by=hpa", *URL, "podMonitor=true", "dashboards=true", "rules=true")
    assert tools.chart(*everything, chart=archive) == tools.chart(*everything)
    assert tools.helm("lint", "--strict", CHART).returncode == 0


def test_what_is_given_arrives_and_is_a_deployment_of_the_same_policy(tools, schemas):
    manifests = by_name(tools.chart(*GIVEN))
    deployment = manifests["Deployment", "triton"]
    for manifest in manifests.values():
        schemas.validate(manifest)
    pod = deployment["spec"]["template"]["spec"]
    server = pod["containers"][0]
    assert server["image"].startswith("registry.example/triton@sha256:")
    assert breaches(deployment) == ["image is pinned"]
    assert deployment["spec"]["replicas"] == 5
    assert server["resources"] == {
        "requests": {"cpu": "2", "memory": "4Gi"},
        "limits": {"memory": "64Gi", "nvidia.com/gpu": 2},
    }
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["models"]["persistentVolumeClaim"] == {"claimName": "ours", "readOnly": True}
    assert volumes["admin-key"]["secret"]["secretName"] == "our-key"
    assert {"name": "OTLP_TRACES_URL", "value": "http://collector:4318/v1/traces"} in server["env"]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["nodeSelector"] == {"zone": "a"}
    assert "observability" in str(manifests["NetworkPolicy", "triton"]["spec"]["ingress"])
    rules = yaml.safe_load((ROOT / "deploy/watch/rules.yml").read_text())
    assert manifests["PrometheusRule", "triton"]["spec"] == rules


def test_a_fetched_repository_takes_names_and_sizes(tools):
    given = ("credentialsSecret=our-s3", "publicKeyConfigMap=our-keys", "size=5Gi", "unsigned=true")
    deployment = by_name(tools.chart(*URL, *(f"repository.{word}" for word in given)))["Deployment", "triton"]
    pod = deployment["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["models"]["emptyDir"] == {"sizeLimit": "5Gi"}
    assert volumes["repository-key"]["configMap"]["name"] == "our-keys"
    assert pod["initContainers"][0]["envFrom"][0]["secretRef"]["name"] == "our-s3"
    assert breaches(deployment) == ["fetched models are signed"]


def test_an_autoscaler_takes_its_limits(tools):
    given = [f"autoscaling.{word}" for word in ("minReplicas=3", "maxReplicas=9", "requestsAtOnce=6")]
    scaler = by_name(tools.chart("autoscaling.by=hpa", *given))["HorizontalPodAutoscaler", "triton"]["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 9)
    assert scaler["metrics"][0]["pods"]["target"]["averageValue"] == "6"
    given.append("autoscaling.prometheus=http://prometheus:9090")
    scaled = by_name(tools.chart("autoscaling.by=keda", *given))["ScaledObject", "triton"]["spec"]
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (3, 9)
    assert scaled["triggers"][0]["metadata"]["threshold"] == "6"
    assert scaled["triggers"][0]["metadata"]["serverAddress"] == "http://prometheus:9090"


@pytest.mark.parametrize("setting", REFUSED)
def test_the_schema_refuses_values_that_mean_nothing_or_open_a_hole(tools, setting):
    done = tools.helm("template", "triton", CHART, f"--set={setting}")
    assert done.returncode != 0
    assert "don't meet the specifications of the schema" in done.stderr
