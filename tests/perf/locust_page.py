"""Locust's web page as its scripts ask it: forms to begin a test, and statistics until they are as wanted."""

from __future__ import annotations

import json
import time
import urllib.request
from urllib.parse import urlencode

import pytest


def rows_of_digits(statistics):
    rows = [row for row in statistics["stats"] if row["name"] == "digits"]
    return [(row["method"], row["num_requests"], row["num_failures"]) for row in rows]


def get(url, form=None):
    data = urlencode(form).encode() if form is not None else None
    deadline = time.monotonic() + 3000
    while True:
        try:
            with urllib.request.urlopen(url, data=data, timeout=300) as reply:
                return reply.read().decode()
        except OSError:
            # The page is not there at once.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def begin(page, form):
    """Start a test, once the one before has ended."""
    answer = {"message": "is still ending"}
    while "is still ending" in answer["message"]:
        answer = json.loads(get(f"{page}/swarm", form))
    assert answer["success"], answer


def has_ended(statistics):
    """Whether there was a test, and the worker is ready for another."""
    workers = [worker["state"] for worker in statistics["workers"]]
    return statistics["state"] == "stopped" and workers == ["ready"] and rows_of_digits(statistics)


def wait_until(page, reached):
    """The statistics as soon as they are as asked."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        statistics = json.loads(get(f"{page}/stats/requests"))
        if reached(statistics):
            return statistics
        time.sleep(0.1)
    pytest.fail(f"it stayed at {statistics}")
