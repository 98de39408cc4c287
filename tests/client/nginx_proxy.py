"""nginx before a server: TLS, client certificates and a bearer token, over HTTP and gRPC, on loopback."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

NGINX = shutil.which("nginx") or ("/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else None)
TOKEN = "a-secret-token.42"
PREFIX = "/models/eu"

SERVER = """
  server {{
    listen 127.0.0.1:{port} ssl{http2};
    ssl_certificate {folder}/{certificate}.pem;
    ssl_certificate_key {folder}/{certificate}.key;
    {verify}
    client_max_body_size 0;
    location / {{
      {check}
      {forward};
    }}
    {gateway}
  }}
"""
CONFIG = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 1;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
{servers}
}}
"""


@dataclass(frozen=True)
class Proxy:
    """Where nginx listens: `token` wants the bearer token, `mutual` a client certificate, `expired` has an old one."""

    folder: Path
    ports: dict[tuple[str, str], int]

    def url(self, face: str, wants: str) -> str:
        kind = "grpc" if face.startswith("grpc") else "http"
        return f"{'grpcs' if kind == 'grpc' else 'https'}://127.0.0.1:{self.ports[kind, wants]}"


def make_certificates(folder: Path) -> None:
    """An authority; certificates for 127.0.0.1 and the name models.example, one of them expired; and a client's."""

    def openssl(*words: str | Path) -> None:
        subprocess.run(["openssl", *words], check=True, capture_output=True, cwd=folder)

    authority = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.pem"
    openssl(*authority.split())
    here = "IP:127.0.0.1,DNS:models.example"
    for name, names, days in (("server", here, 2), ("expired", here, -1), ("client", "DNS:client", 2)):
        openssl(*f"req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr".split())
        (folder / f"{name}.ext").write_text(f"subjectAltName={names}")
        sign = f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile {name}.ext"
        openssl(*sign.split(), "-out", f"{name}.pem")


@contextlib.contextmanager
def nginx_before(server, folder: Path):
    """nginx with certificates of its own, before a Triton."""
    make_certificates(folder)
    http, grpc = server.http_url, server.grpc_url
    ports, blocks = {}, []
    for kind, forward in (("http", f"proxy_pass {http}"), ("grpc", f"grpc_pass grpc://{grpc}")):
        for wants in ("token", "mutual", "expired"):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
            ports[kind, wants] = port
            verify = f"ssl_verify_client on; ssl_client_certificate {folder}/ca.pem;" if wants == "mutual" else ""
            check = f'if ($http_authorization != "Bearer {TOKEN}") {{ return 401; }}' if wants == "token" else ""
            http2 = " http2" if kind == "grpc" else ""
            # What a gateway puts before the path, and takes away again.
            gateway = f"location {PREFIX}/ {{ {check} {forward}/; }}" if kind == "http" else ""
            certificate = "expired" if wants == "expired" else "server"
            about = {"folder": folder, "certificate": certificate, "verify": verify, "check": check, "forward": forward}
            blocks.append(SERVER.format(port=port, gateway=gateway, http2=http2, **about))
    (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, servers="".join(blocks)))
    with subprocess.Popen([NGINX, "-p", folder, "-e", folder / "error.log", "-c", folder / "nginx.conf"]) as nginx:
        try:
            _wait(ports, folder)
            yield Proxy(folder, ports)
        finally:
            nginx.terminate()


def _wait(ports: dict[tuple[str, str], int], folder: Path) -> None:
    end = time.monotonic() + 20
    for port in ports.values():
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                log = folder / "error.log"
                assert time.monotonic() < end, log.read_text() if log.exists() else "nginx does not listen"
                time.sleep(0.05)
            else:
                break
