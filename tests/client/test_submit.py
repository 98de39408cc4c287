"""`model.submit`: inferences that go on in the background, and how they are given up."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import os
import socket
import threading

import numpy as np
import pytest

from plansmith_client import AsyncClient, Client, ClientClosed, DeadlineExceeded, InvalidInput

IMAGES = np.zeros((2, 8, 8), np.float32)


@pytest.fixture(params=["grpc_url", "http_url"])
def url(request, committed_server):
    return getattr(committed_server, request.param)


def test_results_are_taken_when_they_are_wanted(url):
    with Client(url) as client:
        model = client.model("digits")
        expected = model(IMAGES).array
        pending = [model.submit(IMAGES) for _ in range(20)]
        for done in concurrent.futures.as_completed(pending):
            np.testing.assert_array_equal(done.result().array, expected)


def test_errors_are_those_of_the_result(url):
    with Client(url) as client:
        model = client.model("digits")
        with pytest.raises(InvalidInput, match="expected"):
            model.submit(IMAGES[0, 0]).result()
        with pytest.raises(DeadlineExceeded):
            model.submit(IMAGES, timeout=1e-6).result()


def test_a_closed_client_submits_nothing_and_leaves_no_thread(url):
    before = threading.active_count()
    client = Client(url)
    client.model("digits").submit(IMAGES).result()
    client.close()
    assert threading.active_count() <= before
    with pytest.raises(ClientClosed):
        client.model("digits").submit(IMAGES)


def test_what_is_called_with_a_result_may_close_the_client(url):
    client = Client(url)
    ended = threading.Event()
    pending = client.model("digits").submit(IMAGES)
    # In the thread that drives what was submitted.
    pending.add_done_callback(lambda _: (client.close(), ended.set()))
    assert ended.wait(20)
    with pytest.raises(ClientClosed):
        client.model("digits").submit(IMAGES)


def test_what_is_submitted_while_the_client_is_closed_ends(url):
    pending = []

    def submit(model):
        with contextlib.suppress(ClientClosed):
            pending.extend(model.submit(IMAGES) for _ in range(200))

    for _ in range(10):
        client = Client(url)
        model = client.model("digits")
        model.submit(IMAGES).result()
        submitting = [threading.Thread(target=submit, args=(model,)) for _ in range(4)]
        for thread in submitting:
            thread.start()
        client.close()
        for thread in submitting:
            thread.join()
    assert not concurrent.futures.wait(pending, timeout=20).not_done


def test_a_program_that_forgets_to_close_its_client_ends(url):
    import subprocess  # noqa: PLC0415
    import sys  # noqa: PLC0415

    program = (
        "import numpy as np, plansmith_client as p\n"
        f"print(p.Client({url!r}).model('digits').submit(np.zeros((2, 8, 8), np.float32)).result().model_name)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("digits\n", "")


def test_the_child_of_a_fork_has_a_thread_of_its_own(committed_server):
    with Client(committed_server.http_url) as client:
        model = client.model("digits")
        model.submit(IMAGES).result()
        child = os.fork()
        if not child:
            os._exit(0 if model.submit(IMAGES).result(20).model_name == "digits" else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert model.submit(IMAGES).result().model_name == "digits"


class Silent:
    """A server that knows its model and never answers an inference."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.asked, self.left = threading.Event(), threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection) -> None:
        metadata = {"name": "m", "inputs": [{"name": "x", "datatype": "INT32", "shape": [1]}], "outputs": []}
        with connection:
            while request := connection.recv(65536):
                if b"/infer" in request:
                    self.asked.set()
                    while connection.recv(65536):
                        pass
                    self.left.set()
                    return
                body = json.dumps(metadata).encode()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


@pytest.fixture
def silent():
    server = Silent()
    yield server
    server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()


def test_cancelling_ends_the_request(silent):
    with Client(silent.url) as client:
        pending = client.model("m").submit([1])
        assert silent.asked.wait(20)
        assert pending.cancel()
        assert silent.left.wait(20)
        with pytest.raises(concurrent.futures.CancelledError):
            pending.result()


def test_closing_the_client_ends_what_is_in_flight(silent):
    client = Client(silent.url)
    pending = client.model("m").submit([1])
    assert silent.asked.wait(20)
    client.close()
    with pytest.raises((ClientClosed, concurrent.futures.CancelledError)):
        pending.result(20)


def test_a_task_of_an_event_loop_is_cancelled_likewise(silent):
    async def run():
        async with AsyncClient(silent.url) as client:
            pending = client.model("m").submit([1])
            await asyncio.get_running_loop().run_in_executor(None, silent.asked.wait, 20)
            pending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await pending
            assert await asyncio.get_running_loop().run_in_executor(None, silent.left.wait, 20)

    with pytest.raises(InvalidInput, match="event loop"):
        AsyncClient(silent.url).model("m").submit([1])
    asyncio.run(run())
