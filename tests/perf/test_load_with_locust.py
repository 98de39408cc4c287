"""`plansmith locust` loads any model of a running server, checks the answers and can gate a pipeline."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import psutil
import pytest
from browsing import chromium
from hdrh.histogram import HdrHistogram
from locust_page import begin, get, has_ended, rows_of_digits, wait_until
from selenium.webdriver.support.ui import WebDriverWait

from plansmith_client import Client
from plansmith_perf.load.server_side import read_counters
from plansmith_perf.locust.options import LoadOptions
from plansmith_perf.results.documents import read_result
from plansmith_server import ServerOptions, TritonServer
from plansmith_server.launcher.ports import find_free

MODELS = Path(__file__).parents[1] / "models_python"
SHORT = ("--headless", "--users", "4", "--spawn-rate", "100", "--run-time", "1s")


def command(*words):
    return list(map(str, [Path(sys.executable).with_name("plansmith"), "locust", *words]))


@contextlib.contextmanager
def started(*words, cwd):
    """A locust process, killed with what it has started at the latest when the block ends."""
    process = subprocess.Popen(
        command(*words),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env=environment(),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def environment(**more):
    return {**os.environ, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1", **more}


@pytest.fixture(scope="module")
def slow_server(tmp_path_factory):
    """A model that sleeps as long as it is asked to, and refuses what would wait behind two others."""
    repository = tmp_path_factory.mktemp("served")
    shutil.copytree(MODELS / "slow", repository / "slow")
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, config_name="none")
    with TritonServer(options) as server:
        yield server


FORGETFUL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    asked = 0

    def execute(self, requests):
        responses = []
        for request in requests:
            self.asked += 1
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", x if self.asked < 20 else x + 1)]))
        return responses
"""


@pytest.fixture
def forgetful_server(tmp_path):
    """A model that echoes its first requests, and later ones plus one."""
    (tmp_path / "served" / "forgetful" / "1").mkdir(parents=True)
    (tmp_path / "served" / "forgetful" / "1" / "model.py").write_text(FORGETFUL)
    (tmp_path / "served" / "forgetful" / "config.pbtxt").write_text(
        'backend: "python" max_batch_size: 4 input { name: "x" data_type: TYPE_INT64 dims: [ 2 ] }'
        'output { name: "y" data_type: TYPE_INT64 dims: [ 2 ] }'
    )
    options = ServerOptions(
        repository=tmp_path / "served", http_port=0, grpc_port=0, metrics_port=0, config_name="none"
    )
    with TritonServer(options) as server:
        yield server


@pytest.fixture
def addresses(committed_server):
    return ("--grpc-url", committed_server.grpc_url, "--http-url", committed_server.http_url)


@pytest.fixture
def locust(addresses, tmp_path):
    """Runs the locustfile headless with 4 users for a second, writes `result.json`, and checks the exit code."""

    def run(*words, expect=0, url=addresses, model=(), **variables):
        done = subprocess.run(
            command(*model, *SHORT, *url, *words),
            check=False,
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
            env=environment(**variables),
        )
        said = f"{done.stdout}\n{done.stderr}"
        assert done.returncode == expect, said
        assert "Traceback" not in said, said
        assert "Unhandled" not in said, said
        return done.stderr

    return run


