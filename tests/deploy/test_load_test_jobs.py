"""The Jobs that load a server: valid, of the policy of the servers, and their own commands run for real."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from containers import ROOT
from kubernetes_policy import CONTAINER, POD, POD_MUTATIONS, changed, rights

from plansmith_perf.results.documents import read_result
from plansmith_server.launcher.ports import find_free

NAMES = ("load-test", "load-test-workers")
MUTATIONS = [
    *POD_MUTATIONS,
    (CONTAINER + "image", "registry.example/plansmith-tools:latest"),
    ("spec backoffLimit", 6),
    ("spec activeDeadlineSeconds", None),
    (POD + "restartPolicy", "OnFailure"),
    ("spec template metadata labels triton-client", "false"),
]


@pytest.fixture(scope="module")
def manifests(tools):
    found = tools.kustomize(ROOT / "deploy/load-test")
    return {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in found}


def breaches(job):
    """What in a Job breaks the policy: a load is run once, ends, and reaches servers as any client does."""
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    kept = {
        **rights(pod),
        "image is pinned": not pod["containers"][0]["image"].endswith(":latest"),
        "runs once": spec["backoffLimit"] == 0 and pod["restartPolicy"] == "Never",
        "ends": bool(spec.get("activeDeadlineSeconds")),
        "is a client": spec["template"]["metadata"]["labels"]["triton-client"] == "true",
    }
    return [name for name, holds in kept.items() if not holds]


def test_the_jobs_follow_the_schemas_of_kubernetes(manifests, schemas):
    assert len(manifests) == 5
    for manifest in manifests.values():
        schemas.validate(manifest)


@pytest.mark.parametrize("name", NAMES)
def test_the_jobs_keep_to_their_policy_which_sees_each_change_for_the_worse(manifests, name):
    job = manifests["Job", name]
    assert breaches(job) == []
    for path, value in MUTATIONS:
        assert breaches(changed(job, path, value)), path


def test_workers_find_the_master_and_may_reach_it(manifests):
    master, workers = (manifests["Job", name]["spec"] for name in NAMES)
    labels = master["template"]["metadata"]["labels"]
    service = manifests["Service", "load-test"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert f"--master-host={service['metadata']['name']}" in workers["template"]["spec"]["containers"][0]["args"]
    (container,) = master["template"]["spec"]["containers"]
    assert f"--expect-workers={workers['parallelism']}" in container["args"]
    policy = manifests["NetworkPolicy", "load-test"]["spec"]
    ports = {port["containerPort"] for port in container["ports"]}
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports == {5557}
    for job in (master, workers):
        assert policy["podSelector"]["matchLabels"].items() <= job["template"]["metadata"]["labels"].items()
    (claim,) = [volume for volume in master["template"]["spec"]["volumes"] if "persistentVolumeClaim" in volume]
    assert ("PersistentVolumeClaim", claim["persistentVolumeClaim"]["claimName"]) in manifests


def test_a_master_and_two_workers_of_the_jobs_keep_a_result(manifests, committed_server, tmp_path):
    (port,) = find_free("127.0.0.1", 1)
    here = {
        "--grpc-url=triton-servers:8001": f"--grpc-url={committed_server.grpc_url}",
        "--master-host=load-test": "--master-host=127.0.0.1",
        "--result=/results/result.json": f"--result={tmp_path / 'result.json'}",
        "--run-time=60s": "--run-time=2s",
        "--warmup=5": "--warmup=0.5",
        # Neither how fast the machine of the tests is, nor how many answers it gives in a second and a half.
        "--slo=p99=50ms": "--slo=p50=20s",
    }
    commands = []
    for name in NAMES:
        args = manifests["Job", name]["spec"]["template"]["spec"]["containers"][0]["args"]
        commands.append([Path(sys.executable).with_name("plansmith"), *(here.pop(word, word) for word in args)])
    assert here == {}
    commands[0].append(f"--master-bind-port={port}")
    commands[1].append(f"--master-port={port}")
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
        for command in (commands[0], commands[1], commands[1])
    ]
    try:
        said = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0, 0], "\n".join(said)
    result = read_result(tmp_path / "result.json")
    assert (result.workers, result.complete, result.slo.met) == (2, True, True)
    assert result.measurements[0].requests > 0
    assert result.measurements[0].errors == 0
