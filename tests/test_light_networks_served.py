"""The nine well-known networks of the onnx package, built, served by a real Triton and asked over gRPC and HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import light_models
import numpy as np
import onnxruntime
import pytest

from plansmith_build import BuildOptions, build
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# The first test waits for eighteen builds and for the server to load them.
pytestmark = pytest.mark.timeout(600)

NAMES = light_models.light_model_names()
ROWS = 4
RELATIVE, ABSOLUTE = 1e-3, 1e-7


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TritonServer, dict[str, dict[str, np.ndarray]]]]:
    """A server with each network twice, as shipped and with random weights, and what the latter must answer."""
    folder = tmp_path_factory.mktemp("light")
    repository = folder / "model_repository"
    expected = {}
    for name in NAMES:
        build(light_models.light_model_path(name), BuildOptions(repository=repository))
        original = light_models.with_random_weights(name, folder)
        expected[name] = answers_row_by_row(original, light_models.distinct_rows(name, ROWS))
        build(original, BuildOptions(repository=repository, name=f"{name}_random"))
        original.unlink()
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer(options) as server:
        yield server, expected


@pytest.mark.parametrize("name", NAMES)
def test_a_served_network_gives_its_expected_output(name, served):
    server, _ = served
    inputs, expected = light_models.golden(name)
    for url in (server.grpc_url, server.http_url):
        with Client(url) as client:
            answer = client.model(name).infer(inputs)
        for key, reference in expected.items():
            np.testing.assert_allclose(answer[key], reference, RELATIVE, ABSOLUTE)


@pytest.mark.parametrize("name", NAMES)
def test_a_served_network_computes_each_row_as_the_original_file_does(name, served):
    server, expected = served
    rows = light_models.distinct_rows(name, ROWS)
    for url in (server.grpc_url, server.http_url):
        with Client(url) as client:
            answer = client.model(f"{name}_random").infer(rows)
        for key, reference in expected[name].items():
            np.testing.assert_allclose(answer[key], reference, RELATIVE, ABSOLUTE)


def answers_row_by_row(path: Path, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # each of the weights that IR version 3 lists as inputs is a warning otherwise
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    answers = [session.run(None, {key: array[row : row + 1] for key, array in rows.items()}) for row in range(ROWS)]
    return {name: np.concatenate([answer[index] for answer in answers]) for index, name in enumerate(names)}