@pytest.fixture
def samples(committed_server, tmp_path):
    """Inputs in a file with the right answers to them, as options."""
    images = np.random.default_rng(1).uniform(0, 16, (24, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", images=images)
    with Client(committed_server.grpc_url) as client:
        np.savez(tmp_path / "golden.npz", **client.model("digits")(images))
    return ("--samples", "samples.npz", "--golden", "golden.npz")


def test_help_lists_every_option_in_any_folder(plansmith, tmp_path):
    listing = plansmith("locust", "--help", cwd=tmp_path).stdout
    for option in fields(LoadOptions):
        if option.name not in ("users", "spawn_rate", "run_time"):
            assert f"--{option.name.replace('_', '-')} " in listing
    assert "--headless" in listing


def test_users_of_a_file_of_ones_own_come_beside_ours(plansmith, tmp_path):
    (tmp_path / "own.py").write_text("from locust import User\n\nclass OwnUser(User):\n    pass\n")
    listed = plansmith("locust", "-f", "own.py", "--list", cwd=tmp_path).stdout
    assert {"GrpcUser", "HttpUser", "OwnUser"} <= set(listed.split())


def test_both_protocols_are_loaded_in_closed_loop_and_every_answer_is_right(locust, tmp_path):
    said = locust("--batch-size", "4", "--think-time", "0.01", "--csv", "run", model=("digits",))
    rows = {
        row["Type"]: row for row in csv.DictReader((tmp_path / "run_stats.csv").read_text().splitlines()) if row["Type"]
    }
    assert rows.keys() == {"gRPC", "HTTP"}
    for row in rows.values():
        assert row["Name"] == "digits"
        assert int(row["Failure Count"]) == 0
        # Two users that think for 10 ms each time.
        assert 0 < int(row["Request Count"]) <= 2 * 100
    # In milliseconds, with microseconds behind the point.
    assert re.search(r"latency( +\d+\.\d{3}){6}\n", said), said


def test_an_open_loop_keeps_its_schedule_and_its_result_is_that_of_bench(locust, samples, tmp_path):
    said = locust(
        *("--protocol", "http", "--arrival-rate", "60", "--arrivals", "constant", "--batch-size", "4", *samples),
        *("--warmup", "0.5", "--run-time", "2s", "--slo", "p50=1us", "--result", "result.json"),
        expect=3,
    )
    assert re.search(r"the SLO p50=1us is missed: p50 is \d+\.\d{3} ms", said), said
    result = read_result(tmp_path / "result.json")
    assert (result.tool, result.protocol, result.model, result.batch_size) == ("locust", "http", "digits", 4)
    assert (result.inputs, result.expected_answers) == ("samples.npz", "golden.npz")
    assert result.complete
    assert not result.slo.met
    (measured,) = result.measurements
    assert (measured.load.rate, measured.load.arrivals) == (60, "constant")
    # Every request of the schedule was sent, those of the last moment too.
    assert (measured.warmup_requests, measured.requests, measured.errors) == (30, 90, 0)
    assert measured.seconds == pytest.approx(1.5)
    assert measured.latency.mean == pytest.approx(measured.service.mean + measured.dispatch_lag.mean)
    assert measured.latency.count == 90
    answers = sum(second.answers for second in measured.timeline)
    assert answers / measured.seconds == pytest.approx(measured.throughput)
    histogram = HdrHistogram.decode(measured.latency.histogram)
    assert histogram.get_total_count() == 90
    assert histogram.get_value_at_percentile(50) == measured.latency.percentiles["50"]
    assert 0 < measured.server_side.compute_infer < measured.service.mean
    assert measured.server_usage.memory > 0
    assert measured.client_usage.processes == 1


def test_an_slo_that_too_few_answers_were_seen_to_keep_fails_the_run(locust):
    said = locust("GrpcUser", "--think-time", "0.1", "--slo", "p99.9=60s", expect=1)
    assert "the SLO p99.9=60s cannot be judged: p99.9 takes 10,000 answers" in said


def test_a_ramp_brings_users_little_by_little(locust, tmp_path):
    words = ("--load-shape", "ramp", "--shape-base", "0.3", "--think-time", "0.1", "--run-time", "2s")
    locust(*words, "--csv", "run", "--csv-full-history")
    history = csv.DictReader((tmp_path / "run_stats_history.csv").read_text().splitlines())
    counts = [int(row["User Count"]) for row in history]
    started = [count for count in counts if count]
    assert min(started) < max(started)
    assert max(started) in (2, 3, 4)


def test_a_recorded_log_is_replayed_at_its_own_instants(locust, tmp_path):
    instants = [0, 0.1, 0.2, 0.3, 1.1, 1.1, 1.2, 1.4, 1.7]
    (tmp_path / "log.csv").write_text("when,path\n" + "".join(f"{1772359200 + at},/infer\n" for at in instants))
    locust(
        *("--protocol", "grpc", "--load-shape", "replay", "--arrival-log", "log.csv", "--arrival-column", "when"),
        *("--run-time", "10s", "--result", "result.json"),
    )
    (measured,) = read_result(tmp_path / "result.json").measurements
    assert (measured.requests, measured.errors) == (9, 0)
    assert measured.timeline[0].answers == 4
    assert measured.seconds == pytest.approx(1.7, abs=0.02)
    assert "recorded in log.csv" in measured.notes[0]
    assert measured.load.arrivals == "recorded"


def test_a_load_that_the_model_rejects_is_counted_and_fails_the_run(locust, slow_server, tmp_path):
    np.savez(tmp_path / "naps.npz", seconds=np.full((4, 1), 0.1, np.float32))
    said = locust(
        *("--protocol", "grpc", "--samples", "naps.npz", "--arrival-rate", "60", "--users", "40"),
        *("--result", "result.json", "--slo", "p99=5s"),
        url=("--grpc-url", slow_server.grpc_url),
        expect=1,
    )
    (measured,) = read_result(tmp_path / "result.json").measurements
    assert 0.3 < measured.error_rate < 1
    assert any("maximum queue size" in message for message in measured.error_messages)
    assert "the SLO p99=5s is missed" in said


def test_wrong_answers_are_counted_apart_from_other_errors(locust, forgetful_server, tmp_path):
    words = ("--protocol", "grpc", "--arrival-rate", "50", "--arrivals", "constant", "--result", "result.json")
    said = locust(*words, "--distinct-inputs", "8", url=("--grpc-url", forgetful_server.grpc_url), expect=1)
    (measured,) = read_result(tmp_path / "result.json").measurements
    assert measured.requests == 50
    assert 0 < measured.wrong_answers == measured.errors < 50
    assert "x WRONG ANSWER: output 'y' has other values" in said


def test_too_few_users_for_the_rate_is_said_and_the_wait_is_counted(locust, slow_server, tmp_path):
    np.savez(tmp_path / "naps.npz", seconds=np.full((4, 1), 0.1, np.float32))
    said = locust(
        *("--protocol", "grpc", "--samples", "naps.npz", "--arrival-rate", "40", "--users", "1"),
        *("--arrivals", "constant", "--result", "result.json", "--timeout", "1", "--slo", "p50=300ms"),
        url=("--grpc-url", slow_server.grpc_url),
        expect=3,
    )
    (measured,) = read_result(tmp_path / "result.json").measurements
    assert measured.requests == 40
    # One user waits 0.1 s or more for each answer, in microseconds; the rest of the schedule waits for the user.
    assert measured.dispatch_lag.maximum > 300_000
    assert measured.latency.maximum > measured.dispatch_lag.maximum
    assert measured.error_messages["never sent: all users were busy until the end"] >= 5
    assert "give it more with --users" in said


def test_a_model_that_is_not_there_ends_the_run_with_one_sentence(locust):
    said = locust("GrpcUser", "--model", "nosuch", expect=2)
    assert said.count("Error:") == 1
    assert "nosuch" in said


def test_a_server_whose_answers_are_not_golden_is_not_loaded(locust, samples, tmp_path):
    with np.load(tmp_path / "golden.npz") as right:
        np.savez(tmp_path / "golden.npz", **{name: array[::-1] for name, array in right.items()})
    said = locust("--protocol", "grpc", *samples, expect=3)
    assert "is off by" in said or "other values" in said


def test_a_server_that_is_not_there_ends_the_run_with_one_sentence(locust):
    # The users of the other protocol have no server here, and are left out.
    said = locust("--model", "digits", url=(), PLANSMITH_URL="http://127.0.0.1:1", expect=1)
    assert said.count("Error:") == 1
    # Not above Locust's tables.
    assert said.splitlines()[-1].startswith("Error: No answer from http://127.0.0.1:1")
    for words in (("--protocol", "grpc"), ("--protocol=both",), ("GrpcUser",)):
        said = locust(*words, "--model", "digits", url=(), PLANSMITH_URL="http://127.0.0.1:1", expect=2)
        assert said == "Error: PLANSMITH_URL names a server of http alone: set --grpc-url as well\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("HttpUser", "--protocol", "grpc"), "leaves none of the users that were named: HttpUser"),
        (("--slo", "p99=1s", "--result", "result.json"), "give --protocol grpc or --protocol http"),
    ],
)
def test_options_that_make_no_sense_end_the_command_before_it_begins(locust, words, sentence):
    said = locust(*words, expect=2)
    assert said.count("Error:") == 1
    assert sentence in said


