"""The client on interpreters, versions of numpy and systems that this environment is not, against a real server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from interpreters import interpreter, uv_program

CLIENT = Path(__file__).parents[2] / "client"
PROGRAM = Path(__file__).with_name("core_calls.py")
# Beside the environment of the tests, so that each is made once; git ignores them.
ENVIRONMENTS = Path(sys.prefix) / "pythons"


def call(python, server, *taken: str) -> str:
    done = subprocess.run(
        [python, "-W", "error", PROGRAM, *taken, server.grpc_url, server.http_url],
        check=False,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("taken", [["poll"], ["proc"], ["poll", "proc", "win32"], ["darwin"]], ids=" ".join)
def test_what_a_system_lacks_is_done_without(server, taken):
    assert (taken[-1] if taken[-1] in ("win32", "darwin") else "linux") in call(sys.executable, server, *taken)


def environment(python: str, version: str, numpy: str) -> Path:
    """The Python of an environment with the client from its source, and what it depends on."""
    project = (CLIENT / "pyproject.toml").read_text()
    folder = ENVIRONMENTS / version
    made, there = folder / "pyproject.toml", folder / "bin" / "python"
    if made.exists() and made.read_text() == project:
        return there
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([uv_program(), "venv", "--quiet", "--python", python, folder], check=True)
    words = ["--quiet", "--only-binary", "grpcio", "--only-binary", "numpy", "--python", there]
    done = subprocess.run(
        [uv_program(), "pip", "install", *words, "--editable", f"{CLIENT}[bfloat16]", numpy],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"the client cannot be installed for Python {version}: {done.stderr[-300:]}")
    made.write_text(project)
    return there


@pytest.mark.parametrize(
    ("version", "numpy"), [("3.10", "numpy<2"), ("3.12", "numpy>=2"), ("3.13", "numpy>=2"), ("3.14", "numpy>=2")]
)
def test_other_versions_of_python_and_numpy_call_alike(server, version, numpy):
    python = interpreter(version)
    if python is None or uv_program() is None:
        pytest.skip(f"Python {version} and uv are not both installed: uv python install {version}")
    said = call(environment(python, version, numpy), server)
    assert said.startswith(f"({version.replace('.', ', ')}) {'1.26' if '<' in numpy else '2.'}")
