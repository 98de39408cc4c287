"""Models in process, the limits of a comparison: each runtime gives what ONNX Runtime gives."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from plansmith_build.config import config_from_text
from plansmith_perf.errors import PerfError
from plansmith_perf.peers.engines import load_engine, packages_of, spec_of
from plansmith_perf.peers.peer import PeerUnavailable
from plansmith_perf.peers.stacking import answers_of, best_stack, stack_requests

FOLDER = Path(__file__).parent.parent / "model_repository" / "digits"
FILE = FOLDER / "1" / "model.onnx"
IMAGES = np.random.default_rng(0).random((6, 8, 8), np.float32)
KINDS = ["onnxruntime", "openvino", "served", pytest.param("pytorch", marks=pytest.mark.skipif(
    find_spec("torch") is None, reason="torch is not installed: pip install torch"
))]  # fmt: skip
WITH_TOP_K = """
<ir_version: 8, opset_import: ["" : 17]>
best (float[N, 4] x) => (float[N, 1] y)
<int64[1] k = {1}>
{ y, places = TopK (x, k) }
"""


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


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed: pip install torch")
def test_an_operator_that_torch_is_not_told_of_is_named(tmp_path):
    onnx.save(onnx.parser.parse_model(WITH_TOP_K), tmp_path / "best.onnx")
    with pytest.raises(PeerUnavailable, match="TopK"):
        load_engine(spec_of("pytorch", file=tmp_path / "best.onnx", outputs=["y"], served=None))


NOT_IN_TORCH = {
    "MaxPool ceil_mode": ("MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x)", 17),
    "MaxPool dilations": ("MaxPool <kernel_shape = [2, 2], dilations = [2, 2]> (x)", 17),
    "MaxPool two dimensions": ("MaxPool <kernel_shape = [2]> (x)", 17),
    "AveragePool ceil_mode": ("AveragePool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 1> (x)", 17),
    "AveragePool dilations": ("AveragePool <kernel_shape = [2, 2], dilations = [2, 2]> (x)", 19),
    "Reshape allowzero": ("Reshape <allowzero = 1> (x, size)", 17),
    "Constant value_ints": ("Constant <value_ints = [1, 2]> ()", 17),
    "padding differs": ("MaxPool <kernel_shape = [2, 2], pads = [0, 0, 1, 1]> (x)", 17),
    "com.microsoft.Gelu counterpart": ("com.microsoft.Gelu (x)", 17),
}


def one_operator(folder, operator, opset):
    text = f"""
    <ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>
    one (float[N, 3, 5, 5] x) => (y)
    <int64[2] size = {{0, 75}}, int64[2] amounts = {{-7, 7}}, int64[2] parts = {{2, 2}}>
    {{ y = {operator} }}
    """
    file = folder / "one.onnx"
    onnx.save(onnx.parser.parse_model(text), file)
    return spec_of("pytorch", file=file, outputs=["y"], served=None)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed: pip install torch")
@pytest.mark.parametrize("words", NOT_IN_TORCH)
def test_what_torch_would_be_told_wrongly_is_named_and_not_computed(tmp_path, words):
    operator, opset = NOT_IN_TORCH[words]
    with pytest.raises(PeerUnavailable, match=".*".join(words.split())):
        load_engine(one_operator(tmp_path, operator, opset))


IN_TORCH = (
    "MaxPool <kernel_shape = [2, 2], strides = [2, 2], ceil_mode = 0, dilations = [1, 1], storage_order = 0> (x)",
    "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x)",
    "AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1> (x)",
    "Flatten <axis = 0> (x)",
    "Flatten <axis = 2> (x)",
    "Flatten <axis = -1> (x)",
    "Reshape <allowzero = 0> (x, size)",
    "Softmax (x)",
    "Softmax <axis = 1> (x)",
    "GlobalAveragePool (x)",
    "Div (amounts, parts)",
)


@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed: pip install torch")
@pytest.mark.parametrize(
    ("operator", "opset"),
    [
        *((operator, 17) for operator in IN_TORCH),
        *(("Softmax (x)", 9), ("Softmax <axis = 2> (x)", 12), ("Softmax <axis = 3> (x)", 12)),
    ],
)
def test_an_operator_that_torch_is_told_of_computes_what_onnx_runtime_does(tmp_path, operator, opset):
    spec = one_operator(tmp_path, operator, opset)
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 5), np.float32)
    session = onnxruntime.InferenceSession(spec.file)
    (expected,) = session.run(None, {"x": x})
    (given,) = load_engine(spec)({"x": x})
    assert (given.dtype, given.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(find_spec("torch") is not None, reason="torch is installed")
def test_without_torch_the_row_says_how_to_get_it():
    with pytest.raises(PeerUnavailable, match="pip install torch"):
        digits("pytorch")
