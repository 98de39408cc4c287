"""What stands between a client and a server in real networks, in Python: an HTTP proxy, and a Unix socket."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit


def pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def relay(near: socket.socket, host: str, port: int, first: bytes = b"") -> None:
    with near, socket.create_connection((host, port)) as far:
        far.sendall(first)
        other = threading.Thread(target=pump, args=(far, near), daemon=True)
        other.start()
        pump(near, far)
        other.join()


@contextlib.contextmanager
def serving(listener: socket.socket, serve):
    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@contextlib.contextmanager
def http_proxy(authorization: str | None = None):
    """A proxy; gives its `host:port` and the request lines that it has seen."""
    seen: list[str] = []

    def serve(near: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head and (part := near.recv(65536)):
            head += part
        line, _, rest = head.partition(b"\r\n")
        seen.append(line.decode())
        method, target, _ = line.decode().split()
        if authorization and f"proxy-authorization: {authorization}".lower() not in head.decode("latin-1").lower():
            with near:
                near.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            return
        with contextlib.suppress(OSError):
            if method == "CONNECT":
                host, _, port = target.rpartition(":")
                near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                relay(near, host, int(port))
            else:
                parts = urlsplit(target)
                relay(near, parts.hostname, parts.port, f"{method} {parts.path} HTTP/1.1\r\n".encode() + rest)

    listener = socket.create_server(("127.0.0.1", 0))
    with serving(listener, serve):
        yield f"127.0.0.1:{listener.getsockname()[1]}", seen


@contextlib.contextmanager
def unix_socket(path, target: str):
    """A Unix socket that leads to `host:port`."""
    host, _, port = target.rpartition(":")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()
    with serving(listener, lambda near: relay(near, host, int(port))):
        yield
