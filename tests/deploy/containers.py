"""Podman for the tests: installed from Debian where it is missing, a Debian base image, and our own image upon it.

No registry is asked. The base image is made by mmdebstrap from Debian's archive, as `debian:bookworm-slim` is; images
stay on the machine, so that a second run builds only what changed. Python's packages come from the cache of uv, which
installed them for the tests.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
BASE_IMAGE = "localhost/plansmith-tests/debian:bookworm"
SERVER_IMAGE = "localhost/plansmith-tests/server:latest"
PACKAGES = {
    "podman": "podman",
    "runc": "runc",
    "mmdebstrap": "mmdebstrap",
    "iptables": "iptables",
    "/usr/lib/podman/netavark": "netavark",
    "/usr/lib/podman/aardvark-dns": "aardvark-dns",
    "/usr/bin/prometheus": "prometheus",
    "/usr/bin/prometheus-alertmanager": "prometheus-alertmanager",
}
# A build machine that is itself a container has no systemd, and lets nobody raise a limit.
SETTINGS = """
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
events_logger = "file"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
"""
# HTTPS through a proxy of the machine, if there is one.
BUILD_MOUNTS = ("/etc/ssl/certs", "/etc/pip.conf")
UV_SETTINGS = 'cache-dir = "/uv-cache"\nnative-tls = true\n'
# Programs of Debian under the names of images that a compose file takes them from, two of them from this machine.
STAND_INS = f"""
FROM {BASE_IMAGE} AS haproxy
RUN apt-get update --quiet=2 && apt-get install --quiet=2 --yes --no-install-recommends haproxy
FROM {BASE_IMAGE} AS prometheus
COPY bin/prometheus /usr/bin/
ENTRYPOINT ["prometheus"]
FROM {BASE_IMAGE} AS prometheus-alertmanager
COPY bin/prometheus-alertmanager /usr/bin/
COPY share/prometheus/alertmanager /usr/share/prometheus/alertmanager
ENTRYPOINT ["prometheus-alertmanager"]
"""


class Engine:
    """A container engine that works here.

    Attributes:
        environment: what `podman`, and programs that call it, are to be started with.
    """

    def __init__(self, folder: Path) -> None:
        settings = folder / "containers.conf"
        settings.write_text(SETTINGS)
        self.environment = {**os.environ, "CONTAINERS_CONF": str(settings)}
        self._folder = folder
        (folder / "uv.toml").write_text(UV_SETTINGS)
        (folder / "Containerfile").write_text(STAND_INS)
        places = [(place, place) for place in BUILD_MOUNTS if Path(place).exists()]
        places += [(folder / "uv.toml", "/etc/uv/uv.toml")]
        mounts = [f"--volume={place}:{target}:ro" for place, target in places]
        self._build = ("build", "--network=host", *mounts, f"--volume={_uv_cache()}:/uv-cache")

    def run(self, *words: str | Path, check: bool = True, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run `podman ...`."""
        done = subprocess.run(
            ["podman", *map(str, words)],
            check=False,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=timeout,
        )
        if check:
            assert done.returncode == 0, f"podman {' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
        return done

    def out(self, *words: str | Path) -> str:
        """What `podman ...` prints."""
        return self.run(*words).stdout.strip()

    def build(self, containerfile: str, tag: str, *words: str) -> None:
        """Build an image of ours upon the base image; another worker of pytest that builds is waited for."""
        file = ("--file", ROOT / "deploy/images" / containerfile, f"--build-arg=BASE={BASE_IMAGE}")
        with _alone():
            self.run(*self._build, *file, *words, "--tag", tag, ROOT, timeout=3000)

    def stand_in(self, image: str, program: str) -> None:
        """Debian's HAProxy, Prometheus or Alertmanager under the name of an image; it takes the command of that."""
        file = ("--file", self._folder / "Containerfile", "--target", program)
        self.run(*self._build, *file, "--tag", image, "/usr")

    @contextmanager
    def container(self, *words: str | Path) -> Iterator[str]:
        """A container of `podman run --detach ...`: its id. It is removed at the end."""
        identity = self.out("run", "--detach", *words)
        try:
            yield identity
        finally:
            self.run("rm", "--force", "--time", "0", identity)

    def address(self, container: str, port: int) -> str:
        """Where on this machine a published port of a container is reached."""
        return self.out("port", container, f"{port}/tcp")


def engine_here(folder: Path) -> Engine:
    """An engine with our image built, or a skipped test that says what is missing."""
    if os.geteuid() != 0:
        pytest.skip("containers are run by root here")
    engine = Engine(folder)
    with _alone():
        install(*{package for place, package in PACKAGES.items() if shutil.which(place) is None})
        if engine.run("image", "exists", BASE_IMAGE, check=False).returncode:
            _make_base(engine, folder)
    tried = engine.run("run", "--rm", BASE_IMAGE, "true", check=False)
    if tried.returncode:
        pytest.skip(f"this machine runs no containers: {tried.stderr.strip()}")
    engine.build("Containerfile.server", SERVER_IMAGE)
    return engine


def started(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What deploy/start-triton.sh starts, a word a line, in a folder where tritonserver only shows its words."""
    shown = folder / "tritonserver"
    shown.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    shown.chmod(0o755)
    environment = {**os.environ, "OTLP_TRACES_URL": "", "PATH": f"{folder}:{os.environ['PATH']}", **variables}
    command = ["sh", ROOT / "deploy/start-triton.sh", "--model-repository=/models", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)


def install(*packages: str) -> None:
    """Install packages of Debian, or skip the test with the way to do so."""
    if not packages:
        return
    # Other tests may be installing, too.
    installing = "apt-get -o DPkg::Lock::Timeout=600 install --yes --no-install-recommends"
    words = [*installing.split(), *sorted(packages)]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"not installed: {' '.join(words)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], words):
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"


def _make_base(engine: Engine, folder: Path) -> None:
    archive = folder / "debian.tar"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates", "bookworm", archive]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    engine.run("import", archive, BASE_IMAGE)
    archive.unlink()


@contextmanager
def _alone() -> Iterator[None]:
    """One worker of pytest installs and builds, the others find it done."""
    with (Path(tempfile.gettempdir()) / "plansmith-tests-podman.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _uv_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("UV_CACHE_DIR") or Path(home) / "uv")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
