"""Servers that die, hang, break connections or are too busy: who is asked again, and what the caller sees."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from client_faces import FACES, open_client, url_of
from client_servers import held, triton_with
from fault_proxy import Fault, fault_proxy
from settled_counts import settled

from plansmith_client import (
    BreakerPolicy,
    Client,
    ClientError,
    DeadlineExceeded,
    InvalidInput,
    RetryPolicy,
    ServerUnavailable,
)
from plansmith_client.transports.grpc import channels as grpc_channels

MODELS = ("accumulate", "double", "repeat", "slow", "versions")
ROWS = np.ones((2, 4), np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with triton_with(MODELS, tmp_path_factory.mktemp("first")) as running:
        yield running


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    with triton_with(MODELS, tmp_path_factory.mktemp("second")) as running:
        yield running


@pytest.fixture(params=FACES)
def face(request):
    return request.param


@pytest.fixture
def proxy(server, face):
    with fault_proxy(int(url_of(face, server).rpartition(":")[2])) as proxy:
        proxy.url = proxy.target if face.startswith("grpc") else f"http://{proxy.target}"
        yield proxy


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def nobody(face: str) -> str:
    return f"{'' if face.startswith('grpc') else 'http://'}127.0.0.1:{free_port()}"


def successes(server, model: str) -> int:
    with Client(server.grpc_url) as client:
        counted = settled(client.model(model).statistics)
    return sum(statistics.success.count for statistics in counted)


# One server.


@pytest.mark.parametrize("fault", [Fault(cut_answer_after=1), Fault(cut_answer_after=60, reset=True)])
def test_a_broken_connection_is_followed_by_another_attempt(proxy, face, fault):
    with open_client(face, proxy.url, timeout=10) as client:
        model = client.model("double")
        assert model(ROWS).array.tolist() == (ROWS * 2).tolist()
        before = proxy.connections
        proxy.faults.extend([fault])
        proxy.end_connections()
        assert model(ROWS).array.tolist() == (ROWS * 2).tolist()
        assert proxy.connections - before >= 2


def test_attempts_end_with_the_policy_and_the_error_is_an_outage(face):
    url = nobody(face)
    with open_client(face, url, retries=RetryPolicy(attempts=2, backoff=0.01), timeout=10) as client:
        with pytest.raises(ServerUnavailable, match="Connection refused") as caught:
            client.server_metadata()
        assert caught.value.retryable
    with open_client(face, url, retries=0, timeout=10) as client, pytest.raises(ServerUnavailable):
        client.server_metadata()


def test_a_server_that_says_nothing_is_left_at_the_deadline_and_not_asked_twice(proxy, face):
    with open_client(face, proxy.url, timeout=10) as client:
        model = client.model("double")
        model(ROWS)
        proxy.always = Fault(stall=True)
        proxy.end_connections()
        before = successes_settled(proxy)
        with pytest.raises(DeadlineExceeded, match=r"0\.5 s"):
            model.infer({"x": ROWS}, timeout=0.5)
        assert proxy.connections - before <= 2


def successes_settled(proxy) -> int:
    time.sleep(0.2)
    return proxy.connections


@pytest.mark.parametrize("fault", [Fault(drip=0.05), Fault(delay=5.0)])
def test_slow_answers_are_bounded_by_the_deadline_as_a_whole(proxy, face, fault):
    with open_client(face, proxy.url, timeout=10) as client:
        model = client.model("double")
        model(ROWS)
        proxy.always = fault
        proxy.end_connections()
        with pytest.raises(DeadlineExceeded):
            model.infer({"x": ROWS}, timeout=0.5)


def test_the_step_of_a_sequence_is_never_sent_twice(server, proxy, face):
    with open_client(face, proxy.url, timeout=10, retries=5) as client:
        model = client.model("accumulate")
        assert model.metadata.name == "accumulate"
        before = successes(server, "accumulate")
        # The answer is lost, the step has been taken: gRPC's handshake takes the first bytes of an answer.
        proxy.always = Fault(cut_answer_after=20)
        proxy.end_connections()
        time.sleep(0.2)
        with pytest.raises(ServerUnavailable), model.sequence() as sequence:
            sequence([[1.0]])
        time.sleep(0.5)
        assert successes(server, "accumulate") - before <= 1


def test_loading_a_model_is_never_sent_twice(face):
    policy = RetryPolicy(attempts=1, backoff=600.0, longest_backoff=600.0)
    with open_client(face, nobody(face), timeout=3600, retries=policy) as client:
        started = time.monotonic()
        with pytest.raises(ServerUnavailable):
            client.load_model("double")
        # A pause of five minutes is not to be mistaken for none, however slow the machine is.
        assert time.monotonic() - started < 300


def test_a_call_to_the_only_server_finds_it_again_although_its_circuit_is_open(tmp_path):
    ports = {"grpc": free_port(), "http": free_port()}
    breaker = BreakerPolicy(failures=2, cooldown=60.0, longest_cooldown=60.0)
    with contextlib.ExitStack() as stack:
        models = []
        for face in FACES:
            kind = face.partition("-")[0]
            url = f"{kind}://127.0.0.1:{ports[kind]}"
            client = stack.enter_context(open_client(face, url, timeout=60, retries=0, breaker=breaker))
            models.append(client.model("double"))
            for _ in range(4):
                with pytest.raises(ServerUnavailable, match="Connection refused"):
                    models[-1](ROWS)
        with triton_with(("double",), tmp_path, grpc_port=ports["grpc"], http_port=ports["http"]):
            # gRPC waits a moment before it connects again.
            time.sleep(3)
            for model in models:
                assert model(ROWS).array.tolist() == (ROWS * 2).tolist()
            stack.close()


def test_a_model_whose_process_dies_is_an_error_of_the_model_and_the_client_goes_on(tmp_path):
    with triton_with(("double",), tmp_path) as server:
        # What stops a server with a dead backend has to wait, as that of another server may not do so at all.
        supervisor = psutil.Process(server.pid).parent()
        supervisor.suspend()
        try:
            for face in FACES:
                name = f"crashing-{face}"
                shutil.copytree(tmp_path / "models" / "crashing", tmp_path / "models" / name)
                with open_client(face, url_of(face, server), timeout=20) as client:
                    client.load_model(name)
                    with pytest.raises(ClientError):
                        client.model(name).infer({"die": [True]}, timeout=10)
                    assert client.model("double")(ROWS).array.tolist() == (ROWS * 2).tolist()
        finally:
            supervisor.resume()


@pytest.mark.parametrize("face", ["grpc", "grpc-async"])
def test_an_idle_connection_is_silent_and_is_replaced_by_the_next_call(proxy, face, monkeypatch):
    # Three pings without a call and Triton hangs up. Both wait for minutes, which is too long for a test.
    sooner = {"grpc.keepalive_time_ms": 300, "grpc.client_idle_timeout_ms": 2000}
    options = tuple((name, sooner.get(name, value)) for name, value in grpc_channels.CHANNEL_OPTIONS)
    monkeypatch.setattr(grpc_channels, "CHANNEL_OPTIONS", options)
    with open_client(face, proxy.url, timeout=10, retries=0) as client:
        model = client.model("double")
        model(ROWS)
        before = settled(lambda: proxy.request_bytes)
        time.sleep(1)
        assert (proxy.request_bytes, proxy.connections) == (before, 1)
        time.sleep(3.5)
        assert model(ROWS).array.tolist() == (ROWS * 2).tolist()
        assert proxy.connections == 2


@pytest.mark.parametrize("face", ["grpc", "http"])
def test_a_system_that_starts_no_more_threads_can_still_be_called_from(server, face, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    url = url_of(face, server).replace("127.0.0.1", "localhost")
    with Client(url, timeout=20) as client:
        model = client.model("double")
        assert model.metadata.max_batch_size == 8
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert model.map(np.ones((20, 4), np.float32)).collect().array.sum() == 160
        assert model.submit(ROWS).result().array.sum() == 16
        with Client(url, timeout=20) as other:
            assert face == "grpc" or other.model("double")(ROWS).array.sum() == 16


# Several servers.


def test_calls_are_spread_over_the_servers_in_turn(server, second, face):
    before = [successes(one, "versions") for one in (server, second)]
    with open_client(face, [url_of(face, server), url_of(face, second)]) as client:
        model = client.model("versions")
        for _ in range(20):
            model([[0.0]])
    after = [successes(one, "versions") for one in (server, second)]
    assert [new - old for new, old in zip(after, before, strict=True)] == [10, 10]


def test_the_server_with_the_fewest_requests_under_way_is_asked(server, second, face):
    urls = [url_of(face, server), url_of(face, second)]
    with open_client(face, urls, balance="least_outstanding", timeout=20) as client:
        slow, double = client.model("slow"), client.model("double")
        slow([[0.0]])
        double(ROWS)
        before = [successes(one, "double") for one in (server, second)]
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            busy = pool.submit(slow, [[-1.0]])
            with held(server, second):
                for _ in range(6):
                    double(ROWS)
            busy.result()
        after = [successes(one, "double") for one in (server, second)]
    assert sorted(new - old for new, old in zip(after, before, strict=True)) == [0, 6]


def test_a_server_that_is_gone_is_passed_over_without_a_word(server, face):
    with open_client(face, [nobody(face), url_of(face, server)], retries=0, timeout=10) as client:
        model = client.model("double")
        for _ in range(8):
            assert model(ROWS).array.tolist() == (ROWS * 2).tolist()
        assert client.is_ready()


def test_a_server_that_is_back_is_asked_when_the_others_are_gone_however_long_it_was_left_alone(server, face):
    urls = [url_of(face, server), nobody(face)]
    kind = int(urls[0].rpartition(":")[2])
    with fault_proxy(kind) as proxy:
        urls[0] = proxy.target if face.startswith("grpc") else f"http://{proxy.target}"
        breaker = BreakerPolicy(failures=1, cooldown=60.0, longest_cooldown=60.0)
        with open_client(face, urls, breaker=breaker, retries=0, timeout=10) as client:
            model = client.model("double")
            assert model(ROWS).array.tolist() == (ROWS * 2).tolist()
            proxy.always = Fault(cut_answer_after=0)
            proxy.end_connections()
            with pytest.raises(ServerUnavailable):
                model(ROWS)
            # Both are left alone for a minute now, and one of them is there again.
            proxy.always = Fault()
            proxy.end_connections()
            time.sleep(1.5)
            assert model(ROWS).array.tolist() == (ROWS * 2).tolist()


@pytest.fixture(scope="module")
def lacking(tmp_path_factory):
    """A server one of whose models could not be loaded."""
    with triton_with(("broken", "slow"), tmp_path_factory.mktemp("lacking")) as running:
        yield running


def test_a_server_that_has_not_loaded_the_model_is_passed_over(server, lacking, face):
    with open_client(face, [url_of(face, lacking), url_of(face, server)]) as client:
        for _ in range(4):
            assert client.model("double")(ROWS).array.tolist() == (ROWS * 2).tolist()


def test_models_are_loaded_on_every_server(server, second, face):
    urls = [url_of(face, server), url_of(face, second)]
    with open_client(face, urls) as client:
        client.load_model("picky")
        for one in urls:
            with open_client(face, one) as alone:
                assert alone.model("picky").is_ready()
        client.unload_model("picky")


def test_a_slow_server_is_overtaken_by_a_second_one(server, second, face):
    with fault_proxy(int(url_of(face, server).rpartition(":")[2])) as proxy:
        hanging = proxy.target if face.startswith("grpc") else f"http://{proxy.target}"
        with open_client(face, [hanging, url_of(face, second)], hedge_after=0.1, timeout=20) as client:
            model = client.model("double")
            model(ROWS)
            proxy.always = Fault(stall=True)
            proxy.end_connections()
            for _ in range(4):
                assert model.infer({"x": ROWS}, timeout=10).array.tolist() == (ROWS * 2).tolist()


def test_a_sequence_begins_on_a_server_that_answers_and_stays_there(server, second, face):
    urls = [nobody(face), url_of(face, server), url_of(face, second)]
    with open_client(face, urls, breaker=BreakerPolicy(failures=1, cooldown=0.01), timeout=10) as client:
        model = client.model("accumulate")
        for _ in range(6):
            assert model.metadata.name == "accumulate"
            time.sleep(0.02)
            with model.sequence() as sequence:
                sequence([[1.0]])
                sequence([[2.0]])
                assert sequence.end([[3.0]]).array.tolist() == [[6.0]]


def test_a_server_that_lacks_one_of_its_models_is_used_again_for_the_others(lacking, face):
    with fault_proxy(int(url_of(face, lacking).rpartition(":")[2])) as proxy:
        url = proxy.target if face.startswith("grpc") else f"http://{proxy.target}"
        breaker = BreakerPolicy(failures=1, cooldown=0.1)
        with open_client(face, url, breaker=breaker, retries=0, timeout=10) as client:
            assert not client.is_ready()
            model = client.model("slow")
            model([[0.0]])
            proxy.always = Fault(cut_answer_after=0)
            proxy.end_connections()
            with pytest.raises(ServerUnavailable):
                model([[0.0]])
            proxy.always = Fault()
            proxy.end_connections()
            time.sleep(1.5)
            model([[0.0]])
            client.close()


def test_a_wrong_request_is_not_taken_to_another_server(server, second):
    with open_client("grpc", [server.grpc_url, second.grpc_url]) as client:
        with pytest.raises(InvalidInput):
            client.model("double")(np.ones((2, 3), np.float32))
        with pytest.raises(InvalidInput, match="the same server twice"):
            Client([server.grpc_url, f"grpc://{server.grpc_url}"])


def test_a_host_name_with_several_addresses_is_several_servers(server, face):
    # localhost is ::1 as well on many machines, where nobody listens: it is passed over.
    url = url_of(face, server).replace("127.0.0.1", "localhost")
    with open_client(face, url, resolve=True, timeout=10) as client:
        for _ in range(4):
            assert client.model("double")(ROWS).array.tolist() == (ROWS * 2).tolist()
    with (
        open_client(face, url.replace("localhost", "no-such-host.invalid"), resolve=True) as client,
        pytest.raises(ServerUnavailable, match="no address"),
    ):
        client.server_metadata()


def test_killed_servers_under_load_give_right_answers_or_outages(tmp_path):
    outcomes: list[object] = []
    ending = threading.Event()

    def ask(number: int, client) -> None:
        rows = np.full((1, 4), number, np.float32)
        while not ending.is_set():
            try:
                outcomes.append((client.model("double").infer({"x": rows}, timeout=5)["y"] == rows * 2).all())
            except ClientError as error:
                outcomes.append(error)

    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(triton_with(("double",), tmp_path / str(place))) for place in range(2)]
        clients = [
            stack.enter_context(open_client(face, [url_of(face, one) for one in servers], timeout=5)) for face in FACES
        ]
        for client in clients:
            client.model("double")(ROWS)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            asking = [pool.submit(ask, number, clients[number % 4]) for number in range(16)]
            try:
                time.sleep(0.5)
                os.kill(servers[0].pid, signal.SIGKILL)
                time.sleep(1.0)
            finally:
                ending.set()
            for work in asking:
                work.result()
    wrong = [outcome for outcome in outcomes if isinstance(outcome, np.bool_) and not outcome]
    failed = [outcome for outcome in outcomes if isinstance(outcome, ClientError)]
    assert len(outcomes) > 100
    assert wrong == []
    # The second server was there all the time.
    assert failed == []


# Processes.


@pytest.mark.parametrize("face", ["grpc", "http"])
def test_a_client_is_used_on_in_the_child_of_a_fork(server, face):
    program = f"""
import os, sys
import numpy as np
from plansmith_client import Client
client = Client({url_of(face, server)!r}, timeout=20)
model = client.model("double")
rows = np.ones((2, 4), np.float32)
assert (model(rows).array == 2).all()
children = []
for number in range(4):
    pid = os.fork()
    if pid == 0:
        for _ in range(50):
            assert (model(rows * number).array == 2 * number).all()
        os._exit(0)
    children.append(pid)
for _ in range(50):
    assert (model(rows * 9).array == 18).all()
sys.exit(any(os.waitpid(pid, 0)[1] for pid in children))
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