@pytest.mark.parametrize("load", [("--arrival-rate", "50"), ()])
def test_ctrl_c_keeps_what_was_measured_and_marks_it(addresses, committed_server, tmp_path, load):
    # In closed loop users are always busy, and Python would raise KeyboardInterrupt in one of them.
    words = ("--protocol", "grpc", *load, "--result", "result.json", "--run-time", "60s", "--slo", "p99=5s")
    with started(*SHORT, *addresses, *words, cwd=tmp_path) as process:
        said = wait_for(process, "All users spawned")
        answered = read_counters(committed_server.grpc_url, "digits", "").requests
        while read_counters(committed_server.grpc_url, "digits", "").requests < answered + 50:
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        said += process.communicate(timeout=300)[0]
    assert process.returncode == 1, said
    assert "Traceback" not in said
    result = read_result(tmp_path / "result.json")
    assert not result.complete
    assert result.interruption == "it was stopped before its time was over"
    assert result.measurements[0].requests > 0
    assert "the result is partial" in said
    assert "the SLO p99=5s cannot be judged" in said


def test_a_master_and_two_workers_share_one_schedule_and_one_histogram(addresses, tmp_path):
    port = find_free("127.0.0.1", 1)[0]
    link = ("--master-port", port, "--master-host", "127.0.0.1")
    words = ("--protocol", "grpc", "--arrival-rate", "150", "--arrivals", "constant", "--slo", "p50=5s")
    spike = ("--load-shape", "spike", "--shape-base", "0.1", "--shape-spike", "0.33333", "--run-time", "3s")
    with (
        started(
            *("--master", "--expect-workers", "2", "--master-bind-port", port),
            *(*SHORT, *addresses, *words, *spike, "--result", "result.json"),
            cwd=tmp_path,
        ) as master,
        started("--worker", *link, cwd=tmp_path) as first,
        started("--worker", *link, cwd=tmp_path) as second,
    ):
        said = master.communicate(timeout=300)[0]
        for worker in (first, second):
            worker.wait(timeout=300)
    assert master.returncode == 0, said
    assert (first.returncode, second.returncode) == (0, 0)
    result = read_result(tmp_path / "result.json")
    assert result.workers == 2
    (measured,) = result.measurements
    # Nothing twice, nothing left out, and the last answers of both workers are in.
    assert (measured.requests, measured.errors, measured.latency.count) == (180, 0, 180)
    assert [second.answers for second in measured.timeline] == pytest.approx([15, 150, 15], abs=8)
    assert "the load was a spike" in measured.notes[0]
    assert result.slo.met
    assert measured.client_usage.processes == 2
    assert "the SLO p50=5s is kept" in said


