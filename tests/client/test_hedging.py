"""A request that a second server answered first is cancelled at the first one, by every face."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import time
from typing import TYPE_CHECKING

import hostile_answers
import numpy as np
import pytest
from client_faces import FACES, open_client, url_of
from client_servers import held
from settled_counts import settled

from plansmith_client import Client, DeadlineExceeded
from plansmith_client.transports.deadlines import Deadline

if TYPE_CHECKING:
    import socket

ROW = np.ones((1, 4), np.float32)


class Hanging:
    """Answers no inference, and tells when the client has gone."""

    def __init__(self) -> None:
        self.asked, self.left = threading.Event(), threading.Event()

    def over_http(self, connection: socket.socket) -> bytes:
        self.asked.set()
        with contextlib.suppress(OSError):
            connection.recv(1)
        self.left.set()
        return b""

    def over_grpc(self, context) -> bytes:
        left = threading.Event()
        context.add_callback(left.set)
        self.asked.set()
        if left.wait(60):
            self.left.set()
        return b""


@pytest.mark.parametrize("face", FACES)
def test_the_slower_request_is_cancelled(face):
    kind = hostile_answers.GrpcServer if face.startswith("grpc") else hostile_answers.HttpServer
    hanging = Hanging()
    with hostile_answers.serving(kind) as answering, hostile_answers.serving(kind) as slower:
        slower.replies = {"ModelInfer": hanging.over_grpc}
        slower.documents = {"/v2/models/m/infer": hanging.over_http}
        urls, options = [answering.url, slower.url], {"hedge_after": 0.1, "timeout": 60, "shared_memory": False}
        with open_client(face, urls, **options) as client:
            for _ in range(4):
                assert client.model("m").infer({"x": ROW}, request_id="mine")["n"].tolist() == [[7]]
            assert hanging.asked.is_set()
            assert hanging.left.wait(20)
            # The server that was slower is not one that failed.
            core = client._behind._core if hasattr(client, "_behind") else client._core
            assert not any(server.breaker.failures for server in core.caller.servers.all())


def test_a_deadline_that_is_cancelled_ends_what_waits_for_it():
    deadline = Deadline(60).cancellable()
    ended = []

    def exchange() -> None:
        with deadline.aborting(lambda: ended.append("aborted")):
            deadline.cancel()
            assert ended == ["aborted"]
            raise OSError("what the abort brings about")

    with pytest.raises(concurrent.futures.CancelledError):
        exchange()
    with pytest.raises(concurrent.futures.CancelledError):
        deadline.remaining()


@pytest.mark.parametrize("face", FACES)
def test_a_request_that_nobody_waits_for_leaves_the_queue(server, face):
    with open_client(face, url_of(face, server), timeout=30) as client:
        slow = client.model("slow")
        assert slow.metadata.queue_timeout
        assert not client.model("double").metadata.queue_timeout
        # What others left in the queue runs before this.
        slow([[0.0]])
        before = settled(slow.statistics)[0].executions
        with Client(server.grpc_url) as other, concurrent.futures.ThreadPoolExecutor(1) as pool:
            first = pool.submit(other.model("slow"), [[-1.0]])
            with held(server):
                with pytest.raises(DeadlineExceeded):
                    slow([[0.0]], timeout=0.3)
                # As long again: the server counts from when the request came.
                time.sleep(0.4)
            first.result()
        slow([[0.0]])
        # The first one and the last one; not that between them.
        assert settled(slow.statistics)[0].executions == before + 2
