"""Rules and dashboards: by promtool, and in a real Prometheus and Alertmanager over a real Triton with faults."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import prometheus_client
import pytest
import yaml
from containers import ROOT, install

from plansmith_client import Client, ClientError
from plansmith_client.metrics import ClientMetrics
from plansmith_server import ServerOptions, TritonServer
from plansmith_server.launcher.ports import find_free
from plansmith_server.launcher.triton_wheel import find_triton

WATCH = ROOT / "deploy" / "watch"
MODELS = ROOT / "tests" / "models_python"
TRITON_LIBRARY = "nvidia_pytriton.libs/libtritonserver*"
DASHBOARDS = sorted((WATCH / "grafana" / "dashboards").glob("*.json"))
SHOWN = [target["expr"] for board in DASHBOARDS for panel in json.loads(board.read_text())["panels"]
         for target in panel["targets"]]  # fmt: skip
RULES = [rule for group in yaml.safe_load((WATCH / "rules.yml").read_text())["groups"] for rule in group["rules"]]
OF_GPUS = sorted(set(re.findall(r"nv_gpu\w+", f"{SHOWN} {RULES}")))


@pytest.fixture(scope="module", autouse=True)
def programs():
    packages = {"promtool": "prometheus", "amtool": "prometheus-alertmanager"}
    install(*(package for program, package in packages.items() if shutil.which(program) is None))


def promtool(*words):
    done = subprocess.run(["promtool", *words], check=False, capture_output=True, text=True, cwd=WATCH)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_alert_fires_on_its_fault_and_none_when_all_is_well():
    promtool("check", "config", "prometheus.yml")
    promtool("test", "rules", "rules_test.yml")
    tried = (WATCH / "rules_test.yml").read_text()
    assert [rule["alert"] for rule in RULES if "alert" in rule and rule["alert"] not in tried] == []
    assert [rule["alert"] for rule in RULES if "alert" in rule and not rule["annotations"]["remedy"]] == []


class Receiver(ThreadingHTTPServer):
    """Who is told of alerts. `told`: the names of those that fired and those that ended."""

    def __init__(self):
        self.told = {"firing": set(), "resolved": set()}
        super().__init__(("127.0.0.1", 0), _Hook)


class _Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        for alert in json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"]:
            self.server.told[alert["status"]].add(alert["labels"]["alertname"])
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def running(folder, *words):
    with (folder / f"{words[0]}.log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def wait_for(ask, wanted=None):
    """The first answer that is not empty, or that is the wanted one."""
    answer = None
    for _ in range(2400):
        with contextlib.suppress(OSError):  # It is still starting.
            answer = ask()
            if answer and wanted in (None, answer):
                return answer
        time.sleep(0.25)
    raise AssertionError(f"{answer} where {wanted or 'something'} was wanted")


@contextlib.contextmanager
def alertmanager(folder, receiver):
    """Alertmanager with our configuration and a receiver: its address."""
    config = yaml.safe_load((WATCH / "alertmanager.yml").read_text())
    config["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    config["receivers"][0]["webhook_configs"] = [{"url": f"http://127.0.0.1:{receiver.server_port}"}]
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    for file in (WATCH / "alertmanager.yml", folder / "alertmanager.yml"):
        subprocess.run(["amtool", "check-config", file], check=True, capture_output=True)
    address = f"127.0.0.1:{find_free('127.0.0.1', 1)[0]}"
    words = ["--config.file=alertmanager.yml", "--storage.path=alerts", f"--web.listen-address={address}"]
    with running(folder, "prometheus-alertmanager", *words, "--cluster.listen-address="):
        yield address


class Prometheus:
    """Prometheus with our configuration and rules. A minute of the rules is two seconds."""

    def __init__(self, folder, targets, asked, clients, alerts):
        self.url = f"http://127.0.0.1:{find_free('127.0.0.1', 1)[0]}"
        config = yaml.safe_load((WATCH / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "250ms", "evaluation_interval": "250ms"}
        config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [alerts]
        for job, addresses in zip(config["scrape_configs"], (targets, asked), strict=True):
            job["static_configs"][0]["targets"] = addresses
        config["scrape_configs"].append({"job_name": "clients", "static_configs": [{"targets": [clients]}]})
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        rules = (WATCH / "rules.yml").read_text()
        faster = re.sub(r"(\[|for: )(\d)m", lambda found: f"{found[1]}{2 * int(found[2])}s", rules)
        (folder / "rules.yml").write_text(faster)
        listen = f"--web.listen-address={self.url.removeprefix('http://')}"
        self.run = running(folder, "prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data", listen)

    def query(self, expression):
        """What an expression gives now: labels and value each."""
        address = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return [(row["metric"], float(row["value"][1])) for row in json.load(answer)["data"]["result"]]

    def alerts(self):
        """What fires, and for which model, or else server."""
        firing = self.query('ALERTS{alertstate="firing"}')
        return {(labels["alertname"], labels.get("model", labels.get("instance"))) for labels, _ in firing}


@contextlib.contextmanager
def calling(*calls):
    """Each call made again and again in a thread of its own, whatever becomes of it."""
    ended = threading.Event()

    def again(call):
        while not ended.is_set():
            with contextlib.suppress(ClientError):
                call()
            ended.wait(0.3)

    threads = [threading.Thread(target=again, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def requests_at_once():
    """The expressions by which Kubernetes scales: of KEDA, and of prometheus-adapter as it asks."""
    components = ROOT / "deploy" / "components"
    scaled = yaml.safe_load((components / "autoscaling-keda" / "scaledobject.yaml").read_text())
    (rule,) = yaml.safe_load((components / "autoscaling" / "adapter-values.yaml").read_text())["rules"]["custom"]
    metrics = yaml.safe_load((components / "autoscaling" / "autoscaler.yaml").read_text())["spec"]["metrics"]
    assert [metric["pods"]["metric"]["name"] for metric in metrics] == [rule["name"]["as"]]
    filled = rule["metricsQuery"]
    series = rule["seriesQuery"].partition("{")[0]
    for word, value in {"GroupBy": "instance", "Series": series, "LabelMatchers": 'model="digits"'}.items():
        filled = filled.replace(f"<<.{word}>>", value)
    return [scaled["spec"]["triggers"][0]["metadata"]["query"], filled]


def test_what_is_said_of_gpus_is_said_by_triton():
    assert len(OF_GPUS) == 3
    # Without a GPU they are names in its library, where a compiler may have cut them.
    library = b"".join(file.read_bytes() for file in find_triton().server.parents[3].glob(TRITON_LIBRARY))
    assert [name for name in OF_GPUS if name[:16].encode() not in library] == []


def test_the_rules_are_those_of_the_operator_as_the_documentation_makes_them():
    page = (ROOT / "docs" / "deploy.md").read_text()
    (command,) = re.findall(r"^\$ (.*kind: PrometheusRule.*) \| kubectl apply", page, re.MULTILINE)
    done = subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True, cwd=ROOT)
    rule = yaml.safe_load(done.stdout)
    assert rule["metadata"]["name"] == "triton"
    assert rule["spec"] == yaml.safe_load((WATCH / "rules.yml").read_text())


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A server of digits, and of models that are slow, hang and fail; one that cannot be loaded is not loaded yet."""
    repository = tmp_path_factory.mktemp("models") / "models"
    shutil.copytree(ROOT / "model_repository" / "digits", repository / "digits")
    sources = {"slow": "slow", "expiring": "slow", "hanging": "slow", "failing": "failing"}
    for name, source in (sources | {"broken": "broken"}).items():
        shutil.copytree(MODELS / source, repository / name)
    config = repository / "expiring" / "config.pbtxt"
    config.write_text(config.read_text().replace("microseconds: 60000000", "microseconds: 100000"))
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), find_free("127.0.0.1", 3), strict=True))
    options = {"control": "explicit", "models": ("digits", *sources), "triton_arguments": ("--exit-timeout-secs=1",)}
    with TritonServer(ServerOptions(repository=repository, **options, **ports)) as server:
        yield server