def test_a_worker_that_cannot_prepare_ends_the_run_everywhere(addresses, tmp_path):
    (tmp_path / "master").mkdir()
    (tmp_path / "worker").mkdir()
    (tmp_path / "master" / "arrivals.log").write_text("0\n1\n")
    port = find_free("127.0.0.1", 1)[0]
    words = ("--protocol", "grpc", "--load-shape", "replay", "--arrival-log", "arrivals.log")
    with (
        started(
            *("--master", "--expect-workers", "1", "--master-bind-port", port),
            *(*SHORT, *addresses, *words),
            cwd=tmp_path / "master",
        ) as master,
        started("--worker", "--master-port", port, cwd=tmp_path / "worker") as worker,
    ):
        said = master.communicate(timeout=300)[0]
        worker.wait(timeout=300)
    assert master.returncode == 2, said
    assert "Error: worker 0: the arrival log arrivals.log cannot be read" in said


def test_the_web_page_has_the_options_and_runs_one_test_after_the_other(addresses, tmp_path):
    port, link = find_free("127.0.0.1", 2)
    page = f"http://127.0.0.1:{port}"
    words = ("--processes", "1", "--master-bind-port", link, "--master-port", link)
    with started(*words, "--web-port", port, *addresses, cwd=tmp_path) as process:
        wait_for(process, "Starting web interface")
        wait_until(page, lambda now: now["worker_count"] == 1)
        listening = {address for one in family(process) for address in listens_at(one)}
        assert listening == {("127.0.0.1", int(port)), ("127.0.0.1", int(link))}
        assert "arrival_rate" in get(page)
        assert "load_shape" in get(page)
        form = {"user_count": 2, "spawn_rate": 10, "protocol": "http", "run_time": "1s"}
        refused = json.loads(get(f"{page}/swarm", form | {"load_shape": "ramp", "slo": "p99"}))
        assert not refused["success"]
        assert "the SLO must look like p99=50ms" in refused["message"]
        begin(page, form | {"arrival_rate": 40, "arrivals": "constant", "slo": "p50=1us"})
        first = wait_until(page, has_ended)
        begin(page, form | {"protocol": "grpc", "arrival_rate": 20, "arrivals": "constant"})
        second = wait_until(page, lambda now: has_ended(now) and rows_of_digits(now)[0][0] == "gRPC")
        seen = latency_tab(page)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=300)[0]
    for statistics in (first, second):
        (table,) = statistics["extended_stats"]
        assert [row["column0"] for row in table["data"]] == ["latency", "service", "sent late by"]
        # p50, p90, p95, p99, p99.9 and the maximum, in milliseconds with microseconds behind the point.
        shown = [float(table["data"][0][f"column{number}"]) for number in range(1, 7)]
        assert 0 < shown[0] <= shown[-1]
        assert shown == sorted(shown)
    # The last one's, as a browser shows it.
    assert seen == ["p50 p90 p95 p99 p99.9 max", *(" ".join(row.values()) for row in table["data"])]
    assert rows_of_digits(first) == [("HTTP", 40, 0)]
    assert rows_of_digits(second) == [("gRPC", 20, 0)]
    # Locust keeps a field that is not in the form, and the last test is summed up though the signal follows at once.
    assert said.count("the SLO p50=1us is missed") == 2
    assert process.returncode == 3, said


