"""What the client's tests share: one Triton, for modules that neither load models nor stop it."""

from __future__ import annotations

import pytest
from client_servers import SHARED, triton_with


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with triton_with(SHARED, tmp_path_factory.mktemp("shared")) as running:
        yield running
