"""What "verified" means: rounding is no reason to refuse a file, NaN verifies nothing, and inputs may be the user's."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import onnx
import pytest
from build_models import HEADER, built_model, model_of
from onnx import TensorProto, helper
from onnxconverter_common import float16

from plansmith_build.errors import VerificationFailed
from plansmith_build.portable.comparison import compare
from plansmith_build.portable.reference import run_reference
from plansmith_build.reading.loading import load_onnx
from plansmith_build.reading.signatures import signature_of
from plansmith_build.reading.value_kinds import integer_ranges


def info(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def segmenter(*, layers=6, channels=16, bias=-12.0):
    """Convolutions and a sigmoid whose probabilities are all near 0 where `bias` is negative."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], {}, "x"
    for layer in range(layers):
        before = 3 if layer == 0 else channels
        weights[f"w{layer}"] = rng.normal(0, np.sqrt(2 / 9 / before), (channels, before, 3, 3)).astype(np.float32)
        nodes += [
            helper.make_node("Conv", [last, f"w{layer}"], [f"c{layer}"], pads=[1] * 4),
            helper.make_node("HardSwish", [f"c{layer}"], [f"h{layer}"]),
        ]
        last = f"h{layer}"
    weights |= {"head": rng.normal(0, 0.1, (1, channels, 3, 3)).astype(np.float32), "bias": np.float32([bias])}
    nodes += [
        helper.make_node("Conv", [last, "head", "bias"], ["z"], pads=[1] * 4),
        helper.make_node("Sigmoid", ["z"], ["y"]),
    ]
    return model_of(nodes, [info("x", ["n", 3, 32, 32])], [info("y", ["n", 1, 32, 32])], weights)


@pytest.fixture
def built(tmp_path, repository):
    return partial(built_model, tmp_path, repository)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bias", [-8.0, -12.0, -16.0])
def test_probabilities_near_zero_are_published_as_they_are(built, bias, seed):
    assert built(segmenter(bias=bias), seed=seed, serve=not seed).manifest.batching.max_batch_size == 32


@pytest.mark.parametrize("seed", range(3))
def test_a_graph_that_computes_in_fp16_behind_fp32_inputs_and_outputs_is_published(built, seed):
    model = float16.convert_float_to_float16(segmenter(bias=0.0), keep_io_types=True)
    (output,) = built(model, seed=seed, serve=not seed).manifest.verification.outputs
    assert output.datatype == "FP32"
    assert output.tolerance >= 0.01


def test_small_answers_are_compared_as_strictly_as_rounding_allows():
    small = {"y": np.float32([1e-7, 3e-7, -2e-7])}
    (same,) = compare(small, {"y": small["y"] * np.float32(1.1)})
    assert same.passed
    for wrong in (small["y"] * 2, -small["y"], small["y"] * 0, small["y"][::-1].copy()):
        (result,) = compare(small, {"y": wrong})
        assert not result.passed


def test_the_noise_floor_of_an_exact_graph_hides_no_fault(tmp_path):
    """Scaled, shifted, negated and permuted answers stay far outside what is allowed for each output."""
    path = tmp_path / "model.onnx"
    onnx.save(segmenter(bias=0.0), path)
    file = load_onnx(path)
    reference = run_reference(file, signature_of(file.network.model), seed=0)
    answer = reference.answers[0]["y"]
    for wrong in (answer * 1.02, answer + 0.02, -answer, answer[:, :, ::-1].copy(), answer * 0):
        (result,) = compare({"y": answer}, {"y": wrong.astype(np.float32)}, noise=reference.noise)
        assert not result.passed


# As older exports of BERT compute it: a mask of 1 keeps, one of 0 adds the smallest number.
MASKED = """m (float[N, T] x, int64[N, T] attention_mask) => (float[N, T] y)
    <float one = {1.0}, float low = {-3.4e38}> {
    mask = Cast <to = 1> (attention_mask)
    rest = Sub (one, mask)
    added = Mul (rest, low)
    sum = Add (x, added)
    y = Softmax <axis = 0> (sum)
}"""


