"""A backend process that dies while the server runs: Triton goes on to call its model ready, and we must not."""

from __future__ import annotations

import signal

import numpy as np
import onnx
import onnx.parser
import psutil
import pytest
from serving import FREE_PORTS, add_double, double, wait_for

from plansmith_client import Client, ClientError
from plansmith_server import ServerOptions, TritonServer

DIVIDE = """
<ir_version: 10, opset_import: ["" : 21]>
divide (int64[batch, 1] x, int64[batch, 1] divisor) => (int64[batch, 1] y)
{
  y = Div (x, divisor)
}
"""


def stub_of(pid: int, instance: str) -> psutil.Process:
    return next(child for child in psutil.Process(pid).children() if instance in child.cmdline())


def test_serve_ends_with_the_reason_when_a_backend_process_is_killed(served, start):
    add_double(served, "other")
    serving = start(served)
    stub_of(serving.facts["pid"], "double_0_0").kill()
    code, said = serving.end()
    assert code == 1
    assert "the backend process of double_0_0 ended with signal SIGKILL, and Triton 2.51 cannot replace it" in said
    serving.traces.wait_until_gone()


def test_a_request_that_ends_the_process_of_its_model_is_noticed(repository):
    (repository / "divide" / "1").mkdir(parents=True)
    onnx.save(onnx.parser.parse_model(DIVIDE), repository / "divide" / "1" / "model.onnx")
    with TritonServer(ServerOptions(repository=repository, **FREE_PORTS)) as server:
        with Client(server.grpc_url, retries=0) as client:
            inputs = {"x": np.array([[-(2**63)]]), "divisor": np.array([[-1]])}
            with pytest.raises(ClientError):
                client.model("divide").infer(inputs, timeout=60)
            # From here on nobody asks it anything.
            wait_for(lambda: not client.is_ready(), seconds=120)
        wait_for(lambda: not server.is_running, seconds=120)
        assert server.returncode is not None
        assert f"ended with signal {signal.SIGFPE.name}" in server.failure


def test_clients_load_and_unload_and_a_model_that_is_unloaded_is_no_dead_backend(served):
    add_double(served, "later")
    options = ServerOptions(repository=served, control="explicit", models=("double",), **FREE_PORTS)
    with TritonServer(options) as server, Client(server.grpc_url) as client:
        assert not client.model("later").is_ready()
        for _ in range(3):
            client.load_model("later")
            np.testing.assert_array_equal(double(server.grpc_url, "later"), [[2, 4]])
            assert len(psutil.Process(server.pid).children()) > 1
            client.unload_model("later")
            wait_for(lambda: len(psutil.Process(server.pid).children()) == 1)
            client.load_model("double")
            np.testing.assert_array_equal(double(server.grpc_url), [[2, 4]])
        assert server.is_running
        assert server.failure == ""
