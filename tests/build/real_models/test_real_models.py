"""Models that people use, out of packages of the index: built alone and with data, served by one real Triton."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnxruntime
import pytest
from real_inputs import Originals
from real_models import REAL_MODELS
from wheels import onnx_files

from plansmith_build import BuildOptions, build
from plansmith_build.repository.config import config_from_text
from plansmith_build.search.search import SearchOptions
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from plansmith_build import BuildResult

    Arrays = dict[str, np.ndarray]

# The first test waits for all builds.
pytestmark = pytest.mark.timeout(2400)

CALLERS = 8
TOLERANCE = 1e-3
# Where a picture has no text, every probability of the detector is near zero; builds allow as much.
LEAST_DIFFERENCE = 1e-6


class Question(NamedTuple):
    """A request of a served model, and what the file as it came answers."""

    model: str
    inputs: Arrays
    expected: Arrays
    tolerance: float


class Built(NamedTuple):
    """A model built twice, and what is asked of both."""

    plain: BuildResult
    with_data: BuildResult
    questions: list[Question]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> dict[str, Built]:
    packages = tuple(sorted({model.package for model in REAL_MODELS.values()}))
    files = onnx_files(packages, pytestconfig.cache.mkdir("wheels"))
    originals = Originals(pytestconfig.cache.mkdir("wheels"))
    folder = tmp_path_factory.mktemp("real")
    repository = folder / "model_repository"
    made = {}
    for name, model in REAL_MODELS.items():
        (file,) = (path for path in files.values() if path.name == model.file)
        data = folder / f"{name}.npz"
        np.savez(data, **model.data(originals))
        search = SearchOptions(
            str(data), targets=(model.target,), precisions=model.precisions, max_drop=0.3, max_error=0.3
        )
        plain = build(file, BuildOptions(repository, name, serve=False))
        searched = build(file, BuildOptions(repository, f"{name}_searched", serve=False, search=search))
        questions = []
        for sample in model.samples(originals):
            expected = answers_of(file, sample, one_row=model.one_row)
            # Without batches, a single number is a vector of one for clients.
            inputs = {key: np.atleast_1d(array) for key, array in sample.items()}
            questions += [
                Question(name, inputs, expected, TOLERANCE),
                Question(f"{name}_searched", inputs, expected, model.tolerance),
            ]
        made[name] = Built(plain, searched, questions)
    return made


@pytest.fixture(scope="module")
def server(built: dict[str, Built]) -> Iterator[TritonServer]:
    repository = next(iter(built.values())).plain.path.parent.parent
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, strict=True)
    with TritonServer(options) as running:
        yield running


@pytest.mark.parametrize("name", REAL_MODELS)
def test_a_real_model_is_configured_as_its_kind_is(name, built):
    expected = REAL_MODELS[name]
    for result in built[name][:2]:
        config = config_from_text((result.path.parent / "config.pbtxt").read_text())
        assert (config.max_batch_size, config.HasField("dynamic_batching")) == (
            (32, True) if expected.batched else (0, False)
        )
        assert {tensor.name: list(tensor.dims) for tensor in config.input} == expected.inputs
        assert {tensor.name: list(tensor.dims) for tensor in config.output} == expected.outputs
    tried = built[name].with_data.manifest.search.candidates
    assert {candidate.precision for candidate in tried} >= {str(precision) for precision in expected.precisions}


@pytest.mark.parametrize("name", REAL_MODELS)
def test_a_served_real_model_answers_as_the_file_does_at_every_size(name, built, server):
    for url in (server.grpc_url, server.http_url):
        with Client(url, timeout=120) as client:
            for question in built[name].questions:
                check(client, question)


def test_real_models_answer_eight_callers_at_once(built, server):
    questions = [question for model in built.values() for question in model.questions]

    def ask(caller: int) -> int:
        with Client(server.grpc_url, timeout=120) as client:
            for question in random.Random(caller).sample(questions, len(questions)):
                check(client, question)
        return len(questions)

    with ThreadPoolExecutor(CALLERS) as pool:
        assert sum(pool.map(ask, range(CALLERS))) == CALLERS * len(questions)


def test_every_variant_of_a_voice_detector_goes_through(tmp_path, repository, pytestconfig):
    files = onnx_files(("silero-vad==6.2.3",), pytestconfig.cache.mkdir("wheels"))
    published = [build(file, BuildOptions(repository, file.stem, serve=False)) for file in files.values()]
    assert len(published) >= 6
    # The state is [2, rows, 128], and the rate is one number.
    assert all(result.manifest.batching.reason for result in published)


def answers_of(file: Path, sample: Arrays, *, one_row: bool) -> Arrays:
    """What ONNX Runtime answers in this process, row by row where the file takes no more."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    if not one_row:
        return dict(zip(names, session.run(None, sample), strict=True))
    rows = range(len(next(iter(sample.values()))))
    parts = [session.run(None, {key: array[row : row + 1] for key, array in sample.items()}) for row in rows]
    return {name: np.concatenate([part[index] for part in parts]) for index, name in enumerate(names)}


def check(client: Client, question: Question) -> None:
    answer = client.model(question.model).infer(question.inputs)
    for name, expected in question.expected.items():
        given = answer[name]
        assert given.shape == expected.shape
        assert given.dtype == expected.dtype
        if expected.dtype.kind == "f":
            allowed = max(question.tolerance * np.abs(expected).max(), LEAST_DIFFERENCE)
            np.testing.assert_allclose(given, expected, 0, allowed, err_msg=f"{question.model} {name}")
        else:
            np.testing.assert_array_equal(given, expected)
