"""A server from its start to its end: what `plansmith serve` says, how it stops, and that nothing is left behind."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpc_client
from serving import (
    COMPLETING_CRASHER,
    CRASHER,
    FREE_PORT_WORDS,
    FREE_PORTS,
    SLEEPER,
    SLEEPER_CONFIG,
    Traces,
    add_double,
    add_python,
    double,
    wait_for,
)

from plansmith_server import ServerOptions, StartFailed, TritonServer
from plansmith_server.launcher import process as starting
from plansmith_server.launcher.gpu import gpu_is_usable
from plansmith_server.launcher.logs import Level

if TYPE_CHECKING:
    from plansmith_server.launcher.logs import LogRecord


def test_a_server_serves_this_machine_alone_as_long_as_its_with_block(served):
    records = []
    server = TritonServer(ServerOptions(repository=served, **FREE_PORTS), on_log=records.append)
    with pytest.raises(StartFailed, match="was not started"):
        _ = server.grpc_url
    with server:
        traces = Traces(server.pid)
        assert server.is_running
        listening = [
            connection.laddr.ip.removeprefix("::ffff:")  # an IPv4 address on an IPv6 socket
            for connection in psutil.Process(server.pid).net_connections()
            if connection.status == psutil.CONN_LISTEN
        ]
        assert listening == ["127.0.0.1"] * 3
        # Nor does another user of it read what a server makes.
        made = (*traces.regions, traces.folder, server.log_path)
        wait_for(lambda: not any(path.stat().st_mode & 0o077 for path in made))
        with pytest.raises(StartFailed, match="was started before"):
            server.start()
        assert [(model.name, model.state, model.config) for model in server.models()] == [
            ("double", "READY", "config.pbtxt")
        ]
        assert server.log_path.exists()
        np.testing.assert_array_equal(double(server.grpc_url), [[2, 4]])
    assert not server.is_running
    assert server.returncode == 0
    traces.wait_until_gone()
    server.stop()  # once more does no harm
    messages = {record.message: record.level for record in records}
    assert messages["successfully loaded 'double'"] == Level.INFO
    assert not [record for record in records if record.level == Level.ERROR]


def test_the_banner_names_models_and_addresses(served, plansmith):
    (served / "broken" / "1").mkdir(parents=True)
    (served / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    (served / "double" / "configs").mkdir()
    (served / "double" / "config.pbtxt").rename(served / "double" / "configs" / "cpu.pbtxt")
    command = [Path(sys.executable).with_name("plansmith"), "serve", "-r", served, *FREE_PORT_WORDS]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, "COLUMNS": "200"}
    ) as process:
        try:
            lines = []
            for line in process.stdout:
                lines.append(line.rstrip())
                if line.startswith("ready in"):
                    break
        finally:
            process.terminate()
    assert process.wait(timeout=60) == 0
    said = "\n".join(lines)
    assert re.search(r"^plansmith \S+ · Triton 2\.51\.0 · ", said, re.MULTILINE), said
    assert re.search(r"^double +1 +ready +configs/cpu\.pbtxt$", said, re.MULTILINE), said
    assert re.search(r"^broken +1 +unavailable +from the model file$", said, re.MULTILINE), said
    assert "broken: model.onnx is not an ONNX model, or only a part of one" in said
    assert re.search(
        r"^gRPC 127\.0\.0\.1:\d+ · HTTP http://127\.0\.0\.1:\d+ · metrics http://\S+/metrics$", said, re.MULTILINE
    )
    assert re.search(r"^ready in \d+\.\d s", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("number", "command"),
    [(signal.SIGINT, ()), (signal.SIGTERM, (sys.executable, "-m", "plansmith_server"))],
    ids=["command", "module"],
)
def test_a_signal_stops_the_server_and_its_processes_and_nothing_else_is_said(number, command, served, start):
    serving = start(served, command=command)
    np.testing.assert_array_equal(double(serving.facts["grpc_url"]), [[2, 4]])
    code, said = serving.stop(number)
    assert (code, said) == (0, "stopped\n")
    serving.traces.wait_until_gone()


def test_a_second_signal_kills_what_does_not_end(repository, start):
    add_python(repository, "sleeper", SLEEPER, SLEEPER_CONFIG)
    serving = start(repository, "--stop-timeout", "600")
    with grpc_client.InferenceServerClient(serving.facts["grpc_url"]) as client:
        tensor = grpc_client.InferInput("x", [1], "FP32")
        tensor.set_data_from_numpy(np.zeros(1, np.float32))
        client.async_infer("sleeper", [tensor], lambda **_: None)
        until_pending(serving.facts["metrics_url"], "sleeper")
        serving.process.send_signal(signal.SIGINT)
        log = Path(serving.facts["log"])
        wait_for(lambda: "in-flight" in log.read_text())
        assert serving.stop(signal.SIGINT)[0] == 0
    serving.traces.wait_until_gone()


def until_pending(url: str, model: str) -> None:
    import urllib.request  # noqa: PLC0415

    def began() -> bool:
        with urllib.request.urlopen(url, timeout=10) as response:
            return f'nv_inference_pending_request_count{{model="{model}",version="1"}} 0' in response.read().decode()

    wait_for(began)


def test_what_a_killed_server_leaves_is_removed_by_the_next_start_and_nothing_else(
    served, start, tmp_path, monkeypatch
):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    alive, killed = start(served), start(served)
    # Stopped first: none of them has the time to clean up behind another.
    processes = [psutil.Process(killed.process.pid), *killed.traces.processes]
    for process in processes:
        process.suspend()
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=30)
    assert killed.traces.folder.is_dir()
    assert all(region.exists() for region in killed.traces.regions)

    mark = next(killed.traces.folder.glob(".*")).name
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / mark).touch()
    others = [temporary / f"plansmith-serve-{letter * 8}" for letter in "abcd"]
    for place in others[:3]:
        place.mkdir()
    (others[0] / "without_a_mark").touch()
    for place in others[1:3]:
        (place / mark).touch()
    others[3].symlink_to(precious)
    locked = os.open(others[1], os.O_RDONLY)
    fcntl.flock(locked, fcntl.LOCK_EX)
    if os.geteuid() == 0:
        os.chown(others[2], 1, 1)
    else:
        others.remove(others[2])
    regions = [
        Path("/dev/shm") / f"{place.name}-{os.getpid()}"
        for place in (*others, killed.traces.folder.with_name(f"{killed.traces.folder.name}x"))
    ]
    for region in regions:
        region.touch()
    # A link that another user has put under one of our names is no way to a file of ours.
    link = Path("/dev/shm") / f"{alive.traces.folder.name}-link"
    link.symlink_to(precious / mark)
    try:
        assert start(served).stop()[0] == 0
        killed.traces.wait_until_gone()
        assert all(os.path.lexists(path) for path in (*others, *regions, precious / mark))
    finally:
        os.close(locked)
        for region in regions:
            region.unlink()
    np.testing.assert_array_equal(double(alive.facts["grpc_url"]), [[2, 4]])
    assert (precious / mark).stat().st_mode & 0o044
    # Of the command alone, nothing is left at once.
    alive.process.kill()
    alive.traces.wait_until_gone()
    assert not os.path.lexists(link)
    assert (precious / mark).exists()


@pytest.mark.parametrize(("number", "hinted"), [(signal.SIGKILL, False), (signal.SIGSEGV, True)])
def test_a_server_that_dies_is_reported_and_cleaned_up(served, start, number, hinted):
    serving = start(served)
    os.kill(serving.facts["pid"], number)
    code, said = serving.end()
    assert code == 1
    assert f"Triton ended by itself with signal {number.name}" in said
    assert ("Possible causes: a gRPC client cancelled a request" in said) == hinted
    serving.traces.wait_until_gone()


def test_the_server_ends_even_when_its_supervisor_is_killed(served):
    server = TritonServer(ServerOptions(repository=served, **FREE_PORTS)).start()
    traces = Traces(server.pid)
    supervisor = psutil.Process(server.pid).parent()
    assert supervisor is not None
    supervisor.kill()
    _, alive = psutil.wait_procs([process for process in traces.processes if process is not None], timeout=30)
    assert not alive
    server.stop()
    traces.wait_until_gone()


def test_a_backend_that_dies_while_it_loads_is_named(repository):
    # Triton waits for the answer of a process that dies while it completes a configuration, and would do so for ever.
    add_python(repository, "crasher", COMPLETING_CRASHER)
    server = TritonServer(ServerOptions(repository=repository, **FREE_PORTS))
    with pytest.raises(StartFailed, match="process of crasher died with signal SIGABRT while it was loaded"):
        server.start()
    assert not server.is_running


def test_models_that_cannot_be_loaded_are_shown_with_what_to_do_and_the_others_serve(served):
    add_python(served, "crasher", CRASHER)
    # Each of these two would keep Triton from serving any.
    add_python(served, "completer", COMPLETING_CRASHER)
    (served / "folder" / "config.pbtxt").mkdir(parents=True)
    without_gpu = () if gpu_is_usable() else ("any_gpu", "first_gpu")
    for name, which in zip(without_gpu, ("count: 1", "gpus: [ 0 ]"), strict=False):
        add_double(served, name, f'backend: "onnxruntime" instance_group {{ kind: KIND_GPU {which} }}')
    with TritonServer(ServerOptions(repository=served, **FREE_PORTS)) as server:
        states = {model.name: (model.is_ready, model.reason) for model in server.models()}
    for name in without_gpu:
        assert not states[name][0]
        assert "use KIND_AUTO, or give it a configs/cpu.pbtxt" in states[name][1]
    assert states["double"] == (True, "")
    assert states["crasher"][0] is False
    assert "not healthy" in states["crasher"][1]
    assert "process of completer died with signal SIGABRT while it was loaded" in states["completer"][1]
    assert "is a folder, and Triton reads it as a configuration" in states["folder"][1]


def test_a_start_that_takes_too_long_is_given_up(repository, monkeypatch):
    add_python(repository, "slow", CRASHER.replace("os.abort()", "__import__('time').sleep(600)"))
    loading = threading.Event()

    def clock() -> float:
        # The time is over once the model is being loaded, however long that takes here.
        return time.monotonic() + 1000 * loading.is_set()

    def told(record: LogRecord) -> None:
        if record.message.startswith("loading: slow"):
            loading.set()

    monkeypatch.setattr(starting, "time", SimpleNamespace(monotonic=clock, sleep=time.sleep))
    options = ServerOptions(repository=repository, start_timeout=600, stop_timeout=1, **FREE_PORTS)
    server = TritonServer(options, on_log=told)
    with pytest.raises(StartFailed, match="Triton was not ready after 600 s, still loading slow"):
        server.start()
    assert not server.is_running


def test_a_path_with_spaces_and_symbols_is_served(tmp_path):
    repository = tmp_path / "my models; $(touch here) & 'more'"
    repository.mkdir()
    add_double(repository, "double")
    with TritonServer(ServerOptions(repository=repository, **FREE_PORTS)) as server:
        np.testing.assert_array_equal(double(server.grpc_url), [[2, 4]])
    assert not Path("here").exists()


def test_a_model_that_appears_is_served_and_told_of_in_poll_control(served, start):
    serving = start(served, "--poll", "1")
    with grpc_client.InferenceServerClient(serving.facts["grpc_url"]) as client:
        add_double(served.parent, "staged")
        (served.parent / "staged").rename(served / "second")
        wait_for(lambda: client.is_model_ready("second"))
        np.testing.assert_array_equal(double(serving.facts["grpc_url"], "second"), [[2, 4]])
    _, said = serving.stop()
    assert re.search(r"^\d\d:\d\d:\d\d info    successfully loaded 'second'$", said, re.MULTILINE), said
    assert "'double'" not in said


def test_a_public_host_is_warned_about_and_the_log_and_further_arguments_reach_triton(served, start, tmp_path):
    log = tmp_path / "triton.log"
    words = ("--host", "0.0.0.0", "--log-file", str(log), "--log-level", "info", "--", "--id=my-server")
    serving = start(served, *words)
    assert serving.facts["grpc_url"].startswith("127.0.0.1:")
    with grpc_client.InferenceServerClient(serving.facts["grpc_url"]) as client:
        assert client.get_server_metadata().name == "my-server"
    code, said = serving.stop()
    assert code == 0
    assert "Warning: other machines can reach this server on 0.0.0.0, without any protection" in said
    assert re.search(r"^\d\d:\d\d:\d\d info    successfully loaded 'double'$", said, re.MULTILINE), said
    assert re.search(
        r"^\d\d:\d\d:\d\d info    model 'double': ONNX Runtime \S+, CPUExecutionProvider", said, re.MULTILINE
    )
    assert "+---" not in said
    assert "successfully loaded 'double'" in log.read_text()


def test_an_unknown_argument_for_triton_is_explained(served):
    options = ServerOptions(repository=served, triton_arguments=("--no-such-option",), **FREE_PORTS)
    with pytest.raises(StartFailed, match="Triton ended with status 1 while it started"):
        TritonServer(options).start()


def test_a_server_is_started_from_any_thread(served):
    found = []

    def serve() -> None:
        server = TritonServer(ServerOptions(repository=served, **FREE_PORTS))
        server.start()
        found.append(server)

    thread = threading.Thread(target=serve)
    thread.start()
    thread.join()
    # The thread that started it has ended, and the server must not.
    np.testing.assert_array_equal(double(found[0].grpc_url), [[2, 4]])
    found[0].stop()
