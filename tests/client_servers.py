"""The Triton servers of the client's tests: all models of `models_python` and `models_client`, on free ports."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

from plansmith_server import ServerOptions, TritonServer

FOLDERS = tuple(Path(__file__).parent / name for name in ("models_python", "models_client"))


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


def settled(count):
    """What a function counts on a server, once that has been the same for a fifth of a second.

    Triton counts a request after its answer has left: whoever asks at once may still miss the last one.
    """
    counted, since = count(), time.monotonic()
    while time.monotonic() - since < 0.2:
        time.sleep(0.02)
        if (now := count()) != counted:
            counted, since = now, time.monotonic()
    return counted