def latency_tab(page):
    """The lines of the tab with the percentiles, in a browser."""
    with chromium() as browser:
        browser.get(page)
        tab = "//*[@role='tab'][contains(., 'Latency')]"
        WebDriverWait(browser, 60).until(lambda browser: browser.find_elements("xpath", tab))[0].click()
        found = WebDriverWait(browser, 60).until(
            lambda browser: [table for table in browser.find_elements("css selector", "table") if "p99.9" in table.text]
        )
        return found[0].text.splitlines()


def test_the_form_of_the_page_shows_no_field_that_says_nothing_to_our_users(page):
    page, _ = page
    with chromium() as browser:
        browser.get(page)
        WebDriverWait(browser, 60).until(lambda browser: browser.find_elements("name", "userCount"))
        for button in browser.find_elements("css selector", ".MuiAccordionSummary-root"):
            # Whatever moves in front of it while others open.
            browser.execute_script("arguments[0].click()", button)
        WebDriverWait(browser, 60).until(lambda browser: browser.find_element("name", "slo").is_displayed())
        fields = {
            field.get_attribute("name"): field.is_displayed()
            for field in browser.find_elements("css selector", "input[name]")
        }
    assert fields["userCount"]
    assert fields["arrivalRate"]
    assert not fields["host"]
    assert not fields["profile"]


