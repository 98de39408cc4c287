"""The container engine, once a session, and digits to ask about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from containers import ROOT, engine_here
from custom_resources import Schemas
from kubernetes_tools import KubernetesTools

if TYPE_CHECKING:
    from containers import Engine


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Podman, with the image of our server built."""
    return engine_here(tmp_path_factory.mktemp("podman"))


@pytest.fixture(scope="session")
def tools(pytestconfig: pytest.Config) -> KubernetesTools:
    """Helm and kubectl."""
    return KubernetesTools(pytestconfig.cache.mkdir("kubernetes"))


@pytest.fixture(scope="session")
def schemas(pytestconfig: pytest.Config) -> Schemas:
    """What a cluster compares our objects with."""
    return Schemas(pytestconfig.cache.mkdir("custom-resources"))


@pytest.fixture(scope="session")
def digits() -> dict[str, np.ndarray]:
    """What the committed model has not seen: images FP32 [360, 8, 8] and labels INT64 [360]."""
    with np.load(ROOT / "plansmith/src/plansmith/demo/digits/held_out.npz") as arrays:
        return dict(arrays)
