"""Podman for the tests: installed from Debian where it is missing, a Debian base image, and our own image upon it.

No registry is asked. The base image is made by mmdebstrap from Debian's archive, as `debian:bookworm-slim` is; images
stay on the machine, so that a second run builds only what changed.
"""

from __future__ import annotations

import fcntl
import hashlib
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


class Engine:
    """A container engine that works here.

    Attributes:
        environment: what `podman`, and programs that call it, are to be started with.
    """

    def __init__(self, folder: Path) -> None:
        settings = folder / "containers.conf"
        settings.write_text(SETTINGS)
        self.environment = {**os.environ, "CONTAINERS_CONF": str(settings)}

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
    with (Path(tempfile.gettempdir()) / "plansmith-tests-podman.lock").open("w") as lock:
        # One worker of pytest installs and builds, the others find it done.
        fcntl.flock(lock, fcntl.LOCK_EX)
        install(*{package for place, package in PACKAGES.items() if shutil.which(place) is None})
        engine = Engine(folder)
        if engine.run("image", "exists", BASE_IMAGE, check=False).returncode:
            _make_base(engine, folder)
        tried = engine.run("run", "--rm", BASE_IMAGE, "true", check=False)
        if tried.returncode:
            pytest.skip(f"this machine runs no containers: {tried.stderr.strip()}")
        _build(engine)
    return engine


def install(*packages: str) -> None:
    """Install packages of Debian, or skip the test with the way to do so."""
    if not packages:
        return
    # Other tests may be installing, too.
    words = [
        "apt-get",
        "-o",
        "DPkg::Lock::Timeout=600",
        "install",
        "--yes",
        "--no-install-recommends",
        *sorted(packages),
    ]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"not installed: {' '.join(words)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], words):
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr}"


def stand_in(engine: Engine, image: str, package: str, program: str = "") -> None:
    """Debian's package of a program, under the name of the image that a compose file takes it from.

    `program` is what the image starts, with the command that the file gives as its arguments.
    """
    local = f"localhost/plansmith-tests/{package}"
    if engine.run("image", "exists", local, check=False).returncode:
        containerfile = (
            f"FROM {BASE_IMAGE}\nRUN apt-get update -qq && apt-get install -qqy --no-install-recommends {package}"
        )
        if program:
            containerfile += f'\nENTRYPOINT ["{program}"]'
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "Containerfile").write_text(containerfile)
            engine.run("build", "--network=host", *_build_mounts(), "--tag", local, folder)
    engine.run("tag", local, image)


def build_image(engine: Engine, containerfile: str | Path, tag: str) -> None:
    """Build an image of ours upon the base image."""
    words = ("--network=host", *_build_mounts(), f"--build-arg=BASE={BASE_IMAGE}", "--tag", tag)
    engine.run("build", *words, "--file", ROOT / containerfile, ROOT, timeout=3000)


def _make_base(engine: Engine, folder: Path) -> None:
    archive = folder / "debian.tar"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates", "bookworm", archive]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    engine.run("import", archive, BASE_IMAGE)
    archive.unlink()


def _build_mounts() -> list[str]:
    return [f"--volume={place}:{place}:ro" for place in BUILD_MOUNTS if Path(place).exists()]


def _build(engine: Engine) -> None:
    """Build our image upon the base image, unless it is there of just these files."""
    containerfile = ROOT / "deploy/images/Containerfile.server"
    seen = hashlib.sha256()
    for file in (containerfile, ROOT / "requirements.lock", *sorted((ROOT / "server/src").rglob("*.py"))):
        seen.update(file.read_bytes())
    built = f"{SERVER_IMAGE.partition(':')[0]}:{seen.hexdigest()[:12]}"
    if engine.run("image", "exists", built, check=False).returncode:
        build_image(engine, containerfile, built)
    engine.run("tag", built, SERVER_IMAGE)