def look_from_outside(server, plansmith):
    """To the containers' probe and `plansmith health` much to do is no fault, and to hang with a full queue is one."""

    def probed(model, seconds):
        words = (ROOT / "deploy/infer_probe.py", "--url", server.http_url, f"--timeout={seconds}", model)
        return subprocess.run([sys.executable, "-I", "-S", *words], check=False, capture_output=True).returncode

    for model, seconds, code in (("slow", 60, 0), ("hanging", 10, 3), ("failing", 60, 3)):
        assert probed(model, seconds) == bool(code), model
        words = ("--infer", "--timeout", str(seconds), "--url", server.grpc_url)
        plansmith("health", model, *words, expect=code)
    assert [probed("expiring", 60) for _ in range(5)] == [0] * 5


def wait_for_recorded(prometheus):
    """Until what is recorded of requests, and what autoscalers ask, has values that fit one request at a time."""
    for name in ("request_seconds:mean1m", "queue_seconds:mean1m", "batch:mean1m"):
        wait_for(lambda name=name: prometheus.query(f'triton:{name}{{model="digits"}} > 0'))
    at_once = requests_at_once()
    assert len(at_once) == 2
    for expression in at_once:
        ((_, value),) = wait_for(lambda expression=expression: prometheus.query(f"{expression} > 0"))
        assert value < 2, expression


