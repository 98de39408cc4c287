"""What the tests share: the `plansmith` command as a user runs it, an empty repository, the committed one served."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
from forked_commands import ForkedCommands
from hypothesis import settings

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from plansmith_server import TritonServer

ROOT = Path(__file__).parent.parent
COMMITTED_REPOSITORY = ROOT / "model_repository"

# Where the tests run in the background of a shell, Ctrl-C is ignored, and would be by everything that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Every run tries the same examples, however long one takes: what is found is found by the change that brings it.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


class Plansmith(Protocol):
    """Runs `plansmith ...` and checks the exit code."""

    def __call__(
        self, *words: str | Path, expect: int = 0, cwd: Path | None = None, timeout: float = 240
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def plansmith() -> Iterator[Plansmith]:
    # Wide and without colour, so that a sentence stands on one line.
    environment = {**os.environ, "COLUMNS": "300", "NO_COLOR": "1"}
    commands = ForkedCommands(Path(sys.executable).with_name("plansmith"), environment)

    def run(
        *words: str | Path, expect: int = 0, cwd: Path | None = None, timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        done = commands.run([*map(str, words)], cwd or Path.cwd(), timeout)
        said = f"plansmith {' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == expect, f"exit code {done.returncode} instead of {expect}: {said}"
        assert "Traceback" not in done.stderr, said
        return done

    yield run
    commands.close()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty model repository."""
    folder = tmp_path / "model_repository"
    folder.mkdir()
    return folder


@pytest.fixture
def served(repository: Path) -> Path:
    """A repository with one small model of one instance."""
    from serving import add_double  # noqa: PLC0415

    add_double(repository, "double", 'backend: "onnxruntime" instance_group { kind: KIND_CPU count: 1 }')
    return repository


@pytest.fixture
def start() -> Iterator[Any]:
    """Starts `plansmith serve`, as often as it is called, and ends it."""
    from serving import Serving  # noqa: PLC0415

    with contextlib.ExitStack() as stack:

        def start_serving(*arguments: Any, **options: Any) -> Serving:
            serving = Serving(*arguments, **options)
            stack.callback(serving.process.communicate)
            stack.callback(serving.process.kill)
            return serving

        yield start_serving


@pytest.fixture(scope="session")
def committed_server() -> Iterator[TritonServer]:
    """A server over the repository that is committed, as a fresh clone has it."""
    from plansmith_server import ServerOptions, TritonServer  # noqa: PLC0415 - most tests need no server

    options = ServerOptions(repository=COMMITTED_REPOSITORY, http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer(options) as server:
        yield server


@pytest.fixture(scope="session")
def held_out_file() -> Path:
    """The digits that the committed model has not seen: images FP32 [360, 8, 8] and labels INT64 [360], as .npz.

    Beside digits.onnx and labels.txt, as examples/digits/train.py makes them; committed, so only to be read.
    """
    return ROOT / "plansmith/src/plansmith/demo/digits/held_out.npz"


@pytest.fixture(scope="session")
def held_out(held_out_file: Path) -> dict[str, np.ndarray]:
    """The arrays of `held_out_file` by name."""
    with np.load(held_out_file) as arrays:
        return dict(arrays)
