"""docker-compose.yml is valid, keeps to its policy, and runs: podman-compose starts `cpu` and `proxy`."""

from __future__ import annotations

import contextlib
import copy
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from functools import reduce

import pytest
import requests
import yaml
from compose_policy import breaches, parse
from containers import ROOT, SERVER_IMAGE, started
from locust_page import begin, rows_of_digits, wait_until
from nginx_proxy import TOKEN, make_certificates

from plansmith_client import AccessDenied, Client
from plansmith_server.launcher.ports import find_free

COMPOSE_FILE = ROOT / "docker-compose.yml"
DOCUMENT = parse(COMPOSE_FILE.read_text())
SERVICES = DOCUMENT["services"]
DELETED = object()
KEY = "c0ffee"
PROFILES = ("--profile", "cpu", "--profile", "proxy")
LIMITS = {"memlock": resource.RLIMIT_MEMLOCK, "stack": resource.RLIMIT_STACK}
OTHER_VOLUME = {"type": "bind", "source": "/srv", "target": "/srv", "bind": {"create_host_path": False}}
SOCKET = {**OTHER_VOLUME, "source": "/var/run/docker.sock", "read_only": True}
# What somebody may do to the file one day: where, and what stands there then.
MUTATIONS = [
    *(("triton-cpu user", value) for value in ("root", "0", "0:0", DELETED)),
    *((f"{service} read_only", False) for service in SERVICES),
    *((f"{service} cap_drop", DELETED) for service in SERVICES),
    ("triton-cpu cap_drop", ["NET_RAW"]),
    ("triton-gpu cap_add", ["SYS_ADMIN"]),
    ("triton-gpu security_opt", DELETED),
    ("builder security_opt", ["seccomp:unconfined"]),
    ("triton-gpu privileged", True),
    ("triton-cpu devices", ["/dev/mem"]),
    ("triton-cpu network_mode", "host"),
    ("triton-cpu ipc", "host"),
    ("triton-cpu pid", "host"),
    *((f"{service} mem_limit", DELETED) for service in SERVICES),
    *((f"{service} pids_limit", DELETED) for service in SERVICES),
    ("triton-cpu pids_limit", -1),
    ("triton-cpu mem_limit", 0),
    ("triton-cpu shm_size", DELETED),
    ("triton-cpu ports", ["8000:8000"]),
    ("triton-gpu ports", ["0.0.0.0:8001:8001"]),
    ("locust ports", ["8089:8089"]),
    ("triton-cpu ports", DELETED),
    ("proxy ports", ["0.0.0.0:8443:8443"]),
    ("proxy secrets", ["proxy_certificate"]),
    ("triton-cpu volumes 0 read_only", False),
    ("plan-check volumes 1 read_only", DELETED),
    ("triton-cpu volumes 0 bind create_host_path", True),
    ("triton-cpu volumes 0", "./model_repository:/models"),
    ("builder volumes 0", OTHER_VOLUME),
    ("locust volumes", [SOCKET]),
    ("triton-cpu deploy", SERVICES["triton-gpu"]["deploy"]),
    ("triton-gpu deploy", DELETED),
    ("builder deploy", DELETED),
    ("triton-cpu image", "nvcr.io/nvidia/tritonserver:25.06-py3"),
    ("triton-cpu image", "nvcr.io/nvidia/tritonserver:latest"),
    ("triton-cpu image", "nvcr.io/nvidia/tritonserver"),
    ("triton-cpu environment AWS_SECRET_ACCESS_KEY", "abc"),
    ("grafana environment GF_SECURITY_ADMIN_PASSWORD", "admin"),
    ("grafana ports", ["3000:3000"]),
    ("prometheus image", "docker.io/prom/prometheus:latest"),
    ("triton-cpu command 1", "-c"),
    ("triton-cpu command", ["tritonserver", "--model-repository=/models", "--model-config-name=cpu"]),
    ("triton-gpu command 3", "--model-config-name=cpu"),
    ("triton-cpu command 2", "--model-control-mode=explicit"),
    ("triton-cpu command 2", "--allow-client-shm=true"),
    ("triton-cpu secrets", DELETED),
    ("triton-cpu healthcheck test", ["CMD", "curl", "--fail", "http://localhost:8000/v2/health/ready"]),
    ("triton-cpu healthcheck", DELETED),
    ("triton-gpu healthcheck disable", True),
    ("triton-cpu stop_grace_period", "10s"),
    ("triton-gpu stop_grace_period", DELETED),
    ("triton-gpu depends_on", DELETED),
    ("triton-gpu depends_on plan-check condition", "service_started"),
    ("plan-check network_mode", DELETED),
    ("plan-check image", "nvcr.io/nvidia/tritonserver:26.10-py3"),
    ("builder network_mode", "bridge"),
    ("builder build args TRITON_RELEASE", "26.10"),
    ("triton-cpu profiles", DELETED),
    ("locust profiles", ["load"]),
]


