"""Fixtures for pytest: a real Triton over a model repository, started once a session on free ports.

Write `pytest_plugins = ["plansmith_server.pytest_plugin"]` into the conftest.py beside pytest's configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from plansmith_server.launcher.options import ServerOptions
from plansmith_server.launcher.process import TritonServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["triton_options", "triton_repository", "triton_server"]


@pytest.fixture(scope="session")
def triton_repository(pytestconfig: pytest.Config) -> Path:
    """The repository to serve: `model_repository` beside pytest's configuration. Define it anew for another one."""
    return pytestconfig.rootpath / "model_repository"


@pytest.fixture(scope="session")
def triton_options(triton_repository: Path) -> ServerOptions:
    """How to serve it: every model, on free ports of loopback, and a model that cannot be loaded is an error."""
    return ServerOptions(repository=triton_repository, http_port=0, grpc_port=0, metrics_port=0, strict=True)


@pytest.fixture(scope="session")
def triton_server(triton_options: ServerOptions) -> Iterator[TritonServer]:
    """The running server: `triton_server.grpc_url` and `http_url` are for `plansmith_client.Client`.

    Raises:
        ServerError: it could not be started, or a model could not be loaded.
    """
    with TritonServer(triton_options) as server:
        yield server
