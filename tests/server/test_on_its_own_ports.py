"""What answers on the ports is the server that was started, and what starts it is told to stop at any moment."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
from serving import FREE_PORTS, SLEEPER_CONFIG, add_python

from plansmith_server import PortInUse, ServerOptions, TritonServer
from plansmith_server.launcher import supervisor
from plansmith_server.launcher.ports import find_free

if TYPE_CHECKING:
    from plansmith_server.launcher.logs import LogRecord

WAITER = """
import pathlib, time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        while not pathlib.Path(args["model_repository"], "go").exists():
            time.sleep(0.05)

    def execute(self, requests):
        return []
"""


class Other(http.server.BaseHTTPRequestHandler):
    """Another inference server, with a model of its own."""

    def answer(self) -> None:
        body = b'[{"name": "not-mine", "state": "READY"}]' if "index" in self.path else b'{"version": "9.9"}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815 - the names that http.server calls

    def log_message(self, *_: object) -> None:
        pass


def test_another_server_that_takes_the_port_while_models_load_is_no_server_of_ours(repository):
    add_python(repository, "waiter", WAITER, SLEEPER_CONFIG)
    (port,) = find_free("127.0.0.1", 1)
    others: list[http.server.HTTPServer] = []

    def take_the_port(record: LogRecord) -> None:
        if record.message.startswith("loading: waiter") and not others:
            others.append(http.server.ThreadingHTTPServer(("127.0.0.1", port), Other))
            threading.Thread(target=others[0].serve_forever, daemon=True).start()
            (repository / "waiter" / "go").touch()

    server = TritonServer(
        ServerOptions(repository=repository, http_port=port, grpc_port=0, metrics_port=0), on_log=take_the_port
    )
    try:
        with pytest.raises(PortInUse, match=f"another process took a port while Triton started .*{port}"):
            server.start()
    finally:
        for other in others:
            other.shutdown()
            other.server_close()
    assert not server.is_running


@pytest.mark.parametrize(("word", "status"), [(b"s", -15), (b"k", -9)])
def test_a_supervisor_is_stopped_by_a_word_that_comes_with_its_order(word, status, tmp_path):
    order = {
        "command": ["sleep", "600"],
        "log": str(tmp_path / "log"),
        "directory": str(tmp_path),
        "lock": 2,
        "grace": 500,
    }
    with subprocess.Popen(
        [sys.executable, "-I", "-S", supervisor.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdin.write(json.dumps(order).encode() + b"\n" + word)
        process.stdin.flush()
        assert process.wait(timeout=120) == 0
        news = [json.loads(line) for line in process.stdout]
    assert news[-1] == {"status": status}


def test_the_package_is_imported_where_there_is_no_c_library(tmp_path):
    program = (
        "import ctypes\n"
        "def refuse(name, *_):\n"
        "    raise TypeError(name)\n"
        "ctypes.CDLL = refuse\n"
        "from plansmith_server import ServerOptions, TritonServer\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_backend_process_imports_nothing_that_starts_servers(backend):
    program = (
        f"import sys, plansmith_server.backends.{backend}.engine, plansmith_server.backends.model\n"
        "print([name for name in sys.modules if name.startswith('plansmith_server.') and '.backends' not in name])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['plansmith_server.errors']"


def test_endpoints_that_are_switched_off_or_restricted_by_the_user_leave_the_start_as_it_is(served):
    off = ("--allow-metrics=false", "--allow-grpc", "false")
    restricted = ("--http-restricted-api", "health,metadata,shared-memory,logging,trace:key=sesame")
    options = ServerOptions(repository=served, triton_arguments=(*off, *restricted), **FREE_PORTS)
    with TritonServer(options) as server:
        assert (server.grpc_url, server.metrics_url) == ("", "")
        assert (server.version, server.admin_headers) == ("2.51.0", {"key": "sesame"})
        assert server.models()[0].is_ready
