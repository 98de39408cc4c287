"""Rules and dashboards: each alert on made-up faults by promtool, all in a real Prometheus over a real Triton."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request

import numpy as np
import pytest
import yaml
from containers import ROOT, install

from plansmith_client import Client
from plansmith_server.launcher.ports import find_free

WATCH = ROOT / "deploy" / "watch"
DASHBOARDS = sorted((WATCH / "grafana" / "dashboards").glob("*.json"))
RULES = [rule for group in yaml.safe_load((WATCH / "rules.yml").read_text())["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module", autouse=True)
def programs():
    if shutil.which("promtool") is None:
        install("prometheus")


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


class Prometheus:
    def __init__(self, folder, targets):
        self.url = f"http://127.0.0.1:{find_free('127.0.0.1', 1)[0]}"
        config = yaml.safe_load((WATCH / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        del config["alerting"]
        config["scrape_configs"][0]["static_configs"][0]["targets"] = targets
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        shutil.copy(WATCH / "rules.yml", folder)
        words = ["--config.file", folder / "prometheus.yml", "--storage.tsdb.path", folder / "data"]
        listen = f"--web.listen-address={self.url.removeprefix('http://')}"
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(["prometheus", *words, listen], stdout=log, stderr=log)

    def query(self, expression):
        """What an expression gives now: labels and value each."""
        address = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return [(row["metric"], float(row["value"][1])) for row in json.load(answer)["data"]["result"]]

    def wait_for(self, expression):
        """What an expression gives once it gives something."""
        for _ in range(240):
            try:
                if found := self.query(expression):
                    return found
            except OSError:
                pass  # It is still starting.
            time.sleep(0.25)
        raise AssertionError(f"{expression} gives nothing")


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


def test_the_rules_are_those_of_the_operator_as_the_documentation_makes_them():
    page = (ROOT / "docs" / "deploy.md").read_text()
    (command,) = re.findall(r"^\$ (.*kind: PrometheusRule.*) \| kubectl apply", page, re.MULTILINE)
    done = subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True, cwd=ROOT)
    rule = yaml.safe_load(done.stdout)
    assert rule["metadata"]["name"] == "triton"
    assert rule["spec"] == yaml.safe_load((WATCH / "rules.yml").read_text())


def test_a_real_prometheus_sees_a_real_triton_and_one_that_is_gone(committed_server, tmp_path):
    gone = f"127.0.0.1:{find_free('127.0.0.1', 1)[0]}"
    server = committed_server.metrics_url.removeprefix("http://").removesuffix("/metrics")
    prometheus = Prometheus(tmp_path, [server, gone])
    try:
        prometheus.wait_for("nv_inference_request_success")
        with Client(committed_server.grpc_url) as client:
            model = client.model("digits")
            while not any(value > 0 for _, value in prometheus.query("triton:requests:rate1m")):
                model(np.zeros((4, 8, 8), np.float32))
        for name in ("triton:request_seconds:mean1m", "triton:queue_seconds:mean1m", "triton:batch:mean1m"):
            labels, value = prometheus.wait_for(f"{name} > 0")[0]
            assert labels["model"] == "digits", name
            assert value > 0
        at_once = requests_at_once()
        assert len(at_once) == 2
        for expression in at_once:
            assert 0 < prometheus.wait_for(f"{expression} > 0")[0][1] < 2, expression
        down = prometheus.wait_for('ALERTS{alertname="TritonDown"}')
        assert [labels["instance"] for labels, _ in down] == [gone]
        assert {labels["alertname"] for labels, _ in prometheus.query("ALERTS")} == {"TritonDown"}
        shown = [target["expr"] for board in DASHBOARDS for panel in json.loads(board.read_text())["panels"]
                 for target in panel["targets"]]  # fmt: skip
        assert len(shown) > 15
        for expression in shown:
            answers = prometheus.query(expression)
            if expression.startswith(("triton:", "nv_inference", "nv_cpu")) and "failures" not in expression:
                assert answers, expression
    finally:
        prometheus.process.terminate()
        prometheus.process.wait(timeout=60)
