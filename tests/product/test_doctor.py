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


def by_name(done):
    return {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}


def failing(*prefix, **environment):
    """What `doctor` finds, started by some words and with such an environment; something has failed."""
    command = [*prefix, PLANSMITH, "doctor", "--json"]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 3, done.stdout + done.stderr
    return by_name(done)


def test_engines_are_tried_and_a_port_in_use_is_named_with_its_option(plansmith):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = by_name(plansmith("doctor", "--json", "--grpc-port", str(port)))
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


def test_an_engine_that_nothing_here_runs_is_a_failure_with_the_command_that_builds_it_again(plansmith, tmp_path):
    def plans(folder, expect):
        return by_name(plansmith("doctor", "--json", "--repository", folder, expect=expect))["plans"]

    model = tmp_path / "models" / "m"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").touch()
    (model / "1" / "model.engine").write_bytes(b"vtrt" + bytes(20) + bytes((1, 6, 0, 9)))
    for folder in (tmp_path, tmp_path / "models"):
        found = plans(folder, 3)
        assert found["detail"].startswith("1 of 1 do not run here: ")
        assert "was compiled by TensorRT for RTX 1.6.0.9" in found["detail"]
        assert "plansmith upgrade" in found["remedy"]
    (model / "2").mkdir()
    assert plans(tmp_path, 0)["status"] == "warning"
    os.mkfifo(model / "2" / "model.engine")
    assert "is not an engine" in plans(tmp_path, 3)["detail"]
    (model / "2" / "gone.engine").symlink_to("nowhere")
    assert "gone.engine cannot be read" in plans(tmp_path, 3)["detail"]


def test_what_triton_lacks_is_named_with_what_brings_it(tmp_path):
    (tmp_path / "python3").symlink_to(sys.executable)
    found = failing(PATH=str(tmp_path))
    assert found["Triton"]["status"] == "failed"
    assert found["Triton"]["remedy"] == "install bash"


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler: apt-get install gcc")
def test_libraries_that_are_there_and_do_not_work_are_failures(tmp_path):
    source = tmp_path / "cuda.c"
    source.write_text(BROKEN_CUDA)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", source], check=True)
    broken = {"tensorrt": "TensorRT", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    for package in broken:
        (tmp_path / f"{package}.py").write_text('raise ImportError("libof.so.1: cannot open shared object file")')
    found = failing(LD_LIBRARY_PATH=str(tmp_path), PYTHONPATH=str(tmp_path))
    assert found["CUDA"]["status"] == "failed"
    assert "999" in found["CUDA"]["detail"]
    for package, name in broken.items():
        assert found[name]["status"] == "failed"
        assert "libof.so.1" in found[name]["detail"]
        assert found[name]["remedy"] == f"pip install --force-reinstall {package}"


@pytest.mark.parametrize("shared_memory", ["size=8m", "ro"])
def test_a_machine_without_room_is_told_where_and_of_the_options(shared_memory):
    if any(Path(sys.prefix).is_relative_to(place) for place in ("/tmp", "/var/tmp", "/mnt")):
        pytest.skip("plansmith itself lies in a folder that is filled here")
    # In /mnt: temporary files go to /tmp and /var/tmp, and else to the current folder.
    full = "for place in /tmp /var/tmp /mnt; do mount -t tmpfs -o size=4k,nr_inodes=1 tmpfs $place || exit; done"
    little = f"mount -t tmpfs -o {shared_memory} tmpfs /dev/shm"
    prefix = ("unshare", "--mount", "sh", "-c", f'{little} && {full} && cd /mnt && exec "$@"', "sh")
    if subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    found = failing(*prefix, TMPDIR="/tmp")
    remedies = {"shared memory": "--shm-size", "disk /mnt": "plansmith prune", "temporary files": "TMPDIR"}
    for name, remedy in remedies.items():
        assert found[name]["status"] == "failed"
        assert remedy in found[name]["remedy"]
