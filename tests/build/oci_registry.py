"""A real registry of OCI, Debian's docker-registry, and a front that makes it ask for tokens as public ones do."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import threading
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import pytest
import requests
from serving import wait_for

from plansmith_server.launcher.ports import find_free

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

USER, PASSWORD = "caller", "a-secret"
# `htpasswd -nbB` of both.
HTPASSWD = "caller:$2b$04$0GNXjjMxyOjGVSKFVwWUbusAPuStA7iamb0ddwiDSz0w8XwYLs7ni"
BASIC = "Basic Y2FsbGVyOmEtc2VjcmV0"
BEARER = "Bearer a-token"
IDENTITY = "an-identity-secret"


def registry_program(cache: Path) -> Path:
    """The program out of Debian's package, which is unpacked and not installed: it would start a service."""
    program = cache / "usr/bin/docker-registry"
    if program.exists():
        return program
    if shutil.which("apt-get") is None:
        pytest.skip("docker-registry comes from Debian, and apt-get is not here")
    download = ["apt-get", "download", "docker-registry"]
    if subprocess.run(download, check=False, capture_output=True, cwd=cache).returncode and os.geteuid() == 0:
        subprocess.run(["apt-get", "update"], check=True, capture_output=True)
        subprocess.run(download, check=True, capture_output=True, cwd=cache)
    for package in cache.glob("docker-registry_*.deb"):
        subprocess.run(["dpkg-deb", "--extract", package, cache], check=True)
    return program


class Registry:
    """A registry on a free port of this machine; two of one folder have the same artifacts."""

    def __init__(self, program: Path, folder: Path, *, login: bool) -> None:
        port = find_free("127.0.0.1", 1)[0]
        self.host = f"127.0.0.1:{port}"
        settings = {
            "version": 0.1,
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
            "http": {"addr": self.host},
        }
        if login:
            (folder / "htpasswd").write_text(HTPASSWD)
            settings["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
        # Every JSON document is one of YAML.
        file = folder / f"{port}.yml"
        file.write_text(json.dumps(settings))
        self._server = subprocess.Popen([program, "serve", file], stderr=subprocess.DEVNULL)

    def __enter__(self):
        wait_for(self._answers)
        return self

    def __exit__(self, *_):
        self._server.kill()
        self._server.wait()

    def _answers(self) -> bool:
        assert self._server.poll() is None
        try:
            return requests.get(f"http://{self.host}/v2/", timeout=10).status_code in (200, 401)
        except requests.ConnectionError:
            return False

    def push(self, repository: str, tag: str, files: dict[str, bytes]) -> str:
        """Put an artifact there as `oras push` does: the digest of its manifest."""
        place = f"http://{self.host}/v2/{repository}"

        def blob(content: bytes, **more: object) -> dict[str, object]:
            found = f"sha256:{hashlib.sha256(content).hexdigest()}"
            upload = requests.post(f"{place}/blobs/uploads/", timeout=60).headers["Location"]
            headers = {"Content-Type": "application/octet-stream"}
            requests.put(upload, params={"digest": found}, data=content, headers=headers, timeout=60).raise_for_status()
            return {"mediaType": "application/octet-stream", "digest": found, "size": len(content), **more}

        layers = [
            blob(content, annotations={"org.opencontainers.image.title": name}) for name, content in files.items()
        ]
        kind = "application/vnd.oci.image.manifest.v1+json"
        manifest = {"schemaVersion": 2, "mediaType": kind, "config": blob(b"{}"), "layers": layers}
        answer = requests.put(
            f"{place}/manifests/{tag}", data=json.dumps(manifest), headers={"Content-Type": kind}, timeout=60
        )
        answer.raise_for_status()
        return answer.headers["Docker-Content-Digest"]


class Front:
    """A registry that wants a token of its own service, and redirects to another server for its blobs.

    Attributes:
        host: where it is.
        storage: the port of the other server.
        instead: what is answered for `manifests` or `blobs` instead of what the registry has.
        storage_asks: whether the other server wants a token of a service of its own.
        tls: with a certificate, it is also a proxy to every server of HTTPS, and answers in its place.
        realm: where tokens are.
    """

    def __init__(self, registry: Registry, redirect: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self._servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) for _ in range(2)]
        for server in self._servers:
            server.front = self
        self.host = f"127.0.0.1:{self._servers[0].server_port}"
        self.storage = self._servers[1].server_port
        self.behind = registry.host
        self.tls = tls
        self.realm = "https://auth.docker.io/token" if tls else f"http://{self.host}/token"
        self.redirect = redirect or f"http://127.0.0.1:{self.storage}"
        self.instead: dict[str, bytes] = {}
        self.storage_asks = False
        self.requests: list[tuple[int, str, str | None]] = []

    def seen(self, part: str) -> list[tuple[int, str | None]]:
        """Of the requests whose path has a part: the port and the credentials."""
        return [(port, given) for port, path, given in self.requests if part in path]

    def __enter__(self):
        for server in self._servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        front, port, given = self.server.front, self.server.server_port, self.headers["Authorization"]
        front.requests.append((port, self.path, given))
        if port == front.storage and front.storage_asks:
            challenge = f'Bearer realm="{front.redirect}/another-token"'
            self.answer(401, b"", **{"WWW-Authenticate": challenge})
        elif port == front.storage:
            self.relay()
        elif self.path == "/token?service=tests&scope=pull":
            self.answer(200 if given == BASIC else 401, b'{"token": "a-token"}')
        elif given != BEARER:
            challenge = f'Bearer realm="{front.realm}",service="tests",scope="pull"'
            self.answer(401, b"", **{"WWW-Authenticate": challenge})
        elif "/blobs/" in self.path and not front.tls:
            self.answer(307, b"", Location=f"{front.redirect}{self.path}")
        else:
            self.relay()

    def do_POST(self):
        self.server.front.requests.append((self.server.server_port, self.path, self.headers["Authorization"]))
        form = dict(parse_qsl(self.rfile.read(int(self.headers["Content-Length"])).decode()))
        right = {"grant_type": "refresh_token", "refresh_token": IDENTITY, "service": "tests", "scope": "pull"}
        known = self.path == "/token" and right.items() <= form.items()
        self.answer(200 if known else 401, b'{"access_token": "a-token"}')

    def do_CONNECT(self):
        self.server.front.requests.append((self.server.server_port, self.path, None))
        self.answer(200, b"")
        with self.server.front.tls.wrap_socket(self.connection, server_side=True) as inside:
            _Handler(inside, self.client_address, self.server)
        self.close_connection = True

    def relay(self):
        for kind, content in self.server.front.instead.items():
            if f"/{kind}/" in self.path:
                self.answer(200, content)
                return
        url = f"http://{self.server.front.behind}{self.path}"
        found = requests.get(url, headers={"Accept": self.headers["Accept"]}, timeout=60)
        self.answer(found.status_code, found.content)

    def answer(self, status, content, **headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass
