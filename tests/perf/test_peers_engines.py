"""Models in process, the limits of a comparison: each runtime gives what ONNX Runtime gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plansmith_build.repository.config import config_from_text
from plansmith_perf.comparing.engines import load_engine, packages_of, spec_of
from plansmith_perf.comparing.stacking import answers_of, best_stack, stack_requests
from plansmith_perf.errors import PerfError

FOLDER = Path(__file__).parents[2] / "model_repository" / "digits"
FILE = FOLDER / "1" / "model.onnx"
IMAGES = np.random.default_rng(0).random((6, 8, 8), np.float32)
KINDS = ["onnxruntime", "openvino", "served"]


def digits(kind):
    config = config_from_text((FOLDER / "config.pbtxt").read_text())
    # Triton takes the name from the folder where there is none.
    config.ClearField("name")
    return load_engine(spec_of(kind, file=FILE, outputs=["probabilities"], served=config))


@pytest.fixture(scope="module")
def expected():
    return digits("onnxruntime")({"images": IMAGES})[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_runtime_computes_the_same(kind, expected):
    compute = digits(kind)
    (given,) = compute({"images": IMAGES})
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)
    # An answer stays what it is when the next one is computed.
    compute({"images": IMAGES[::-1].copy()})
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-5)
    assert packages_of(kind)


def test_requests_that_are_put_together_are_answered_as_if_alone(expected):
    requests = [{"images": IMAGES[:2]}, {"images": IMAGES[2:4]}, {"images": IMAGES[4:]}]
    compute = digits("onnxruntime")
    answers = answers_of(compute(stack_requests(requests)), ["probabilities"], 3)
    for number, answer in enumerate(answers):
        np.testing.assert_allclose(answer["probabilities"], expected[2 * number : 2 * number + 2], rtol=1e-5)


def test_a_call_has_as_many_requests_as_take_the_least_time_and_no_more_than_there_are():
    asked = []

    def slow_to_begin(inputs):
        asked.append(len(inputs["images"]))
        return digits_once(inputs)

    digits_once = digits("onnxruntime")
    assert best_stack(slow_to_begin, [{"images": IMAGES[:1]}], most=6) in (1, 2, 4, 6)
    assert set(asked) == {1, 2, 4, 6}


def test_a_size_of_call_that_the_model_does_not_take_is_not_chosen():
    compute = digits("onnxruntime")

    def one_at_a_time(inputs):
        if len(inputs["images"]) > 1:
            raise RuntimeError("one at a time")
        return compute(inputs)

    assert best_stack(one_at_a_time, [{"images": IMAGES[:1]}], most=8) == 1


def test_a_file_that_is_no_model_is_a_sentence(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    for kind in ("onnxruntime", "openvino"):
        with pytest.raises(PerfError, match="the model cannot be loaded"):
            load_engine(spec_of(kind, file=broken, outputs=["y"], served=None))
