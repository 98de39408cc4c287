"""Every way to call a server does the same: observers, headers, fallback, hedging, renewed metadata, retries."""

from __future__ import annotations

import concurrent.futures
import contextlib
import inspect
import logging
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from client_faces import FACES, open_client, url_of
from client_servers import triton_with
from fault_proxy import Fault, fault_proxy

from plansmith_client import (
    AsyncClient,
    AsyncModel,
    Client,
    ClientError,
    InvalidInput,
    Model,
    RetryPolicy,
    ServerUnavailable,
)
from plansmith_client.calling import servers as servers_module
from plansmith_client.calling.breaker import BreakerPolicy
from plansmith_client.calling.flows import Pause, Resolve
from plansmith_client.calling.servers import Servers
from plansmith_client.transports.addresses import Address
from plansmith_client.transports.connections import Connection
from plansmith_client.transports.deadlines import Deadline

ROWS = np.ones((2, 4), np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with triton_with(("accumulate", "double", "repeat"), tmp_path_factory.mktemp("one")) as running:
        yield running


@pytest.fixture(params=FACES)
def face(request):
    return request.param


class Recorder:
    """An observer that remembers the operations, and gives headers to send."""

    def __init__(self, headers=None) -> None:
        self.seen: list[str] = []
        self.failed: list[str] = []
        self.attempts: list[str] = []
        self.headers = headers or {}

    @contextlib.contextmanager
    def observe(self, operation):
        self.seen.append(type(operation).__name__)
        try:
            yield self.headers
        except BaseException as error:
            self.failed.append(type(error).__name__)
            raise

    def attempt(self, operation, address):
        assert address.host
        self.attempts.append(type(operation).__name__)


def step(model):
    with model.sequence() as sequence:
        return sequence.end([[1.0]])


def result_of(pending):
    # An asynchronous face has been waited for already.
    return pending.result() if isinstance(pending, concurrent.futures.Future) else pending


# What each public method of a client and of a model asks the server, once the metadata is known.
CLIENT_CALLS = {
    "is_live": ("IsServerLive", lambda client: client.is_live()),
    "is_ready": ("IsServerReady", lambda client: client.is_ready()),
    "wait_until_ready": ("IsServerReady", lambda client: client.wait_until_ready()),
    "server_metadata": ("ReadServerMetadata", lambda client: client.server_metadata()),
    "models": ("ListModels", lambda client: client.models()),
    "statistics": ("ReadStatistics", lambda client: client.statistics()),
    "load_model": ("LoadModel", lambda client: client.load_model("twice")),
    "unload_model": ("UnloadModel", lambda client: client.unload_model("twice")),
    "trace_settings": ("TraceSettings", lambda client: client.trace_settings()),
    "log_settings": ("LogSettings", lambda client: client.log_settings()),
}
MODEL_CALLS = {
    "is_ready": ("IsModelReady", lambda client: client.model("double").is_ready()),
    "wait_until_ready": ("IsModelReady", lambda client: client.model("double").wait_until_ready()),
    "__call__": ("Infer", lambda client: client.model("double")(ROWS)),
    "submit": ("Infer", lambda client: result_of(client.model("double").submit(ROWS))),
    "infer": ("Infer", lambda client: client.model("double").infer({"x": ROWS})),
    "classify": ("Infer", lambda client: client.model("double").classify(ROWS)),
    "map": ("Infer", lambda client: client.model("double").map(ROWS).collect()),
    "batched": ("Infer", lambda client: client.model("double").batched()(ROWS)),
    "sequence": ("Infer", lambda client: step(client.model("accumulate"))),
    "config": ("ReadConfigDocument", lambda client: client.model("double").config()),
    "statistics": ("ReadStatistics", lambda client: client.model("double").statistics()),
    "stream": ("Infer", lambda client: list(client.model("repeat").stream({"count": [1], "value": [7.0]}))),
}
# They ask nothing themselves, or end the client.
ASK_NOTHING = {"url", "timeout", "model", "close", "with_options", "name", "version", "metadata"}


@pytest.mark.parametrize(
    ("kinds", "calls"), [((Client, AsyncClient), CLIENT_CALLS), ((Model, AsyncModel), MODEL_CALLS)]
)
def test_every_public_method_is_known_to_the_tests_of_observed_operations(kinds, calls):
    for kind in kinds:
        public = {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")} | (
            {"__call__"} if issubclass(kind, (Model, AsyncModel)) else set()
        )
        assert public - ASK_NOTHING == set(calls)


def test_every_call_is_exactly_one_observed_operation(server, face):
    recorder = Recorder()
    with open_client(face, url_of(face, server), observers=[recorder], timeout=60) as client:
        # A model that the test before has unloaded may still be on its way out.
        client.wait_until_ready()
        for name in ("double", "accumulate", "repeat"):
            _ = client.model(name).metadata
        for name, (operation, call) in [*CLIENT_CALLS.items(), *MODEL_CALLS.items()]:
            recorder.seen.clear()
            recorder.attempts.clear()
            call(client)
            assert recorder.seen == recorder.attempts == [operation], name
    assert not recorder.failed


@pytest.mark.parametrize("headers", [{"X-Request-Id": "7"}, {"X-Amzn-Trace-Id": "Root=1-5"}])
def test_headers_of_observers_are_sent_whatever_their_case(server, face, headers):
    with open_client(face, url_of(face, server), observers=[Recorder(headers)], timeout=60) as client:
        assert client.model("double")(ROWS).array.tolist() == (ROWS * 2).tolist()
        step(client.model("accumulate"))
        assert len(list(client.model("repeat").stream({"count": [2], "value": [7.0]}))) == 2


@pytest.mark.parametrize(
    "headers", [{"x-a": "b\r\nInjected: yes"}, {"x a": "b"}, {"x-a": 3}, {3: "x"}, {"Authorization": "x"}, 7]
)
def test_headers_of_observers_that_cannot_be_sent_are_refused(server, face, headers):
    with open_client(face, url_of(face, server), observers=[Recorder(headers)], timeout=60) as client:
        for _, call in CLIENT_CALLS.values():
            with pytest.raises(InvalidInput, match="header"):
                call(client)


def test_a_stream_that_its_caller_leaves_early_has_not_failed(server):
    recorder = Recorder()
    with Client(server.grpc_url, observers=[recorder], timeout=60) as client:
        stream = client.model("repeat").stream({"count": [5], "value": [1.0]})
        next(stream)
        stream.close()
    assert recorder.seen[-1] == "Infer"
    assert not recorder.failed


def test_the_first_yes_of_several_servers_is_the_answer(server, face):
    with fault_proxy(int(url_of(face, server).rpartition(":")[2])) as proxy:
        proxy.always = Fault(stall=True)
        stalled = proxy.target if face.startswith("grpc") else f"http://{proxy.target}"
        with (
            open_client(face, url_of(face, server), timeout=120) as alone,
            open_client(face, [stalled, url_of(face, server)], timeout=3600) as client,
            concurrent.futures.ThreadPoolExecutor(1) as pool,
        ):
            # A model that an earlier test has unloaded may still be on its way out.
            alone.wait_until_ready()
            assert pool.submit(client.is_ready).result(timeout=120)
            assert pool.submit(client.is_live).result(timeout=120)
            assert pool.submit(client.model("double").is_ready).result(timeout=120)
            assert not client.with_options(timeout=1.0).is_ready(all_servers=True)


def test_waiting_until_ready_survives_a_probe_that_hangs(server, face):
    with fault_proxy(int(url_of(face, server).rpartition(":")[2])) as proxy:
        proxy.faults.extend([Fault(stall=True)])
        url = proxy.target if face.startswith("grpc") else f"http://{proxy.target}"
        ending = threading.Timer(3.0, proxy.end_connections)
        ending.start()
        with open_client(face, url, timeout=3600) as client, concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(client.wait_until_ready).result(timeout=120)
        ending.join()


def test_a_call_rides_out_the_restart_of_a_server_that_has_answered(server, face, caplog):
    with fault_proxy(int(url_of(face, server).rpartition(":")[2])) as proxy:
        url = proxy.target if face.startswith("grpc") else f"http://{proxy.target}"
        with open_client(face, url, timeout=60, token="secret-of-the-test") as client:
            model = client.model("double")
            model(ROWS)
            proxy.always = Fault(cut_answer_after=0)
            proxy.end_connections()

            def back() -> None:
                # Long enough for the client to see by its failures that the server is gone.
                while "Circuit open" not in caplog.text:
                    time.sleep(0.05)
                proxy.always = Fault()

            restarting = threading.Thread(target=back, daemon=True)
            with caplog.at_level(logging.INFO, "plansmith_client"):
                restarting.start()
                assert model(ROWS).array.tolist() == (ROWS * 2).tolist()
            restarting.join()
    assert "Retry in" in caplog.text
    assert "Circuit open" in caplog.text
    assert "secret-of-the-test" not in caplog.text


def test_explicit_attempts_are_not_exceeded_for_a_restart(server, face):
    recorder = Recorder()
    with fault_proxy(int(url_of(face, server).rpartition(":")[2])) as proxy:
        url = proxy.target if face.startswith("grpc") else f"http://{proxy.target}"
        policy = RetryPolicy(attempts=1, backoff=0.01, restart=0.0)
        with open_client(face, url, timeout=3600, retries=policy, observers=[recorder]) as client:
            client.server_metadata()
            proxy.always = Fault(cut_answer_after=0)
            proxy.end_connections()
            with pytest.raises(ClientError):
                client.server_metadata()
    assert recorder.failed == ["ServerUnavailable"]


# Names with several addresses, without a name server: the flow is driven by hand.


class Place:
    """A transport that tells where it leads, and whether it is still to be used."""

    def __init__(self, address: Address, _: Connection) -> None:
        self.host = address.host
        self.is_left = False

    def close_idle(self) -> None:
        self.is_left = True


def named_servers(*names: str) -> Servers:
    return Servers(
        tuple(Address.parse(f"{name}:8001") for name in names or ("models",)),
        Connection(),
        Place,
        balance="round_robin",
        breaker=BreakerPolicy(),
        resolve=True,
        shared_memory=False,
    )


def finish(flow, given) -> None:
    with pytest.raises(StopIteration):
        flow.send(given)


def test_a_name_is_looked_up_once_for_all_calls_that_wait():
    servers = named_servers()
    first, second, third = (servers.look_up(Deadline(60)) for _ in range(3))
    assert isinstance(next(first), Resolve)
    assert isinstance(next(second), Pause)
    assert isinstance(next(third), Pause)
    finish(first, ("10.0.0.1", "10.0.0.2"))
    finish(second, None)
    finish(third, None)
    assert [server.transport.host for server in servers.all()] == ["10.0.0.1", "10.0.0.2"]
    with pytest.raises(StopIteration):
        next(servers.look_up(Deadline(60)))


def test_known_addresses_stay_while_a_name_server_fails_and_go_when_it_says_so():
    servers = named_servers()
    known = set()
    for hosts, expected in (
        (("10.0.0.1", "10.0.0.2"), ["10.0.0.1", "10.0.0.2"]),
        ((), ["10.0.0.1", "10.0.0.2"]),
        (("10.0.0.2", "10.0.0.3"), ["10.0.0.2", "10.0.0.3"]),
    ):
        servers._look_up_at = 0.0
        flow = servers.look_up(Deadline(60))
        next(flow)
        finish(flow, hosts)
        known.update(server.transport for server in servers.all())
        assert [server.transport.host for server in servers.all()] == expected
    assert [place.host for place in known if place.is_left] == ["10.0.0.1"]


def test_names_are_looked_up_again_when_a_server_cannot_be_reached(monkeypatch):
    monkeypatch.setattr(servers_module, "_LOOK_UP_AGAIN_SECONDS", 0.0)
    servers = named_servers()
    first = servers.look_up(Deadline(60))
    next(first)
    finish(first, ("10.0.0.1",))
    with pytest.raises(StopIteration):
        next(servers.look_up(Deadline(60)))
    servers.failed(servers.all()[0], ServerUnavailable("No answer"))
    assert isinstance(next(servers.look_up(Deadline(60))), Resolve)


def test_a_name_server_that_says_nothing_of_one_name_leaves_time_for_the_others():
    servers = named_servers("silent", "models")
    flow = servers.look_up(Deadline(60))
    assert next(flow).seconds <= 30
    assert flow.send(()).host == "models"
    finish(flow, ("10.0.0.1",))
    assert [server.transport.host for server in servers.all()] == ["10.0.0.1"]


def test_a_name_that_has_no_address_yet_is_looked_up_again_by_the_next_call():
    servers = named_servers()
    for hosts in ((), ("10.0.0.1",)):
        flow = servers.look_up(Deadline(60))
        assert isinstance(next(flow), Resolve)
        finish(flow, hosts)
    assert len(servers.all()) == 1


# In namespaces of its own, where the only name server never answers and the system's resolver asks it for a minute.
SILENT_NAME_SERVER = """
import asyncio, fcntl, socket, struct, subprocess, sys
from plansmith_client import AsyncClient, Client, DeadlineExceeded
subprocess.run(["mount", "--bind", sys.argv[1], "/etc/resolv.conf"], check=True)
names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
# ip link set lo up
fcntl.ioctl(names, 0x8914, struct.pack("16sH22x", b"lo", 1))
names.bind(("127.0.0.1", 53))
names.setblocking(False)

async def ask_from_a_loop(url, **options):
    async with AsyncClient(url, timeout=0.5, **options) as client:
        await client.server_metadata()

def ask(url, **options):
    with Client(url, timeout=0.5, **options) as client:
        client.server_metadata()

for call in (
    lambda: ask("http://models.test:8000"),
    lambda: ask("http://models.test:8000", resolve=True),
    lambda: asyncio.run(ask_from_a_loop("models.test:8001", resolve=True)),
    # The loop ends with its threads, and so must not have one that looks up.
    lambda: asyncio.run(ask_from_a_loop("http://models.test:8000")),
):
    try:
        call()
    except DeadlineExceeded:
        # For both families, and not yet a second time.
        assert names.recv(512) and names.recv(512)
        try:
            names.recv(512)
        except BlockingIOError:
            print("left")
"""


def test_a_name_server_that_says_nothing_delays_nobody_beyond_the_deadline(tmp_path):
    apart = ["unshare", "--map-root-user", "--net", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system does not let users make namespaces: unshare --map-root-user --net --mount")
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:2\n")
    done = subprocess.run(
        [*apart, sys.executable, "-c", SILENT_NAME_SERVER, tmp_path / "resolv.conf"],
        check=False, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("left\n" * 4, "")


def test_an_input_may_be_called_self(server):
    with Client(server.grpc_url) as client, pytest.raises(InvalidInput, match="input"):
        client.model("double")(self=ROWS)
