"""The processes of a load: whatever a server says to them, they end and tell what happened."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest

from plansmith_client import Client
from plansmith_perf.errors import PerfError
from plansmith_perf.load.encoded_requests import RIGHT, WRONG_ANSWER, write_requests
from plansmith_perf.load.measuring import MeasuringOptions, Target, measure
from plansmith_perf.load.processes import Workers
from plansmith_perf.load.recording import (
    MOST_OUTCOMES,
    OTHER_ERROR,
    OTHER_WRONG_ANSWER,
    RequestLog,
    read_log,
    write_logs,
)
from plansmith_perf.load.requests import CheckedRequest
from plansmith_perf.load.worker import WorkerPlan
from plansmith_perf.results.documents import ClosedLoop

if TYPE_CHECKING:
    from pathlib import Path

FULL_PIPE = 65536
LATEST = 190


@contextmanager
def overloaded_proxy(asked: list[str], seconds: float = 0.0):
    """A server that refuses everything after a while, each time with another request id, as a proxy does; its URL."""
    numbers = itertools.count()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            asked.append(self.path)
            time.sleep(seconds)
            told = f"upstream unavailable, request {next(numbers):0150}".encode()
            self.send_response(503)
            self.send_header("content-length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def path(committed_server, tmp_path) -> str:
    """Where requests for the digits are sent; one is in `tmp_path`."""
    images = np.zeros((1, 8, 8), np.float32)
    with Client(committed_server.http_url) as client:
        model = client.model("digits")
        request = CheckedRequest({"images": images}, dict(model.infer({"images": images})))
        return write_requests(tmp_path, model, [request], over_http=True, binary=True)


def test_a_server_whose_every_error_has_another_text_is_measured_to_the_end(path, tmp_path):
    options = MeasuringOptions(seconds=2.0, warmup_seconds=0.0, workers=1, timeout=5.0, percentiles=[50.0])
    with overloaded_proxy([]) as url:
        measured, interruption = measure(
            Target(url, "digits", "", path, tmp_path, 1), ClosedLoop(concurrency=32), options
        )
    assert interruption == ""
    assert measured.errors == measured.requests
    assert measured.wrong_answers == 0
    # What the errors say would have filled a pipe.
    assert min(measured.errors, MOST_OUTCOMES) * LATEST > FULL_PIPE
    assert all(
        message.startswith(("HTTP 503: upstream unavailable", OTHER_ERROR)) for message in measured.error_messages
    )


@pytest.mark.parametrize("concurrency", [4, 0])
def test_a_load_that_is_stopped_waits_for_the_answers_to_what_it_has_sent(path, tmp_path, concurrency):
    due = tmp_path / "due.npy"
    np.save(due, np.arange(0, 60_000_000_000, 50_000_000))
    asked: list[str] = []
    with overloaded_proxy(asked, seconds=0.4) as url:
        plan = WorkerPlan(
            url=url,
            path=path,
            timeout=5.0,
            tolerance=0.0,
            seconds=60.0,
            concurrency=concurrency,
            due=str(due),
            requests=str(tmp_path),
            records=str(tmp_path / "records.npy"),
        )
        with Workers([plan], tmp_path) as workers:
            begin = workers.start()
            # The first one was sent before the load, for its connection.
            while len(asked) < 1 + 4:
                time.sleep(0.01)
            workers.stop()
            records, outcomes = workers.collect(begin)
    assert len(asked) >= 1 + 4
    assert records.due.size == len(asked) - 1
    assert all(outcome.startswith("HTTP 503") for outcome in outcomes)


def test_of_too_many_different_outcomes_the_others_are_counted_as_what_they_are(tmp_path):
    logs = [RequestLog(), RequestLog()]
    for number in range(2 * MOST_OUTCOMES):
        logs[0].add(0, 0, 1, f"HTTP 503: request {number}")
        logs[1].add(0, 0, 1, f"{WRONG_ANSWER}: output 'y' is off by {number}")
    for log in logs:
        log.add(0, 0, 1, RIGHT)
    records = str(tmp_path / "records.npy")
    write_logs(logs, records)
    table, names = read_log(records)
    counted = Counter(names[outcome] for outcome in table[:, 3].tolist())
    assert counted[RIGHT] == 2
    assert sum(count for name, count in counted.items() if name.startswith("HTTP 503") or name == OTHER_ERROR) == 2000
    assert sum(count for name, count in counted.items() if name.startswith(WRONG_ANSWER)) == 2000
    assert counted[OTHER_ERROR] > 1
    assert counted[OTHER_WRONG_ANSWER] > 1
    assert len(names) <= MOST_OUTCOMES + 2


def plan_of(module_name: str, folder: Path) -> WorkerPlan:
    class Plan(WorkerPlan):
        module: ClassVar[str] = module_name

    files = {"requests": str(folder), "records": str(folder / "records-0.npy")}
    return Plan(timeout=1.0, tolerance=0.0, seconds=0.0, concurrency=1, **files)


@pytest.mark.parametrize("complaints", [1, 10 * FULL_PIPE])
def test_a_process_that_fails_is_told_with_its_last_words_however_much_it_said(tmp_path, monkeypatch, complaints):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "chatty_worker.py").write_text(
        "import sys\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        f"sys.stderr.write('.' * {complaints})\n"
        "sys.exit('\\nthe disk is full')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    with Workers([plan_of("chatty_worker", tmp_path)], tmp_path) as workers:
        begin = workers.start()
        with pytest.raises(PerfError, match="the disk is full"):
            workers.collect(begin)
