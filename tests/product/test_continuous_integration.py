"""The GitHub Action, the GitLab component and the workflow of `plansmith init`, as a runner runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from plansmith_server.launcher.ports import find_free

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "plansmith" / "src" / "plansmith" / "demo" / "digits"
TOKEN = "ghs_notforanybody"
# In place of GitHub's own program: keeps what it was given, and lists one comment if there is a file.
GH = """#!/usr/bin/env bash
printf '%s ' "$@" >> gh_words
echo >> gh_words
[ "$GH_TOKEN" = "ghs_notforanybody" ] || exit 4
case "$*" in *--paginate*) [ ! -e commented ] || echo 42 ;; esac
"""


class Runner:
    """Runs scripts in a folder with what a runner gives them, and ends what they left running."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.folder = folder
        for name in ("digits.onnx", "held_out.npz"):
            (folder / name).symlink_to(DIGITS / name)
        (folder / "plansmith.toml").write_text(
            'repository = "model_repository"\n[build]\nmodel = "digits.onnx"\ndata = "held_out.npz"\nno-serve = true\n'
            'target = ["onnxruntime"]\nprecision = ["fp32"]\n[bench]\nconcurrency = "1"\nseconds = "0.5"\nrounds = 3\n'
            f"[serve]\nhttp-port = {ports[0]}\ngrpc-port = {ports[1]}\nmetrics-port = {ports[2]}\n"
        )
        (folder / "bin").mkdir()
        (folder / "bin" / "gh").write_text(GH)
        (folder / "bin" / "gh").chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PLANSMITH_URL": f"localhost:{ports[1]}",
            "GITHUB_REPOSITORY": "somebody/models",
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
            "GITHUB_OUTPUT": str(folder / "output"),
        }

    def __call__(self, script: str, expect: int = 0, **variables: str) -> None:
        assert TOKEN not in script
        process = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script],
            cwd=self.folder,
            env={**self.environment, **variables},
            start_new_session=True,
        )
        try:
            assert process.wait(timeout=240) == expect, script
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def baseline(self, result: str, times: float) -> None:
        """A baseline that is the last measurement, with so many times its throughput."""
        document = json.loads((self.folder / result).read_text())
        for measurement in document["measurements"]:
            measurement["throughput"] *= times
        (self.folder / "baseline.json").write_text(json.dumps(document))


@pytest.fixture
def runner(tmp_path):
    return Runner(tmp_path, find_free("127.0.0.1", 3))


def test_the_action_builds_comments_verifies_and_gates(runner, tmp_path):
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    known = {f"inputs.{name}": given["default"] for name, given in action["inputs"].items()}
    known |= {"inputs.model": "threes", "inputs.token": TOKEN, "github.event.pull_request.number": "7"}
    steps = {step["name"]: step for step in action["runs"]["steps"]}

    def run(name, expect=0):
        step = steps[name]
        fill = {key: re.sub(r"\$\{\{ (.*?) \}\}", lambda m: known[m[1]], text) for key, text in step["env"].items()}
        # What is given goes in by variables: a script with it inside could be made to run it.
        assert "${{" not in step["run"]
        runner(step["run"], expect, **fill)

    for name in ("Build", "Comment the accuracy on the pull request", "Verify", "Measure"):
        run(name)
    summary = (tmp_path / "summary.md").read_text()
    assert summary.startswith("### plansmith built threes\n")
    assert "| onnxruntime | fp32 | 98.71% |" in summary
    assert "Built on" not in summary
    assert (tmp_path / "plansmith-accuracy.md").read_text() == summary
    outputs = (tmp_path / "output").read_text().splitlines()
    assert outputs == ["accuracy=plansmith-accuracy.md", "bench=plansmith-bench.json"]
    assert json.loads((tmp_path / "plansmith.sarif").read_text())["runs"][0]["results"] == []
    (tmp_path / "commented").touch()
    run("Comment the accuracy on the pull request")
    _, posted, _, replaced = (tmp_path / "gh_words").read_text().splitlines()
    assert "repos/somebody/models/issues/7/comments -F body=@plansmith-accuracy.md" in posted
    assert "-X PATCH repos/somebody/models/issues/comments/42 -F body=@plansmith-accuracy.md" in replaced
    assert TOKEN not in (tmp_path / "gh_words").read_text()
    workflow = yaml.safe_load((ROOT / "plansmith/src/plansmith/init/files/plansmith.yml").read_text())
    (tmp_path / "bench.json").symlink_to("plansmith-bench.json")
    for times, code in ((1, 0), (1000, 3)):
        runner.baseline("plansmith-bench.json", times)
        run("Compare with the baseline", code)
    runner(workflow["jobs"]["model"]["steps"][-2]["run"], 3)
    assert "1 in flight" in (tmp_path / "summary.md").read_text()


def test_the_component_for_gitlab_builds_and_gates(runner, tmp_path):
    _, job = yaml.safe_load_all((ROOT / "templates" / "build.yml").read_text())
    script = job["plansmith-build"]["script"]
    assert script[0].startswith("python -m pip install")
    given = {"REPOSITORY": "model_repository", "MODEL": "threes", "BASELINE": "baseline.json", "SLOWER": "5%"}
    # All lines are one shell's; without a baseline there is nothing to compare with.
    runner("\n".join(script[1:]), **given)
    assert "98.71%" in (tmp_path / "plansmith-card.md").read_text()
    assert {"plansmith-card.md", "plansmith-bench.json"} == {*job["plansmith-build"]["artifacts"]["paths"]}
    runner.baseline("plansmith-bench.json", 1000)
    runner(script[-1], 3, **given)