@pytest.mark.parametrize("name", ["attention_mask", "keep"])
def test_masks_are_drawn_as_masks_so_that_answers_are_numbers_and_dependent_rows_are_seen(built, name):
    result = built(MASKED.replace("attention_mask", name))
    assert all(output.finite for output in result.manifest.verification.outputs)
    assert result.manifest.batching.max_batch_size == 0
    assert "is off by" in result.manifest.batching.reason


@pytest.mark.parametrize("operator", ["Log", "Sqrt"])
def test_what_takes_positive_numbers_only_is_verified_on_some(built, operator):
    text = f"m (float[N, 4] x) => (float[N] y) {{ z = {operator} (x) y = ReduceSum <keepdims = 0> (z, axes) }}"
    text = text.replace("(float[N] y)", "(float[N] y) <int64[1] axes = {1}>")
    result = built(text)
    assert result.manifest.verification.outputs[0].finite
    assert result.manifest.batching.max_batch_size == 32


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "m (float[N, 4] x) => (float[N, 4] y) <float nan = {0.0}> { z = Div (nan, nan) y = Add (x, z) }",
            "NaN or infinite for every input",
        ),
        (
            "m (float[N, 4] x) => (float[K, 4] y) <bool[1] none = {0}> { y = Compress <axis = 0> (x, none) }",
            "how many rows",
        ),
    ],
    ids=["NaN", "empty"],
)
def test_a_model_without_a_single_value_in_its_answers_is_published_unbatched_and_called_unverified(
    plansmith, tmp_path, repository, text, reason
):
    onnx.save(onnx.parser.parse_model(HEADER + text), tmp_path / "model.onnx")
    done = plansmith("build", tmp_path / "model.onnx", "--repository", repository)
    assert "empty, NaN or infinite on every input that was tried" in done.stdout
    manifest = json.loads((repository / "model" / "1" / "manifest.json").read_text())
    assert manifest["verification"]["outputs"][0]["finite"] is False
    card = plansmith("inspect", manifest["model"], "--repository", repository, "--card").stdout
    assert "empty, NaN or infinite: not verified" in card
    assert reason in manifest["batching"]["reason"]


def test_ids_masks_and_lengths_are_drawn_inside_what_the_graph_takes():
    nodes = [
        helper.make_node("Unsqueeze", ["ids", "axis"], ["wide"]),
        helper.make_node("Gather", ["table", "wide"], ["a"]),
        helper.make_node("Cast", ["types"], ["types64"], to=TensorProto.INT64),
        helper.make_node("Gather", ["two", "types64"], ["b"]),
    ]
    inputs = [info("ids", ["N", "T"], TensorProto.INT64), info("types", ["N", "T"], TensorProto.INT32)]
    inputs += [info(name, ["N"], TensorProto.INT64) for name in ("attention_mask", "input_lengths", "steps")]
    weights = {"table": np.zeros((700, 4), np.float32), "two": np.zeros((2, 4), np.float32), "axis": np.int64([2])}
    ranges = integer_ranges(model_of(nodes, inputs, [info("a", None), info("b", None)], weights))
    assert {name: (found.low, found.below) for name, found in ranges.items()} == {
        "ids": (0, 700),
        "types": (0, 2),
        "attention_mask": (0, 2),
        "input_lengths": (1, None),
    }


def resizer():
    nodes = [
        helper.make_node("Cast", ["size"], ["hw"], to=TensorProto.INT64),
        helper.make_node("Concat", ["head", "hw"], ["sizes"], axis=0),
        helper.make_node("Resize", ["masks", "", "", "sizes"], ["y"], mode="linear"),
    ]
    inputs = [info("masks", [1, 4, 8, 8]), info("size", [2])]
    return model_of(nodes, inputs, [info("y", [1, 4, "h", "w"])], {"head": np.int64([1, 4])})


@pytest.mark.parametrize("opset", [17, 28])
def test_whole_numbers_are_not_divided_by_zero(built, opset):
    """Operator set 28 is judged by the onnx package, which divides by 0 where ONNX Runtime reports an error."""
    inputs = [info(name, ["N", 6], TensorProto.INT32) for name in "ab"]
    model = model_of([helper.make_node("Mod", ["a", "b"], ["y"])], inputs, [info("y", ["N", 6], TensorProto.INT32)])
    model.opset_import[0].version = opset
    assert built(model).manifest.batching.max_batch_size == 32