@pytest.fixture(scope="module")
def page(committed_server, tmp_path_factory):
    """The address of a Locust page on which nobody has begun a test, and the folder in which it runs."""
    folder, port = tmp_path_factory.mktemp("page"), find_free("127.0.0.1", 1)[0]
    urls = ("--grpc-url", committed_server.grpc_url, "--http-url", committed_server.http_url)
    with started("--web-port", port, "--page-host", "load.example", *urls, cwd=folder) as process:
        wait_for(process, "Starting web interface")
        get(f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}", folder


START = {"user_count": 1, "spawn_rate": 1, "run_time": "1s", "protocol": "grpc"}
ELSEWHERE = "https://elsewhere.example"


def ask(url, form=None, **headers):
    """The status and the text of one answer."""
    data = urlencode(form).encode() if form is not None else None
    request = urllib.request.Request(url, data, {name.replace("_", "-"): text for name, text in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def state_of(page):
    return json.loads(get(f"{page}/stats/requests"))["state"]


@pytest.mark.parametrize("field", ["result", "html_file", "json_file", "samples", "golden", "arrival_log", "nosuch"])
def test_no_form_of_the_web_page_names_a_file_to_write_or_to_read(page, field):
    page, folder = page
    mine = folder / "mine.txt"
    mine.write_text("mine")
    status, said = ask(f"{page}/swarm", START | {field: str(mine)})
    assert status == 200
    assert not json.loads(said)["success"]
    assert f"'{field}' cannot be set on this page" in json.loads(said)["message"]
    assert state_of(page) == "ready"
    assert mine.read_text() == "mine"
    assert f'"{field}"' not in get(page)


@pytest.mark.parametrize("path", ["/swarm", "/stop", "/stats/reset", "/user"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": ELSEWHERE},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Host": "elsewhere.example"},
        {"Host": "elsewhere.example", "Origin": "http://elsewhere.example"},
    ],
)
def test_another_sites_page_can_neither_start_nor_steer_a_test(page, path, headers):
    page, _ = page
    status, said = ask(page + path, START, **headers)
    assert status == 403, said
    assert "refused" in said or "--page-host" in said
    assert state_of(page) == "ready"


def test_another_sites_page_can_not_read_what_a_test_shows(page):
    page, _ = page
    assert ask(f"{page}/stats/requests", Origin=ELSEWHERE)[0] == 403
    assert ask(f"{page}/logs", Host="elsewhere.example")[0] == 403


def test_the_page_itself_and_the_named_proxy_are_served(page):
    page, _ = page
    own = page.removeprefix("http://")
    port = own.rpartition(":")[2]
    nothing = START | {"slo": "p99"}
    for headers in (
        {},
        {"Origin": page, "Sec_Fetch_Site": "same-origin"},
        {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"},
        {"Host": "load.example", "Origin": "https://load.example"},
        {"Origin": "https://load.example"},
    ):
        status, said = ask(f"{page}/swarm", nothing, **headers)
        assert status == 200, said
        assert "must look like" in json.loads(said)["message"]
    # A link to the page, on any site.
    assert ask(page, Sec_Fetch_Site="cross-site")[0] == 200


def family(process):
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def listens_at(process):
    return [tuple(found.laddr) for found in process.net_connections("inet") if found.status == psutil.CONN_LISTEN]


def wait_for(process, words):
    """What the process said until it said that."""
    said = ""
    for line in process.stdout:
        said += line
        if words in line:
            return said
    pytest.fail(said)