def put(document, path, value):
    """Set what stands at a path such as "triton-cpu volumes 0 read_only", or delete it."""
    keys = [int(word) if word.isdigit() else word for word in path.split()]
    place = reduce(lambda inner, key: inner[key], keys[:-1], document["services"])
    if value is DELETED:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value


def test_the_file_follows_the_compose_schema():
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE_FILE]
    done = subprocess.run(checker, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_file_keeps_to_its_policy():
    assert breaches(DOCUMENT) == []


@pytest.mark.parametrize(("path", "value"), MUTATIONS)
def test_the_policy_sees_each_change_for_the_worse(path, value):
    changed = copy.deepcopy(DOCUMENT)
    put(changed, path, value)
    assert breaches(changed)


def test_the_builder_is_of_the_servers_release():
    dockerfile = (ROOT / SERVICES["builder"]["build"]["dockerfile"]).read_text()
    release = SERVICES["builder"]["build"]["args"]["TRITON_RELEASE"]
    assert f"ARG TRITON_RELEASE={release}\nFROM nvcr.io/nvidia/tensorrt:${{TRITON_RELEASE}}-py3" in dockerfile
    assert re.search(r"^USER (?!0|root)", dockerfile, re.MULTILINE)


def test_what_is_mounted_and_built_is_in_the_repository():
    mounted = [volume["source"] for service in SERVICES.values() for volume in service.get("volumes", ())]
    built = [service["build"]["dockerfile"] for service in SERVICES.values() if "build" in service]
    files = [ROOT / place for place in (*mounted, *built) if not place.endswith(("-cache", "-data"))]
    assert [place for place in files if not place.exists()] == []


def test_every_variable_has_a_default_and_is_in_the_example():
    example = (ROOT / ".env.example").read_text()
    named = re.findall(r"(?<!\$)\$\{(\w+)(:-)?", COMPOSE_FILE.read_text())
    assert [name for name, default in named if not default] == []
    assert sorted({name for name, _ in named} - set(re.findall(r"^#?(\w+)=", example, re.MULTILINE))) == []


def test_the_documentation_names_the_profile_of_each_service_that_it_runs():
    pages = [COMPOSE_FILE, *(ROOT / "docs").glob("*.md")]
    command = r"docker compose ((?:--\S+ \S+ )*)(?:run --rm|restart|build) ([\w-]+)"
    named = [found for page in pages for found in re.findall(command, page.read_text())]
    assert len(named) > 6
    assert [name for words, name in named if f"--profile {SERVICES[name]['profiles'][0]} " not in words] == []


def test_who_loads_models_needs_the_key_however_loading_is_allowed(tmp_path):
    (tmp_path / "key").write_text(KEY)
    for control in ((), ("--model-control-mode=explicit",), ("--model-control-mode", "explicit")):
        said = started(tmp_path, *control, ADMIN_KEY_FILE=str(tmp_path / "key")).stdout
        apis = "shared-memory,logging,trace" + ",model-repository" * bool(control)
        for option in ("--http-restricted-api", "--grpc-restricted-protocol"):
            assert f"{option}={apis}:plansmith-secret={KEY}\n" in said
    keys = {re.findall("secret=(.*)", started(tmp_path, ADMIN_KEY_FILE=str(tmp_path / "none")).stdout)[0] for _ in "ab"}
    assert [len(key) for key in keys] == [32, 32]
    for unusable, why in ((tmp_path, "must be readable for user"), (ROOT / "Makefile", "letters and digits only")):
        done = started(tmp_path, ADMIN_KEY_FILE=str(unusable))
        assert (done.returncode, done.stdout) == (2, "")
        assert why in done.stderr


def until(url, holds):
    """The JSON document behind a URL, once somebody answers and it is as it should be."""
    while True:
        with contextlib.suppress(OSError):
            answer = requests.get(url, timeout=10)
            if answer.ok and holds(found := answer.json()):
                return found
        time.sleep(0.2)


@pytest.fixture(scope="module")
def composed(engine, tmp_path_factory):
    """The profiles `cpu` and `proxy` as `docker compose` starts them, with images of our own under the usual names."""
    folder = tmp_path_factory.mktemp("compose")
    key = folder / "admin.key"
    key.write_text(KEY)
    key.chmod(0o644)
    engine.run("tag", SERVER_IMAGE, SERVICES["triton-cpu"]["image"])
    engine.stand_in(SERVICES["proxy"]["image"], "haproxy")
    make_certificates(folder)
    (folder / "proxy.pem").write_text((folder / "server.pem").read_text() + (folder / "server.key").read_text())
    (folder / "proxy.tokens").write_text(f"{TOKEN} tests\n")
    folder.chmod(0o755)
    for name in ("proxy.pem", "proxy.tokens"):
        (folder / name).chmod(0o644)
    names = ("HTTP_PORT", "GRPC_PORT", "METRICS_PORT", "PROXY_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT",
             "LOCUST_PORT")  # fmt: skip
    variables = {
        **engine.environment,
        **dict(zip(names, map(str, find_free("127.0.0.1", len(names))), strict=True)),
        "ADMIN_KEY_FILE": str(key),
        "PROXY_CERTIFICATE_FILE": str(folder / "proxy.pem"),
        "PROXY_TOKENS_FILE": str(folder / "proxy.tokens"),
        "MEMORY_LIMIT": "2g",
        "SHM_SIZE": "256mb",
    }
    # Where the tests run nobody may raise a limit.
    ulimits = {name: resource.getrlimit(number)[1] for name, number in LIMITS.items()}
    ulimits |= {"nofile": 1024, "nproc": 4096}
    override = folder / "override.yml"
    override.write_text(yaml.safe_dump({"services": {"triton-cpu": {"ulimits": ulimits}}}))
    files = ["--file", COMPOSE_FILE, "--file", override]
    project = [sys.executable, "-m", "podman_compose", "--project-name", folder.name, *files]

    def compose(*words):
        done = subprocess.run([*project, *words], check=False, capture_output=True, text=True, env=variables)
        assert done.returncode == 0, done.stderr
        return done

    try:
        compose(*PROFILES, "up", "--detach", "--no-build")
        yield folder, compose
    finally:
        compose(*PROFILES, "down", "--timeout", "40", "--volumes")


def test_the_proxy_lets_those_with_a_token_ask_and_nobody_administer(engine, composed, digits):
    folder, _ = composed
    address = engine.address(f"{folder.name}_proxy_1", 8443)
    options = {"ca_file": folder / "ca.pem", "timeout": 20}
    for url in (f"grpcs://{address}", f"https://{address}"):
        with Client(url, token=TOKEN, **options) as client:
            client.wait_until_ready(timeout=120)
            model = client.model("digits")
            assert model(digits["images"][:4]).array.shape == (4, 10)
            if url.startswith("grpcs"):
                assert [part.array.shape for part in model.stream({"images": digits["images"][:2]})] == [(2, 10)]
            assert {"digits"} <= {entry.name for entry in client.models()}
            assert {entry.name for entry in client.statistics()} == {"digits"}
            key = {"headers": {"plansmith-secret": KEY, "triton-grpc-protocol-plansmith-secret": KEY}}
        with Client(url, token=TOKEN, **options, **key) as client:
            for forbidden in (client.log_settings, client.trace_settings, lambda: client.unload_model("digits")):
                with pytest.raises(AccessDenied):
                    forbidden()
        for wrong in ("a-guess", None):
            with Client(url, token=wrong, retries=0, **options) as client, pytest.raises(AccessDenied):
                client.server_metadata()
    page = (ROOT / "docs" / "production.md").read_text()
    checks = re.findall(r"`(curl [^`]*)` \| (\d+|version)", page)
    assert len(checks) == 5
    (folder / "caller.txt").write_text(f"Authorization: Bearer {TOKEN}\n")
    http = engine.address(f"{folder.name}_triton-cpu_1", 8000)
    for command, answer in checks:
        words = command.replace("HOST:8443", address).replace("localhost:8000", http)
        done = subprocess.run(["sh", "-c", words], check=True, capture_output=True, text=True, cwd=folder)
        assert answer in done.stdout, command
    log = engine.run("logs", f"{folder.name}_proxy_1").stdout
    assert " tests POST /inference.GRPCInferenceService/ModelInfer 200 " in log
    assert TOKEN not in log


def test_the_profile_that_watches_scrapes_the_server_and_knows_whom_to_tell(engine, composed):
    folder, compose = composed
    engine.stand_in(SERVICES["prometheus"]["image"], "prometheus")
    engine.stand_in(SERVICES["alertmanager"]["image"], "prometheus-alertmanager")
    watch = ("--profile", "cpu", "--profile", "watch")
    # Debian has no Grafana.
    watching = ("prometheus", "alertmanager")
    compose(*watch, "up", "--detach", "--no-build", *watching)
    prometheus = f"http://{engine.address(f'{folder.name}_prometheus_1', 9090)}/api/v1"
    alertmanager = f"http://{engine.address(f'{folder.name}_alertmanager_1', 9093)}"
    # Its metrics, and whether it is ready.
    until(
        f"{prometheus}/query?query=sum(up)", lambda found: [row["value"][1] for row in found["data"]["result"]] == ["2"]
    )
    groups = until(f"{prometheus}/rules", lambda found: found["data"]["groups"])["data"]["groups"]
    assert "TritonDown" in {rule["name"] for group in groups for rule in group["rules"]}
    until(f"{prometheus}/alertmanagers", lambda found: found["data"]["activeAlertmanagers"])
    assert until(f"{alertmanager}/api/v2/status", lambda found: found["config"])["config"]["original"]
    compose(*watch, "stop", *watching)
    for service in watching:
        assert engine.out("inspect", "--format", "{{.State.ExitCode}}", f"{folder.name}_{service}_1") == "0"


def test_the_profile_for_load_tests_sends_from_its_workers_and_stops(engine, composed, tmp_path):
    folder, compose = composed
    (parts,) = SERVICES["locust"]["build"]["args"].items()
    engine.build("Containerfile.tools", SERVICES["locust"]["image"], f"--build-arg={'='.join(parts)}")
    perf = ("--profile", "cpu", "--profile", "perf")
    compose(*perf, "up", "--detach", "--no-build", "locust", "locust-worker")
    page = f"http://{engine.address(f'{folder.name}_locust_1', 8089)}"
    wait_until(page, lambda now: now["worker_count"] == 2)
    form = {"user_count": 4, "spawn_rate": 4, "run_time": "3s", "arrival_rate": 40, "protocol": "grpc"}
    begin(page, form)
    done = wait_until(page, lambda now: now["state"] == "stopped" and rows_of_digits(now))
    ((protocol, requests, failures),) = rows_of_digits(done)
    assert (protocol, failures) == ("gRPC", 0)
    assert requests > 40
    compose(*perf, "stop", "locust", "locust-worker")
    for service in ("locust_1", "locust-worker_1", "locust-worker_2"):
        assert engine.out("inspect", "--format", "{{.State.ExitCode}}", f"{folder.name}_{service}") == "0"
    # The same image is a client, and a builder that reaches nothing.
    plansmith = ("run", "--rm", "--read-only", "--cap-drop=ALL", "--tmpfs=/tmp:mode=1777", "--user=1000:1000")
    image = SERVICES["locust"]["image"]
    engine.run(*plansmith, f"--network={folder.name}_default", image, "health", "--infer", "--url", "triton:8001")
    shutil.copy(ROOT / "model_repository/digits/1/model.onnx", tmp_path / "digits.onnx")
    for place in (tmp_path, tmp_path / "digits.onnx"):
        os.chown(place, 1000, 1000)
    project = ("--network=none", f"--volume={tmp_path}:/project", "--workdir=/project")
    engine.run(*plansmith, *project, image, "build", "digits.onnx", "--no-serve")
    assert (tmp_path / "model_repository/digits/1/manifest.json").is_file()


def test_the_profile_for_cpus_starts_is_healthy_answers_and_stops(engine, composed, digits):
    folder, compose = composed
    container = f"{folder.name}_triton-cpu_1"
    with Client(engine.address(container, 8001), timeout=10) as client:
        client.wait_until_ready(timeout=120)
        assert client.model("digits")(digits["images"][:4]).array.shape == (4, 10)
    engine.run("healthcheck", "run", container)
    logging = f"http://{engine.address(container, 8000)}/v2/logging"
    assert requests.get(logging, timeout=10).status_code == 403
    assert requests.get(logging, headers={"plansmith-secret": KEY}, timeout=10).status_code == 200
    compose("--profile", "gpu", "run", "--rm", "-T", "plan-check")
    compose("--profile", "cpu", "stop")
    assert engine.out("inspect", "--format", "{{.State.ExitCode}}", container) == "0"


def test_the_proxy_finds_a_server_that_is_started_again_and_one_whose_connections_are_dead(engine, composed, digits):
    folder, _ = composed
    proxy, server, network = (f"{folder.name}_{name}" for name in ("proxy_1", "triton-cpu_1", "default"))
    engine.run("start", server)
    with Client(f"grpcs://{engine.address(proxy, 8443)}", token=TOKEN, ca_file=folder / "ca.pem") as client:
        client.wait_until_ready(timeout=120)
        model = client.model("digits")
        model(digits["images"][:1])
        # As when a machine is gone: the proxy keeps a connection to the old address, which nobody closes.
        engine.run("network", "disconnect", network, server)
        engine.run("network", "connect", "--alias", "triton", network, server)
        assert model(digits["images"][:4], timeout=60).array.shape == (4, 10)
    # It would wait for that connection before it ends.
    engine.run("kill", server)