def test_operator_sets_of_the_onnx_package_are_verified_on_what_onnx_runtime_takes_too(built):
    # The onnx package takes a depth of any sign.
    model = model_of(
        [helper.make_node("OneHot", ["x", "depth", "values"], ["y"])],
        [info("x", ["N"], TensorProto.INT64), info("depth", [], TensorProto.INT64), info("values", [2])],
        [info("y", ["N", "D"])],
        opset=28,
        ir=14,
    )
    assert "reference implementation" in built(model).manifest.verification.reference


def test_an_input_that_is_always_empty_is_given_nothing(built):
    model = model_of(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)],
        [info("x", ["N", 3]), info("axes", [0], TensorProto.INT64)],
        [info("y", [1, 1])],
    )
    assert built(model, serve=True).manifest.server_trial.served == ("config.pbtxt",)


def test_an_input_that_is_a_size_is_verified_on_whole_numbers(built):
    assert built(resizer()).manifest.verification.inputs == "random"


# Only a few axes of x are valid, and only in this order: no random input is.
PICKY = model_of(
    [
        helper.make_node("Reshape", ["x", "shape"], ["z"]),
        helper.make_node("Relu", ["z"], ["y"]),
    ],
    [info("x", [2, 6]), info("shape", [3], TensorProto.INT64)],
    [info("y", [None, None, None])],
)


def test_a_model_that_runs_on_no_random_input_is_verified_on_samples_of_the_user(plansmith, tmp_path, repository):
    onnx.save(PICKY, tmp_path / "picky.onnx")
    refused = plansmith("build", tmp_path / "picky.onnx", "--repository", repository, expect=3)
    assert "reports an error for every kind of random input" in refused.stderr
    assert "give inputs that it takes with --samples FILE" in refused.stderr
    assert not list(repository.iterdir())
    x = np.random.default_rng(0).normal(size=(5, 2, 6)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", x=x, shape=np.tile(np.int64([3, 2, 2]), (5, 1)))
    done = plansmith(
        "build", tmp_path / "picky.onnx", "--repository", repository, "--samples", tmp_path / "samples.npz"
    )
    assert "5 of your samples" in done.stdout
    manifest = json.loads((repository / "picky" / "1" / "manifest.json").read_text())
    assert manifest["verification"]["inputs"] == "given"
    assert manifest["verification"]["samples"] == 5


def test_data_verifies_where_random_inputs_cannot(plansmith, tmp_path, repository):
    onnx.save(PICKY, tmp_path / "picky.onnx")
    x = np.random.default_rng(0).normal(size=(16, 2, 6)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, shape=np.tile(np.int64([4, 3, 1]), (16, 1)))
    options = ["--data", tmp_path / "data.npz", "--target", "onnxruntime", "--precision", "fp32", "--no-serve"]
    plansmith("build", tmp_path / "picky.onnx", "--repository", repository, *options)
    manifest = json.loads((repository / "picky" / "1" / "manifest.json").read_text())
    assert manifest["verification"]["inputs"] == "given"


def test_text_that_must_be_a_number_is_verified(built, tmp_path):
    text = "m (string[N, 2] x) => (float[N, 2] y) { y = Cast <to = 1> (x) }"
    assert built(text).manifest.batching.max_batch_size == 32
    np.savez(tmp_path / "samples.npz", x=np.array([["1.5", "-2"], ["1e3", "4"]]))
    assert built(text, samples=str(tmp_path / "samples.npz")).manifest.verification.inputs == "given"


def test_a_sample_that_the_model_refuses_is_named(built, tmp_path):
    np.savez(tmp_path / "samples.npz", x=np.zeros((1, 2, 6), np.float32), shape=np.int64([[5, 5, 5]]))
    with pytest.raises(VerificationFailed, match="reports an error for sample 0 of your inputs"):
        built(PICKY, samples=str(tmp_path / "samples.npz"))
