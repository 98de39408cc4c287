"""`plansmith doctor`: what works here is tried, what does not is named with the way out, and the exit code tells."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PLANSMITH = Path(sys.executable).with_name("plansmith")
# A driver's library that is there and does not work.
BROKEN_CUDA = "int cuInit(unsigned flags) { return 999; }"


def findings(*prefix, expect, words=(), **environment):
    done = subprocess.run(
        [*prefix, PLANSMITH, "doctor", "--json", *words],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_engines_are_tried_and_a_port_in_use_is_named_with_its_option():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = findings(expect=0, words=("--grpc-port", str(port)))
    assert found["Triton"]["status"] == "ok"
    assert found["ONNX Runtime CPU"] | {"detail": ""} == {
        "name": "ONNX Runtime CPU", "status": "ok", "detail": "", "remedy": "",
    }  # fmt: skip
    assert found["OpenVINO"]["status"] == "ok"
    assert found[f"port {port}"]["status"] == "warning"
    assert "--grpc-port" in found[f"port {port}"]["remedy"]


def test_a_line_for_each_thing(plansmith):
    lines = plansmith("doctor").stdout.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "absent", "warning"}
    assert any("OpenVINO" in line for line in lines)


def test_an_engine_that_nothing_here_runs_is_a_failure_with_the_command_that_builds_it_again(tmp_path):
    model = tmp_path / "models" / "m"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").touch()
    (model / "1" / "model.engine").write_bytes(b"vtrt" + bytes(20) + bytes((1, 6, 0, 9)))
    for folder in (tmp_path, tmp_path / "models"):
        found = findings(expect=3, words=("--repository", folder))["plans"]
        assert found["detail"].startswith("1 of 1 do not run here: ")
        assert "was compiled by TensorRT for RTX 1.6.0.9" in found["detail"]
        assert "plansmith upgrade" in found["remedy"]
    (model / "2").mkdir()
    assert findings(expect=0, words=("--repository", tmp_path))["plans"]["status"] == "warning"
    os.mkfifo(model / "2" / "model.engine")
    assert "is not an engine" in findings(expect=3, words=("--repository", tmp_path))["plans"]["detail"]
    (model / "2" / "gone.engine").symlink_to("nowhere")
    assert "gone.engine cannot be read" in findings(expect=3, words=("--repository", tmp_path))["plans"]["detail"]


def test_what_triton_lacks_is_named_with_what_brings_it(tmp_path):
    (tmp_path / "python3").symlink_to(sys.executable)
    found = findings(expect=3, PATH=str(tmp_path))
    assert found["Triton"]["status"] == "failed"
    assert found["Triton"]["remedy"] == "install bash"


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler: apt-get install gcc")
def test_a_driver_that_is_there_and_does_not_work_is_a_failure(tmp_path):
    source = tmp_path / "cuda.c"
    source.write_text(BROKEN_CUDA)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", source], check=True)
    found = findings(expect=3, LD_LIBRARY_PATH=str(tmp_path))
    assert found["CUDA"]["status"] == "failed"
    assert "999" in found["CUDA"]["detail"]


def test_a_container_with_little_shared_memory_is_told_of_the_option():
    little = "mount -t tmpfs -o size=8m tmpfs /dev/shm"
    prefix = ("unshare", "--mount", "sh", "-c", f'{little} && exec "$@"', "sh")
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    found = findings(*prefix, expect=3)
    assert found["shared memory"]["status"] == "failed"
    assert "--shm-size" in found["shared memory"]["remedy"]
