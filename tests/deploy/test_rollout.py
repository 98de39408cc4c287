"""A new version and a new server take the place of old ones under load, as docs/deploy.md says; no call fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx.parser
from callers import calling
from containers import ROOT
from serving import wait_for

from plansmith_client import Client

TIMES = """
<ir_version: 10, opset_import: ["" : 21]>
times (float[N, 2] x) => (float[N, 2] y) <float factor = {{{factor}}}> {{ y = Mul (x, factor) }}
"""
CALLERS = 4
PROBE = (sys.executable, "-I", "-S", ROOT / "deploy/infer_probe.py")


def test_no_call_fails_while_a_version_is_rolled_out_and_back(plansmith, repository, tmp_path, start):
    np.savez(tmp_path / "samples.npz", x=np.float32([[1, 2], [3, 4], [5, 6]]))

    def publish(factor, *words):
        onnx.save(onnx.parser.parse_model(TIMES.format(factor=factor)), tmp_path / "times.onnx")
        samples = ("--samples", tmp_path / "samples.npz", "--warmup", "2")
        plansmith("build", tmp_path / "times.onnx", "--repository", repository, *samples, *words)

    publish(2)
    log = tmp_path / "triton.log"
    serving = start(repository, "--model", "times", "--log-file", log, "--", "--log-verbose=1")
    url = serving.facts["grpc_url"]
    with Client(url, timeout=30) as client, calling(CALLERS, client, "times", [[[2, 4]], [[3, 6]]]) as callers:

        def roll_out(version, answer):
            said = json.loads(plansmith("load", "times", "--url", url, "--json").stdout)
            assert said["versions"] == [str(version)]
            plansmith("health", "times", "--infer", "--url", url)
            # The containers' probe finds the models though their index takes a key, which it does not have. A server
            # that still unloads the former version is not ready.
            probe = [*PROBE, "--url", serving.facts["http_url"]]
            wait_for(lambda: subprocess.run(probe, check=False).returncode == 0)
            wait_for(lambda: all(caller.last == answer for caller in callers))

        wait_for(lambda: all(caller.last == [[2, 4]] for caller in callers))
        known = tmp_path / "before.npz"
        plansmith("infer", "times", "--random", "--output", known, "--url", url)
        publish(3, "--no-serve")
        assert {str(caller.last) for caller in callers} == {"[[2.0, 4.0]]"}
        roll_out(2, [[3, 6]])
        said = plansmith("health", "times", "--expect", known, "--url", url, expect=3).stdout
        assert "differs by 0.5 of its greatest value" in said
        plansmith("rollback", "times", "1", "--repository", repository)
        roll_out(3, [[2, 4]])
        plansmith("health", "times", "--expect", known, "--url", url)
    assert [failure for caller in callers for failure in caller.failures] == []
    assert sum(caller.calls for caller in callers) > 100
    # Each of the three versions ran its two samples before it was ready.
    assert log.read_text().count("is running warmup sample") == 6


def test_a_server_is_tried_beside_the_old_one_by_known_answers_and_takes_over(plansmith, repository, tmp_path, start):
    onnx.save(onnx.parser.parse_model(TIMES.format(factor=2)), tmp_path / "times.onnx")
    plansmith("build", tmp_path / "times.onnx", "--repository", repository, "--no-serve")
    old = start(repository)
    known = tmp_path / "before.npz"
    plansmith("infer", "times", "--random", "--output", known, "--url", old.facts["grpc_url"])
    new = start(shutil.copytree(repository, tmp_path / "next"))
    plansmith("health", "times", "--expect", known, "--url", new.facts["grpc_url"])
    urls = [old.facts["grpc_url"], new.facts["grpc_url"]]
    with Client(urls, timeout=30) as client, calling(CALLERS, client, "times", [[[2, 4]]]) as callers:
        with Client(urls[1]) as canary:
            wait_for(lambda: canary.model("times").statistics()[0].success.count > CALLERS)
        assert old.stop()[0] == 0
        before = sum(caller.calls for caller in callers)
        wait_for(lambda: sum(caller.calls for caller in callers) > before + CALLERS)
    assert [failure for caller in callers for failure in caller.failures] == []
