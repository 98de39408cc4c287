"""What a release consists of, and what others run in their CI."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
LOCK = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))


def test_the_bill_of_materials_lists_what_is_locked_with_its_hashes(tmp_path):
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if "cyclonedx-py" in line]
    words = line.strip().lstrip("@").split()
    command = [BIN / "cyclonedx-py", *words[1:-1], tmp_path / "sbom.cdx.json"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    listed = json.loads((tmp_path / "sbom.cdx.json").read_text())
    assert listed["bomFormat"] == "CycloneDX"
    components = {component["name"]: component for component in listed["components"]}
    assert {name: component["version"] for name, component in components.items()} == LOCK
    assert all(reference["hashes"] for reference in components["numpy"]["externalReferences"] if "hashes" in reference)


@pytest.mark.parametrize("first", ["", "plansmith", "plansmith_build", "plansmith_perf", "plansmith_server"])
def test_nothing_of_onnx_runtimes_telemetry_begins_where_a_part_of_plansmith_is_imported(first, tmp_path):
    # It is silent in CI, and begins as it is imported: with a number for the machine and a store of what to send.
    places = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": os.defpath}
    program = f"import {first or 'os'}; import onnxruntime"
    subprocess.run([sys.executable, "-c", program], check=True, env=places, cwd=tmp_path)
    assert (list(tmp_path.rglob("deviceid")) == []) == bool(first)


@pytest.mark.parametrize(
    ("schema", "path"),
    [("vendor.github-actions", "action.yml"), ("vendor.github-workflows", ".github/workflows/release.yml")],
)
def test_files_for_github_are_valid(schema, path):
    command = [BIN / "check-jsonschema", "--builtin-schema", schema, ROOT / path]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("name", ["verify", "build"])
def test_the_components_for_gitlab_are_valid_and_take_this_version(name, tmp_path):
    head, job = yaml.safe_load_all((ROOT / "templates" / f"{name}.yml").read_text())
    assert head["spec"]["inputs"]["version"]["default"] == f"=={version('plansmith')}"
    (tmp_path / "job.yml").write_text(yaml.safe_dump(job))
    schema = ("--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci")
    subprocess.run([BIN / "check-jsonschema", *schema, tmp_path / "job.yml"], check=True, capture_output=True)


def scripts() -> dict[str, str]:
    """What verifies, in the words of the action and of the component."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    _, job = yaml.safe_load_all((ROOT / "templates" / "verify.yml").read_text())
    (step,) = [step for step in action["runs"]["steps"] if step["name"] == "Verify"]
    return {"github": step["run"], "gitlab": job["plansmith-verify"]["script"][-1]}


@pytest.mark.parametrize("place", ["github", "gitlab"])
def test_a_damaged_repository_fails_the_job_and_leaves_the_report(place, tmp_path):
    shutil.copytree(ROOT / "model_repository", tmp_path / "models")
    report = tmp_path / "plansmith.sarif"
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "REPOSITORY": "models",
        "SARIF": report.name,
    }
    for damaged in (False, True):
        if damaged:
            (tmp_path / "models" / "digits" / "config.pbtxt").write_text("max_batch_sise: 1")
        done = subprocess.run(["bash", "-e", "-c", scripts()[place]], check=False, cwd=tmp_path, env=environment)
        assert done.returncode == (3 if damaged else 0)
        assert bool(json.loads(report.read_text())["runs"][0]["results"]) == damaged


def test_the_chart_has_the_version_of_the_distributions_and_of_the_container():
    chart = yaml.safe_load((ROOT / "deploy/chart/Chart.yaml").read_text())
    assert chart["version"] == version("plansmith")
    assert f"TRITON_RELEASE:-{chart['appVersion']}}}" in (ROOT / "docker-compose.yml").read_text()


def test_the_version_of_the_distributions_has_its_section_in_the_changelog():
    projects = [tomllib.loads(path.read_text()) for path in ROOT.glob("*/pyproject.toml")]
    (version,) = {project["project"]["version"] for project in projects}
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", version]


def test_the_support_matrix_says_what_the_tests_run_with():
    page = (ROOT / "docs" / "support.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", page, re.MULTILINE))
    assert f"nvidia-pytriton {LOCK['nvidia-pytriton']}" in rows["Triton from PyPI"]
    for name, package in (
        ("tritonclient", "tritonclient"),
        ("ONNX", "onnx"),
        ("ONNX Runtime", "onnxruntime"),
        ("OpenVINO", "openvino"),
        ("numpy", "numpy"),
        ("TensorRT for RTX", "tensorrt-rtx-cu12-libs"),
    ):
        assert LOCK[package] in rows[name], name
