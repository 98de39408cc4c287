"""The container engine, once a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from containers import Engine, engine_here

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Podman, with the image of our server built."""
    return engine_here(tmp_path_factory.mktemp("podman"))
