"""What a server keeps to itself: nothing of the current folder is run, and no web page or other user reaches more."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from serving import FREE_PORTS, add_python, double

from plansmith_client import AccessDenied, Client, SharedMemoryPolicy
from plansmith_server import InvalidOptions, ServerOptions, TritonServer
from plansmith_server.launcher.triton_arguments import resolve_paths

NEIGHBOUR = """
import triton_python_backend_utils as pb_utils
import beside

class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", beside.answer(r))]) for r in requests]
"""
NEIGHBOUR_CONFIG = """
backend: "python"
input { name: "x" data_type: TYPE_FP32 dims: 2 }
output { name: "y" data_type: TYPE_FP32 dims: 2 }
instance_group { kind: KIND_CPU count: 1 }
"""
BESIDE = """
import triton_python_backend_utils as pb_utils

def answer(request):
    return pb_utils.get_input_tensor_by_name(request, "x").as_numpy() * 3
"""
TRACE = "with open(__file__ + '.ran', 'w') as trace:\n    trace.write('run')\n"
RESTRICTED = (
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/systemsharedmemory/region/evil/register"),
    ("POST", "/v2/systemsharedmemory/unregister"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/trace/setting"),
    ("POST", "/v2/models/double/trace/setting"),
)
ROWS = np.ones((4, 2), np.float32)
RESTRICTED_IN_EXPLICIT_CONTROL = (
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/double/load"),
    ("POST", "/v2/repository/models/double/unload"),
)


def ask(server: TritonServer, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    address = server.http_url.removeprefix("http://")
    # As a page sends it: without leave of the server, a browser adds neither another type nor a header.
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request(method, path, body="{}", headers={"Content-Type": "text/plain", **(headers or {})})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_nothing_of_the_current_folder_is_run(served, start, tmp_path, monkeypatch):
    add_python(served, "neighbour", NEIGHBOUR, NEIGHBOUR_CONFIG)
    (served / "neighbour" / "1" / "beside.py").write_text(BESIDE)
    for name in (*sys.stdlib_module_names, "model", "numpy", "onnxruntime", "plansmith_server", "plansmith_perf"):
        (tmp_path / f"{name}.py").write_text(TRACE)
    monkeypatch.chdir(tmp_path)
    serving = start(
        served.relative_to(tmp_path), "--", "--trace-config=triton,file=trace.json", "--trace-config=rate=1"
    )
    assert {model["name"]: model["state"] for model in serving.facts["models"]} == {
        "double": "READY",
        "neighbour": "READY",
    }
    np.testing.assert_array_equal(double(serving.facts["grpc_url"]), [[2, 4]])
    with Client(serving.facts["grpc_url"]) as client:
        np.testing.assert_array_equal(client.model("neighbour")(np.array([1, 2], np.float32)).array, [3, 6])
    load = ("--concurrency", "1", "--seconds", "0.5", "--warmup", "0", "--rounds", "1")
    # Not the fixture `plansmith`, whose processes have imported most of it elsewhere.
    command = (Path(sys.executable).with_name("plansmith"), "bench", "double", "--url", serving.facts["grpc_url"])
    subprocess.run([*command, *load], check=True, capture_output=True)
    assert serving.stop()[0] == 0
    assert sorted(tmp_path.glob("*.ran")) == []


@pytest.mark.parametrize(
    ("words", "resolved"),
    [
        (("--trace-config=triton,file=a/trace.json",), ("--trace-config=triton,file={here}/a/trace.json",)),
        (("--trace-config", "triton,file=t"), ("--trace-config", "triton,file={here}/t")),
        (("--grpc-server-cert=cert.pem", "--id=cert.pem"), ("--grpc-server-cert={here}/cert.pem", "--id=cert.pem")),
        (("--model-repository", "second"), ("--model-repository", "{here}/second")),
        (("--log-file=/var/log/t", "--log-verbose", "1"), ("--log-file=/var/log/t", "--log-verbose", "1")),
        (
            ("--trace-config=rate=1", "--cache-config=local,size=9"),
            ("--trace-config=rate=1", "--cache-config=local,size=9"),
        ),
    ],
)
def test_relative_paths_for_triton_are_those_of_the_current_folder(words, resolved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_paths(words) == [word.format(here=tmp_path) for word in resolved]


@pytest.mark.parametrize("control", ["none", "explicit"])
def test_administration_over_http_wants_the_secret_of_the_run(served, control):
    models = ("double",) if control == "explicit" else ()
    with TritonServer(ServerOptions(repository=served, control=control, models=models, **FREE_PORTS)) as server:
        restricted = RESTRICTED + (RESTRICTED_IN_EXPLICIT_CONTROL if control == "explicit" else ())
        for method, path in restricted:
            status, said = ask(server, method, path)
            assert (status, "restricted" in said) == (403, True), (path, said)
            assert ask(server, method, path, {"plansmith-secret": "a guess"})[0] == 403
        for path in ("/v2", "/v2/health/ready", "/v2/models/double", "/v2/models/double/config"):
            assert ask(server, "GET", path)[0] == 200
        for method, path in restricted:
            no_other_spelling_leads_past(server, method, path)
        for method, path in restricted:
            said = ask(server, method, path, dict(server.admin_headers))[1]
            assert "restricted" not in said, (path, said)
        if control == "explicit":
            # They are loaded with the headers.
            with Client(server.http_url, headers=server.admin_headers) as client:
                client.load_model("double")
            with Client(server.http_url) as client, pytest.raises(AccessDenied, match="restricted"):
                client.load_model("double")
        # Large requests are answered whether or not shared memory is restricted.
        for url in (server.http_url, server.grpc_url):
            with Client(url, shared_memory=SharedMemoryPolicy(threshold=1)) as client:
                client.model("double").wait_until_ready()
                for _ in range(2):
                    np.testing.assert_array_equal(client.model("double")(ROWS).array, ROWS * 2)


def no_other_spelling_leads_past(server: TritonServer, method: str, path: str) -> None:
    tail = path.removeprefix("/v2/")
    spellings = (
        f"/v2//{tail}",
        f"//v2/{tail}",
        f"{path}/",
        f"{path}?",
        f"/v2/./{tail}",
        f"/v2/%{ord(tail[0]):x}{tail[1:]}",
    )
    for spelling in (*spellings, path.upper(), f"http://x{path}"):
        assert ask(server, method, spelling)[0] != 200, spelling
    for other in ("GET", "POST", "PUT", "HEAD", "PATCH"):
        assert ask(server, other, path)[0] != 200, (other, path)


def test_administration_can_be_opened(served):
    options = ServerOptions(repository=served, control="explicit", models=("double",), open_admin=True, **FREE_PORTS)
    with TritonServer(options) as server:
        assert not server.admin_headers
        assert ask(server, "GET", "/v2/logging")[0] == 200
        assert ask(server, "POST", "/v2/repository/models/double/load")[0] == 200


def test_a_header_that_the_user_chose_keeps_its_value_whatever_its_name(served):
    mine = ("--http-restricted-api=model-repository,model-config:Plansmith-Secret=sesame",)
    with TritonServer(ServerOptions(repository=served, triton_arguments=mine, **FREE_PORTS)) as server:
        assert server.admin_headers == {"plansmith-secret": "sesame"}
        assert [model.name for model in server.models()] == ["double"]
        for method, path in (("POST", "/v2/repository/index"), *RESTRICTED):
            assert ask(server, method, path)[0] == 403
            assert "restricted" not in ask(server, method, path, {"PLANSMITH-secret": "sesame"})[1]


def test_a_header_with_two_values_is_refused_because_no_request_has_both(served):
    two = ("--http-restricted-api=health:key=one", "--http-restricted-api", "metadata:Key=other")
    with pytest.raises(InvalidOptions, match="two values of the header 'key', and a request has one"):
        TritonServer(ServerOptions(repository=served, triton_arguments=two, **FREE_PORTS))


def test_the_secret_is_neither_in_what_serve_prints_nor_in_the_log(served, start):
    serving = start(served, "--log-level", "debug")
    words = Path(f"/proc/{serving.facts['pid']}/cmdline").read_text().split("\0")
    secret = next(word for word in words if word.startswith("--http-restricted-api=")).rpartition("=")[2]
    log = Path(serving.facts["log"]).read_text()
    assert len(secret) >= 32
    assert secret not in json.dumps(serving.facts)
    assert secret not in log
    assert secret not in serving.stop()[1]
