"""What the Deployment must keep to, as a function of what is rendered, and changes for the worse that it must see."""

from __future__ import annotations

import copy
from functools import reduce
from typing import Any

TRITON_EXIT_SECONDS = 30
POD = "spec template spec "
CONTAINER = POD + "containers 0 "
# Of any pod of ours: what it could do to its machine.
POD_MUTATIONS = [
    (POD + "securityContext runAsNonRoot", False),
    (POD + "securityContext seccompProfile", None),
    (POD + "automountServiceAccountToken", True),
    (POD + "hostNetwork", True),
    (POD + "volumes 0", {"name": "models", "hostPath": {"path": "/srv"}}),
    (CONTAINER + "securityContext allowPrivilegeEscalation", True),
    (CONTAINER + "securityContext readOnlyRootFilesystem", False),
    (CONTAINER + "securityContext capabilities", None),
    (CONTAINER + "resources limits", {}),
]
MUTATIONS = [
    *POD_MUTATIONS,
    (POD + "hostIPC", True),
    (POD + "terminationGracePeriodSeconds", 30),
    (CONTAINER + "image", "nvcr.io/nvidia/tritonserver:latest"),
    (CONTAINER + "volumeMounts 0 readOnly", False),
    (CONTAINER + "args 1", "/models/start.sh"),
    (CONTAINER + "lifecycle", None),
    (CONTAINER + "livenessProbe", {"httpGet": {"path": "/v2/health/live", "port": "http"}}),
    (CONTAINER + "startupProbe", None),
    (CONTAINER + "readinessProbe", None),
    ("spec strategy rollingUpdate maxUnavailable", 1),
    ("spec replicas", 1),
]
INIT = POD + "initContainers 0 "
INIT_MUTATIONS = [
    (INIT + "securityContext allowPrivilegeEscalation", True),
    (INIT + "securityContext readOnlyRootFilesystem", False),
    (INIT + "securityContext capabilities", None),
    (INIT + "resources limits", {}),
    (INIT + "env 1 value", ""),
    (INIT + "env 1 name", "PUBLIC_KEY"),
    (CONTAINER + "envFrom", [{"secretRef": {"name": "repository-credentials"}}]),
    (CONTAINER + "volumeMounts 0 readOnly", False),
]

# Of a custom resource: a field that it does not have, one that it needs, one of another type or form.
CUSTOM_MUTATIONS = [
    ("ScaledObject", "spec triggers 0 metadata threshold", 4),
    ("ScaledObject", "spec triggers 0 type", None),
    ("ScaledObject", "spec maxReplicas", 8),
    ("ScaledObject", "spec fallback replicas", "four"),
    ("ScaledObject", "apiVersion", "keda.sh/v1beta1"),
    ("PodMonitor", "spec podMetricsEndpoints 0 interval", "15 s"),
    ("PodMonitor", "spec podMetricsEndpoints 0 targetport", "metrics"),
    ("PodMonitor", "spec selector", None),
    ("PrometheusRule", "spec groups 0 rules 0 for", "a minute"),
    ("PrometheusRule", "spec groups 0 rules 0 expression", "up"),
    ("PrometheusRule", "spec groups 0 name", None),
    ("ServingRuntime", "spec supportedModelFormats 0 priority", "first"),
    ("ServingRuntime", "spec containers", None),
    ("ServingRuntime", "spec protocols", ["v2"]),
    ("InferenceService", "spec predictor model storageURI", "pvc://model-repository"),
    ("InferenceService", "spec predictor model modelFormat", None),
    ("InferenceService", "spec predictor minReplicas", "two"),
]


def changed(deployment: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of the deployment with another value at a path such as "spec replicas"."""
    copied = copy.deepcopy(deployment)
    keys = [int(word) if word.isdigit() else word for word in path.split()]
    reduce(lambda inner, key: inner[key], keys[:-1], copied)[keys[-1]] = value
    return copied


def breaches(deployment: dict[str, Any], fewest: int | None = None) -> list[str]:
    """What in the deployment breaks the policy; `fewest` servers where an autoscaler says how many."""
    spec, pod = deployment["spec"], deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    first = pod.get("initContainers", [])
    probe = ["python3", "-I", "-S", "/scripts/infer_probe.py"]
    pause = ((container.get("lifecycle") or {}).get("preStop") or {}).get("exec", {}).get("command", ["sleep", "0"])
    kept = {
        **rights(pod),
        "image is pinned": container["image"].endswith("tritonserver:26.11-py3"),
        "models are read-only": container["volumeMounts"][0]["readOnly"] is True,
        "administrative APIs take a key": container["args"][:2] == ["sh", "/scripts/start-triton.sh"],
        "wedged servers are restarted": container["livenessProbe"].get("exec", {}).get("command") == probe,
        "slow starts are waited for": bool(container.get("startupProbe")),
        "only ready servers are asked": bool(container.get("readinessProbe")),
        "clients learn of an end before it": int(pause[1]) > 0,
        "requests in flight end": pod["terminationGracePeriodSeconds"] > int(pause[1]) + TRITON_EXIT_SECONDS,
        "none goes before another came": spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0,
        "fetched models are signed": all(
            any(entry["name"] == "REPOSITORY_PUBLIC_KEY" and entry["value"] for entry in each["env"]) for each in first
        ),
        "credentials are the fetcher's alone": "envFrom" not in container,
        "one may fail": spec.get("replicas", fewest) > 1,
    }
    return [name for name, holds in kept.items() if not holds]


def rights(pod: dict[str, Any]) -> dict[str, bool]:
    """What any pod of ours must not be able to do, and whether this one keeps to it."""
    everyone = [*pod.get("initContainers", []), *pod["containers"]]
    securities = [each["securityContext"] for each in everyone]
    return {
        "no root": pod["securityContext"].get("runAsNonRoot") is True,
        "system calls are filtered": bool(pod["securityContext"].get("seccompProfile")),
        "no token": pod["automountServiceAccountToken"] is False,
        "no namespace of the machine": not any(pod.get(name) for name in ("hostNetwork", "hostIPC", "hostPID")),
        "no folder of the machine": not any("hostPath" in volume for volume in pod["volumes"]),
        "no privileges": all(security["allowPrivilegeEscalation"] is False for security in securities),
        "files are read-only": all(security["readOnlyRootFilesystem"] is True for security in securities),
        "no capabilities": all((security.get("capabilities") or {}).get("drop") == ["ALL"] for security in securities),
        "memory is limited": all("memory" in each["resources"]["limits"] for each in everyone),
    }
