"""What `plansmith verify` finds, in the formats of pull requests, and as a hook before a commit."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from build_models import put
from conftest import ROOT

RIGHT = (
    'backend: "onnxruntime" max_batch_size: 8 input { name: "x" data_type: TYPE_FP32 dims: 4 } '
    'output { name: "y" data_type: TYPE_FP32 dims: 4 }'
)


@pytest.fixture
def mistaken(tmp_path):
    """A repository with an error and a warning."""
    repository = tmp_path / "model_repository"
    put(repository, "wrong", RIGHT.replace("dims: 4", "dims: 5"))
    put(repository, "odd", f'{RIGHT} parameters {{ key: "intra_op_threads" value {{ string_value: "2" }} }}')
    return repository


def test_sarif_for_a_pull_request_names_rule_level_file_and_way_out(plansmith, mistaken):
    said = plansmith("verify", "--format", "sarif", expect=3, cwd=mistaken.parent).stdout
    document = json.loads(said)
    # What the schema of SARIF 2.1.0 requires, and what GitHub's code scanning does.
    assert document["version"] == "2.1.0"
    assert document["$schema"]
    [run] = document["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"]
    assert all(rule["id"] and rule["shortDescription"]["text"] for rule in driver["rules"])
    for result in run["results"]:
        assert result["ruleId"] in {rule["id"] for rule in driver["rules"]}
        assert result["level"] in {"none", "note", "warning", "error"}
        assert result["message"]["text"]
        for location in result["locations"]:
            place = location["physicalLocation"]
            assert re.fullmatch(r"[!-~]+", place["artifactLocation"]["uri"])
            assert place["region"]["startLine"] >= 1
    places = {
        (result["level"], result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"], result["ruleId"])
        for result in run["results"]
    }
    assert ("error", "model_repository/wrong/config.pbtxt", "tensors") in places
    assert ("warning", "model_repository/odd/config.pbtxt", "parameters") in places


def test_annotations_for_github_are_one_command_a_line_whatever_a_name_holds(plansmith, mistaken):
    put(mistaken, "a%\n::error::b", "max_batch: 3")
    lines = plansmith("verify", "--format", "github", expect=3, cwd=mistaken.parent).stdout.splitlines()
    assert all(
        re.match(r"::(error|warning) file=model_repository/[^,:]+,line=1,title=[^:,]+::.", line) for line in lines
    )
    assert any("file=model_repository/wrong/config.pbtxt" in line and "write dims: [4]" in line for line in lines)
    assert any("a%25\\n%3A%3Aerror" in line for line in lines)


def test_the_hook_stops_a_commit_of_a_wrong_configuration(mistaken):
    def run(*words, cwd=mistaken.parent):
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    (hooks := mistaken.parent / "hooks").mkdir()
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", hooks)
    for folder in (hooks, mistaken.parent):
        run("git", "init", "-q", cwd=folder)
        run("git", "config", "user.email", "a@example.com", cwd=folder)
        run("git", "config", "user.name", "a", cwd=folder)
    run("git", "add", ".", cwd=hooks)
    run("git", "commit", "-qm", "hooks", cwd=hooks)
    run("git", "add", "model_repository")
    done = run("pre-commit", "try-repo", str(hooks), "plansmith-verify", "--all-files")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "wrong/config.pbtxt: error" in done.stdout
    shutil.rmtree(mistaken / "wrong")
    run("git", "add", "-A", "model_repository")
    assert run("pre-commit", "try-repo", str(hooks), "plansmith-verify", "--all-files").returncode == 0
