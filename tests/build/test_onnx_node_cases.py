"""200 of onnx's own cases for operators: built, or refused with a sentence, and all that are published are served."""

from __future__ import annotations

import random
import warnings
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

from plansmith_build import BuildOptions, build
from plansmith_build.errors import BuildError, InputsNeeded
from plansmith_build.repository.config import config_from_text
from plansmith_build.serving import as_served
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Arrays = dict[str, np.ndarray]

# The first test waits for 200 builds, and the first that asks the server for it to load a process for each model.
pytestmark = pytest.mark.timeout(2400)

CASES = 200
# Above half of them are served; the rest has types and operators that ONNX Runtime or Triton does not have.
LEAST_PUBLISHED = 160


class Published(NamedTuple):
    """A case that was published, and what it asks: inputs and outputs of its first data set."""

    file: Path
    config: object
    inputs: Arrays
    outputs: Arrays
    relative: float
    absolute: float


class Outcome(NamedTuple):
    """What became of all cases; `refused` has the errors by the case's name."""

    repository: Path
    published: dict[str, Published]
    refused: dict[str, Exception]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("cases")
    made = Outcome(folder / "model_repository", {}, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # onnx computes its cases as they are asked for
        cases = sorted(load_model_tests(kind="node"), key=lambda case: case.name)
    for case in random.Random(0).sample(cases, CASES):
        file = folder / f"{case.name}.onnx"
        file.write_bytes(case.model.SerializeToString())
        given, expected = case.data_sets[0]
        inputs = dict(zip([value.name for value in case.model.graph.input], map(as_array, given), strict=False))
        outputs = dict(zip([value.name for value in case.model.graph.output], map(as_array, expected), strict=True))
        options = BuildOptions(made.repository, case.name, serve=False)
        try:
            try:
                result = build(file, options)
            except InputsNeeded:
                result = build(file, with_samples(options, inputs, folder / f"{case.name}.npz"))
        except Exception as error:  # noqa: BLE001 - a test looks at what was raised
            made.refused[case.name] = error
        else:
            config = config_from_text((result.path.parent / "config.pbtxt").read_text())
            made.published[case.name] = Published(file, config, inputs, outputs, case.rtol, case.atol)
    return made


@pytest.fixture(scope="module")
def server(outcome: Outcome) -> Iterator[TritonServer]:
    options = ServerOptions(repository=outcome.repository, http_port=0, grpc_port=0, metrics_port=0, start_timeout=1200)
    with TritonServer(options) as running:
        yield running


def test_a_case_is_published_or_refused_with_a_sentence(outcome):
    for name, error in outcome.refused.items():
        assert isinstance(error, BuildError), f"{name}: {error!r}"
        assert error.exit_code in {2, 3}, f"{name}: {error}"
        assert len(str(error)) > 30, name
    assert len(outcome.published) + len(outcome.refused) == CASES
    assert len(outcome.published) >= LEAST_PUBLISHED, Counter(type(e).__name__ for e in outcome.refused.values())


def test_the_server_loads_every_case_that_was_published(outcome, server):
    assert {state.name: state.reason for state in server.models() if not state.is_ready} == {}
    assert {state.name for state in server.models()} == set(outcome.published)


def test_every_case_is_answered_as_onnx_expects(outcome, server):
    wrong = {}
    with Client(server.grpc_url, timeout=120) as client:
        for name, case in outcome.published.items():
            try:
                check(client.model(name).infer(as_sent(case)), case)
            except Exception as error:  # noqa: BLE001 - all that are wrong are named together
                wrong[name] = f"{type(error).__name__}: {error}"
    assert wrong == {}


def as_array(value: object) -> np.ndarray:
    """Values of types that numpy does not have are messages."""
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def with_samples(options: BuildOptions, inputs: Arrays, path: Path) -> BuildOptions:
    """The same with the case's own inputs, a row of each, as a user who is told that inputs are needed."""
    np.savez(path, **{name: array[np.newaxis] for name, array in inputs.items()})
    return BuildOptions(options.repository, options.name, serve=False, samples=str(path))


def as_sent(case: Published) -> Arrays:
    inputs = as_served(case.inputs, case.config.input)
    return {name: np.atleast_1d(array) for name, array in inputs.items()}


def check(answer: Arrays, case: Published) -> None:
    expected = as_served(case.outputs, case.config.output)
    for name, array in expected.items():
        compare(answer[name], np.atleast_1d(array), case)


def compare(given: np.ndarray, expected: np.ndarray, case: Published) -> None:
    assert given.shape == expected.shape, (given.shape, expected.shape)
    if expected.dtype.kind in "OUS":
        text = [entry.decode() if isinstance(entry, bytes) else entry for entry in given.reshape(-1)]
        assert text == [str(entry) for entry in expected.reshape(-1)]
        return
    np.testing.assert_allclose(given.astype(np.float64), expected.astype(np.float64), case.relative, case.absolute)