def test_alerts_fire_for_their_faults_alone_and_somebody_is_told(faulty, plansmith, tmp_path):
    gone = f"127.0.0.1:{find_free('127.0.0.1', 1)[0]}"
    server = faulty.metrics_url.removeprefix("http://").removesuffix("/metrics")
    asked, repository = faulty.http_url.removeprefix("http://"), faulty.options.repository
    registry = prometheus_client.CollectorRegistry()
    gpu = {name: prometheus_client.Gauge(name, name, registry=registry) for name in OF_GPUS}
    gpu["nv_gpu_memory_total_bytes"].set(100)
    exporter, _ = prometheus_client.start_http_server(0, "127.0.0.1", registry)
    options = {"observers": [ClientMetrics(registry)], "retries": 0, "timeout": 120}
    with contextlib.ExitStack() as stack:
        stack.callback(exporter.server_close)
        stack.callback(exporter.shutdown)
        receiver = stack.enter_context(Receiver())
        threading.Thread(target=receiver.serve_forever).start()
        stack.callback(receiver.shutdown)
        alerts = stack.enter_context(alertmanager(tmp_path, receiver))
        prometheus = Prometheus(tmp_path, [server, gone], [asked], f"127.0.0.1:{exporter.server_port}", alerts)
        stack.enter_context(prometheus.run)
        client = stack.enter_context(Client(faulty.grpc_url, **options))
        digits, slow, failing, expiring = map(client.model, ("digits", "slow", "failing", "expiring"))
        stack.enter_context(calling(lambda: digits(np.zeros((4, 8, 8), np.float32))))
        wait_for_recorded(prometheus)
        down = ("TritonDown", gone)
        wait_for(prometheus.alerts, {down})

        with contextlib.ExitStack() as faults:
            calls = [partial(model, np.float32([[0.45]])) for model in (*[slow] * 5, *[expiring] * 2)]
            faults.enter_context(calling(*calls, lambda: failing(np.array([b"exception"], object))))
            hanging = faults.enter_context(Client(faulty.grpc_url, **options))
            faults.enter_context(calling(*[lambda: hanging.model("hanging")(np.float32([[-1]]))] * 4))
            faults.callback((repository / "hanging" / "held").unlink)
            faults.callback(hanging.close)
            gpu["nv_gpu_memory_used_bytes"].set(96)
            faults.callback(gpu["nv_gpu_memory_used_bytes"].set, 90)
            with pytest.raises(ClientError):
                client.load_model("broken")
            faults.callback(client.load_model, "broken")
            faults.callback(shutil.copytree, MODELS / "double", repository / "broken", dirs_exist_ok=True)
            of_servers = {("TritonQueueGrows", "slow"), ("TritonRejects", "expiring"), ("TritonErrors", "failing")}
            of_gpus = ("TritonGpuMemoryFull", f"127.0.0.1:{exporter.server_port}")
            of_clients = {
                ("ClientsWait", "slow"),
                *(("ClientsFail", model) for model in ("slow", "expiring", "failing")),
            }
            wanted = {down, ("TritonNotReady", asked), ("TritonWedged", "hanging"), of_gpus, *of_servers, *of_clients}
            assert {rule.get("alert") for rule in RULES} - {alert for alert, _ in wanted} == {None}
            fired = set()
            wait_for(lambda: fired.update(prometheus.alerts()) or fired >= wanted)
            assert [alert for alert, subject in fired if subject == "digits"] == []
            wait_for(lambda: receiver.told["firing"], {alert for alert, _ in wanted})
            look_from_outside(faulty, plansmith)
            assert len(SHOWN) > 15
            for expression in SHOWN:
                wait_for(lambda expression=expression: prometheus.query(expression))
        wait_for(prometheus.alerts, {down})
        wait_for(lambda: receiver.told["resolved"], {alert for alert, _ in wanted - {down}})
