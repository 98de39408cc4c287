"""A TCP proxy on loopback that breaks connections on purpose: it delays, drips, cuts, resets and stalls."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 65536


@dataclass(frozen=True)
class Fault:
    """What happens to one connection.

    Attributes:
        delay: seconds before the first byte of an answer passes.
        drip: seconds between single bytes of the answers.
        cut_answer_after: bytes of answers after which the connection ends.
        reset: whether it ends with a reset instead of an orderly close.
        stall: whether answers never pass.
    """

    delay: float = 0.0
    drip: float = 0.0
    cut_answer_after: int | None = None
    reset: bool = False
    stall: bool = False


class FaultProxy:
    """Stands before a server, and breaks the connections of clients only.

    Its own connections to the server last until it stops, and what the server still says is read: as the requests of a
    gateway do, those of a client that is cut off come to their end. Triton 2.51 needs it: one time in some dozens, a
    gRPC connection that goes away while its answer is written ends the whole server (server#7368, #8034).

    Attributes:
        faults: what happens to the next connections, one each; those after them pass unharmed, or meet `always`.
        always: what happens to connections for which `faults` has nothing left.
        connections: how many have been accepted.
        request_bytes: how many bytes of requests have come.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._stopping = threading.Event()
        self._clients: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.faults: deque[Fault] = deque()
        self.always = Fault()
        self.connections = 0
        self.request_bytes = 0
        self._start(self._accept)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def end_connections(self) -> None:
        """Close what clients have open: the next call needs a new connection, which takes the next fault."""
        with self._lock:
            for client in self._clients:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _start(self, work, *arguments) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                fault = self.faults.popleft() if self.faults else self.always
            try:
                server = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                client.close()
                continue
            for side in (client, server):
                side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # A thread that waits in recv() without an end would keep close() from resetting the connection.
                side.settimeout(0.05)
            with self._lock:
                self._clients.add(client)
            self._start(self._requests, client, server, fault)
            self._start(self._answers, client, server, fault)

    def _requests(self, client: socket.socket, server: socket.socket, fault: Fault) -> None:
        with contextlib.suppress(OSError):
            while data := self._received(client):
                with self._lock:
                    self.request_bytes += len(data)
                server.sendall(data)
        self._end(client, reset=fault.reset)

    def _answers(self, client: socket.socket, server: socket.socket, fault: Fault) -> None:
        with contextlib.suppress(OSError):
            if fault.stall:
                self._drain(server)
            elif fault.drip:
                self._drip(server, client, fault)
            else:
                self._carry(server, client, fault)
        self._end(client, reset=fault.reset)
        with contextlib.suppress(OSError):
            self._drain(server)
        server.close()

    def _carry(self, server: socket.socket, client: socket.socket, fault: Fault) -> None:
        passed = 0
        while data := self._received(server):
            if not passed and fault.delay and self._stopping.wait(fault.delay):
                return
            if fault.cut_answer_after is not None and passed + len(data) >= fault.cut_answer_after:
                client.sendall(data[: fault.cut_answer_after - passed])
                return
            client.sendall(data)
            passed += len(data)

    def _drip(self, server: socket.socket, client: socket.socket, fault: Fault) -> None:
        while data := self._received(server):
            for byte in data:
                if self._stopping.wait(fault.drip):
                    return
                client.sendall(bytes([byte]))

    def _drain(self, server: socket.socket) -> None:
        while self._received(server):
            pass

    def _received(self, source: socket.socket) -> bytes:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                return source.recv(CHUNK)
        return b""

    def _end(self, client: socket.socket, *, reset: bool) -> None:
        with self._lock:
            if client not in self._clients:
                return
            self._clients.discard(client)
            with contextlib.suppress(OSError):
                if reset:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                else:
                    client.shutdown(socket.SHUT_RDWR)
            client.close()


@contextlib.contextmanager
def fault_proxy(port: int) -> Iterator[FaultProxy]:
    """A proxy before the server at this port of loopback."""
    proxy = FaultProxy(port)
    try:
        yield proxy
    finally:
        proxy.stop()
