"""The nine well-known networks of the onnx package: IR version 3, weights as inputs, one row only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import light_models
import numpy as np
import onnxruntime
import pytest

from plansmith_build import BuildOptions, build
from plansmith_build.config import config_from_text, specs_from_config

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_build import BuildResult

NAMES = light_models.light_model_names()
# Relative, for FP32. The absolute part lets probabilities be wrong that no one would look at.
RELATIVE, ABSOLUTE = 1e-3, 1e-7


@pytest.mark.parametrize("name", NAMES)
def test_light_network_is_built_for_batches_and_gives_its_expected_output(name: str, repository: Path) -> None:
    result = build(light_models.light_model_path(name), BuildOptions(repository=repository))

    inputs, expected = light_models.golden(name)
    three = {key: np.concatenate([array, array / 2, array]) for key, array in inputs.items()}
    answer = run(result.path / "model.onnx", three)
    for key, reference in expected.items():
        assert answer[key].shape == (3, *reference.shape[1:])
        np.testing.assert_allclose(answer[key][:1], reference, RELATIVE, ABSOLUTE)
        np.testing.assert_allclose(answer[key][2:], reference, RELATIVE, ABSOLUTE)
    assert_config_fits(result, inputs, expected)
    assert result.manifest.graph.nodes_after < result.manifest.graph.nodes_before
    # Constant weights stay the few bytes that they are.
    assert (result.path / "model.onnx").stat().st_size < 2_000_000


@pytest.mark.parametrize("name", NAMES)
def test_light_network_with_random_weights_computes_row_by_row_what_the_original_computes(
    name: str, tmp_path: Path, repository: Path
) -> None:
    source = light_models.with_random_weights(name, tmp_path)
    rows = light_models.distinct_rows(name, 4)
    expected = answers_row_by_row(source, rows)
    built = repository / name / "1" / "model.onnx"
    try:
        result = build(source, BuildOptions(repository=repository))
        assert result.manifest.batching.max_batch_size == 32
        assert result.manifest.verification.rows_together == 3
        answer = run(built, rows)
    finally:
        source.unlink()
        built.unlink(missing_ok=True)
    for key, reference in expected.items():
        assert_rows_differ(reference)
        np.testing.assert_allclose(answer[key], reference, RELATIVE, ABSOLUTE)


def run(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, quiet(), providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, inputs), strict=True))


def answers_row_by_row(path: Path, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, quiet(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    count = len(next(iter(rows.values())))
    answers = [session.run(None, {key: array[row : row + 1] for key, array in rows.items()}) for row in range(count)]
    return {name: np.concatenate([answer[i] for answer in answers]) for i, name in enumerate(names)}


def quiet() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # each of the weights that IR version 3 lists as inputs is a warning otherwise
    return options


def assert_rows_differ(reference: np.ndarray) -> None:
    """A network that answers the same to everything would pass for one that mixes up its rows."""
    flat = reference.reshape(len(reference), -1)
    scale = np.abs(flat).max()
    for one in range(len(flat)):
        for other in range(one):
            assert np.abs(flat[one] - flat[other]).max() > 20 * RELATIVE * scale


def assert_config_fits(result: BuildResult, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
    config = config_from_text((result.path.parent / "config.pbtxt").read_text())
    assert (config.backend, config.max_batch_size, config.HasField("dynamic_batching")) == ("onnxruntime", 32, True)
    for declared, arrays in [(config.input, inputs), (config.output, outputs)]:
        specs = specs_from_config(declared, batched=True)
        assert {spec.name: (spec.datatype, spec.shape) for spec in specs} == {
            key: ("FP32", (-1, *array.shape[1:])) for key, array in arrays.items()
        }
