"""The Triton servers of the client's tests: all models of `models_python` and `models_client`, on free ports."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

from plansmith_server import ServerOptions, TritonServer

# What the server that modules share has loaded; those that load models or stop it have servers of their own.
SHARED = ("accumulate", "add", "cramped", "double", "every_type", "failing", "picky", "repeat", "slow")
FOLDERS = tuple(Path(__file__).parents[1] / name for name in ("models_python", "models_client"))


@contextlib.contextmanager
def triton_with(models: tuple[str, ...], folder: Path, **options):
    """A server with explicit model control whose repository has all models, and which has these loaded."""
    repository = folder / "models"
    for source in FOLDERS:
        shutil.copytree(source, repository, dirs_exist_ok=True)
    given = ServerOptions(
        repository=repository,
        http_port=options.pop("http_port", 0),
        grpc_port=options.pop("grpc_port", 0),
        metrics_port=0,
        config_name="none",
        control="explicit",
        open_admin=True,  # the same calls are tried over HTTP and over gRPC
        models=models,
        triton_arguments=(
            "--cache-config=local,size=1048576",
            # Without a file, trace settings cannot be changed.
            f"--trace-config=triton,file={folder / 'trace.json'}",
            *options.pop("arguments", ()),
        ),
        **options,
    )
    with TritonServer(given) as running:
        yield running


@contextlib.contextmanager
def held(*servers: TritonServer):
    """While the model `slow` of one of some servers computes a request of -1, which it does until the block ends."""
    files = [server.options.repository / "slow" / "held" for server in servers]
    until = time.monotonic() + 60
    while not (found := [file for file in files if file.exists()]):
        assert time.monotonic() < until, "no such request came"
        time.sleep(0.01)
    try:
        yield
    finally:
        found[0].unlink(missing_ok=True)
