"""`plansmith_server.pytest_plugin` in a project of a user: its tests run against a real Triton over its repository."""

from __future__ import annotations

import subprocess
import sys

from serving import add_double

TESTS = """
import urllib.request

def test_the_model_is_served(triton_server):
    with urllib.request.urlopen(f"{triton_server.http_url}/v2/models/double/ready") as answer:
        assert answer.status == 200

def test_the_server_is_the_same_for_the_next_test(triton_server):
    assert [model.name for model in triton_server.models()] == ["double"]
"""


def test_a_users_tests_are_given_a_server_over_their_repository(tmp_path):
    repository = tmp_path / "model_repository"
    repository.mkdir()
    add_double(repository, "double", 'backend: "onnxruntime"')
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["plansmith_server.pytest_plugin"]\n')
    (tmp_path / "test_mine.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
