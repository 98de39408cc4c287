"""The nine well-known networks of the onnx package (IR version 3, weights as inputs, one row only), built and served.

Each is built as it is shipped and with random weights, and a real Triton is asked for both over gRPC and HTTP.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import light_models
import numpy as np
import onnxruntime
import pytest

from plansmith_build import BuildOptions, build
from plansmith_build.repository.config import config_from_text, specs_from_config
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from plansmith_build import BuildResult

    Arrays = dict[str, np.ndarray]

# The first test waits for eighteen builds, and the first that asks the server for it to load them.
pytestmark = pytest.mark.timeout(2400)

NAMES = light_models.light_model_names()
ROWS = 4
# Relative, for FP32. The absolute part lets probabilities be wrong that no one would look at.
RELATIVE, ABSOLUTE = 1e-3, 1e-7


class Networks(NamedTuple):
    """What was built, by the network's name, and what the original files with random weights answer."""

    repository: Path
    shipped: dict[str, BuildResult]
    random: dict[str, BuildResult]
    expected: dict[str, Arrays]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    folder = tmp_path_factory.mktemp("light")
    made = Networks(folder / "model_repository", {}, {}, {})
    for name in NAMES:
        options = BuildOptions(made.repository, serve=False)  # one server loads them all together, later
        made.shipped[name] = build(light_models.light_model_path(name), options)
        original = light_models.with_random_weights(name, folder)
        made.expected[name] = answers_row_by_row(original, light_models.distinct_rows(name, ROWS))
        made.random[name] = build(original, replace(options, name=f"{name}_random"))
        original.unlink()
    return made


@pytest.fixture(scope="module")
def server(networks: Networks) -> Iterator[TritonServer]:
    options = ServerOptions(repository=networks.repository, http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer(options) as running:
        yield running


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_built_for_batches_and_its_constant_weights_stay_few_bytes(name, networks):
    result = networks.shipped[name]
    assert result.manifest.graph.nodes_after < result.manifest.graph.nodes_before
    assert (result.path / "model.onnx").stat().st_size < 2_000_000
    for built in (result, networks.random[name]):
        assert built.manifest.batching.max_batch_size == 32
        assert built.manifest.verification.rows_together == 3
        assert_config_fits(built, *light_models.golden(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_served_network_gives_its_expected_output_in_every_row(name, server):
    inputs, expected = light_models.golden(name)
    three = {key: np.concatenate([array, array / 2, array]) for key, array in inputs.items()}
    for url in (server.grpc_url, server.http_url):
        with Client(url) as client:
            answer = client.model(name).infer(three)
        for key, reference in expected.items():
            assert answer[key].shape == (3, *reference.shape[1:])
            np.testing.assert_allclose(answer[key][:1], reference, RELATIVE, ABSOLUTE)
            np.testing.assert_allclose(answer[key][2:], reference, RELATIVE, ABSOLUTE)


@pytest.mark.parametrize("name", NAMES)
def test_a_served_network_computes_each_row_as_the_original_file_does(name, networks, server):
    rows = light_models.distinct_rows(name, ROWS)
    for url in (server.grpc_url, server.http_url):
        with Client(url) as client:
            answer = client.model(f"{name}_random").infer(rows)
        for key, reference in networks.expected[name].items():
            assert_rows_differ(reference)
            np.testing.assert_allclose(answer[key], reference, RELATIVE, ABSOLUTE)


def answers_row_by_row(path: Path, rows: Arrays) -> Arrays:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # each of the weights that IR version 3 lists as inputs is a warning otherwise
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    answers = [session.run(None, {key: array[row : row + 1] for key, array in rows.items()}) for row in range(ROWS)]
    return {name: np.concatenate([answer[index] for answer in answers]) for index, name in enumerate(names)}


def assert_rows_differ(reference: np.ndarray) -> None:
    """A network that answers the same to everything would pass for one that mixes up its rows."""
    flat = reference.reshape(len(reference), -1)
    scale = np.abs(flat).max()
    for one in range(len(flat)):
        for other in range(one):
            assert np.abs(flat[one] - flat[other]).max() > 20 * RELATIVE * scale


def assert_config_fits(result: BuildResult, inputs: Arrays, outputs: Arrays) -> None:
    config = config_from_text((result.path.parent / "config.pbtxt").read_text())
    assert (config.backend, config.max_batch_size, config.HasField("dynamic_batching")) == ("onnxruntime", 32, True)
    for declared, arrays in [(config.input, inputs), (config.output, outputs)]:
        specs = specs_from_config(declared, batched=True)
        assert {spec.name: (spec.datatype, spec.shape) for spec in specs} == {
            key: ("FP32", (-1, *array.shape[1:])) for key, array in arrays.items()
        }
