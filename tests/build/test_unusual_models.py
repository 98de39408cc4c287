"""Models that are legal and rare: each is built and right, or refused with what to do about it."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
from build_models import ADD, answers, built_model, model_of, write, write_external
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from plansmith_build.errors import InvalidModel
from plansmith_build.reading import loading, networks
from plansmith_build.repository.config import config_from_text

X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])


@pytest.fixture
def built(tmp_path, repository):
    return partial(built_model, tmp_path, repository)


def answer(result, **inputs):
    return list(answers(result.path / "model.onnx", **inputs).values())


def config_of(result):
    return config_from_text((result.path.parent / "config.pbtxt").read_text())


@pytest.mark.parametrize(("opset", "ir"), [(1, 3), (28, 14), (26, 14)])
def test_an_operator_set_or_ir_version_that_onnx_runtime_does_not_run_is_converted(built, opset, ir):
    result = built(model_of([helper.make_node("Relu", ["x"], ["y"])], [X], [Y], opset=opset, ir=ir))
    np.testing.assert_array_equal(answer(result, x=np.float32([[-1, 0, 2]]))[0], [[0, 0, 2]])
    # ONNX Runtime cannot be the judge of a file that it does not load.
    assert "reference implementation of onnx" in result.manifest.verification.reference


def test_an_operator_set_that_does_not_exist_is_refused(built):
    with pytest.raises(InvalidModel, match="operator set 99"):
        built(model_of([helper.make_node("Relu", ["x"], ["y"])], [X], [Y], opset=99))


def test_an_output_without_a_shape_gets_the_one_it_is_seen_to_have(built):
    bare = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    result = built(model_of([helper.make_node("Relu", ["x"], ["y"])], [X], [bare]))
    assert result.manifest.outputs[0].shape == (-1, 3)
    assert list(config_of(result).output[0].dims) == [3]


def test_an_input_without_a_shape_is_refused(built):
    bare = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    with pytest.raises(InvalidModel, match="input 'x' does not say how many dimensions it has: declare its shape"):
        built(model_of([helper.make_node("Relu", ["x"], ["y"])], [bare], [Y]))


def test_an_input_with_a_default_stays_optional_and_is_not_made_a_constant(built):
    scale = helper.make_tensor_value_info("scale", TensorProto.FLOAT, [1])
    node = helper.make_node("Mul", ["x", "scale"], ["y"])
    result = built(model_of([node], [X, scale], [Y], {"scale": np.float32([2])}), serve=True)
    config = config_of(result)
    assert [(tensor.name, tensor.optional) for tensor in config.input] == [("x", False), ("scale", True)]
    assert config.max_batch_size == 0
    ones = np.ones((1, 3), np.float32)
    np.testing.assert_array_equal(answer(result, x=ones)[0], 2 * ones)
    np.testing.assert_array_equal(answer(result, x=ones, scale=np.float32([5]))[0], 5 * ones)


def test_an_input_that_nothing_reads_stays_an_input(built):
    result = built("m (float[N, 2] x, float[N, 3] unused) => (float[N, 2] y) { y = Relu (x) }", serve=True)
    assert [tensor.name for tensor in result.manifest.inputs] == ["x", "unused"]
    answer(result, x=np.ones((2, 2), np.float32), unused=np.ones((2, 3), np.float32))


def test_several_outputs_of_different_types_are_batched_together(built):
    result = built(
        "m (float[1, 5] x) => (int64[1] best, float[1, 5] p)"
        " { best = ArgMax <axis = 1, keepdims = 0> (x) p = Softmax (x) }",
        serve=True,
    )
    config = config_of(result)
    assert config.max_batch_size == 32
    # Triton has no empty dims: the label of a row is a vector of one for clients, and a number in the graph.
    assert list(config.output[0].dims) == [1]
    assert config.output[0].HasField("reshape")
    x = np.random.default_rng(0).standard_normal((7, 5), dtype=np.float32)
    np.testing.assert_array_equal(answer(result, x=x)[0], x.argmax(axis=1))


def test_a_graph_exported_for_several_rows_takes_any_number(built):
    result = built("m (float[4, 3] x) => (float[4, 3] y) { y = Softmax <axis = 1> (x) }")
    assert result.manifest.batching.made_dynamic
    assert answer(result, x=np.ones((7, 3), np.float32))[0].shape == (7, 3)


@pytest.mark.parametrize("declared", ["1", "N"])
def test_rows_merged_with_another_dimension_and_parted_again_are_freed(built, declared):
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["product"]),
        helper.make_node("Reshape", ["product", "deep"], ["y"]),
    ]
    rows = int(declared) if declared.isdigit() else declared
    weight = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    model = model_of(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, 5, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, 5, 4])],
        {"flat": np.int64([5 if rows == 1 else -1, 3]), "deep": np.int64([1 if rows == 1 else -1, 5, 4]), "w": weight},
    )
    result = built(model)
    assert result.manifest.batching.max_batch_size == 32
    x = np.random.default_rng(1).standard_normal((6, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(answer(result, x=x)[0], x @ weight, rtol=1e-5, atol=1e-6)


def test_a_batch_that_is_declared_free_and_baked_in_all_the_same_is_freed(built):
    model = model_of(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6])],
        {"shape": np.int64([1, 6])},
    )
    x = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    np.testing.assert_array_equal(answer(built(model), x=x)[0], x.reshape(2, 6))


def test_indexes_are_tried_small_enough_for_the_table_that_they_point_into(built):
    table = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    model = model_of(
        [helper.make_node("Gather", ["table", "ids"], ["y"])],
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "length", 4])],
        {"table": table},
    )
    assert built(model).manifest.batching.max_batch_size == 32


def test_nan_is_a_value_where_trees_read_it_and_nowhere_else(plansmith, tmp_path, repository):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(64, 4)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.2] = np.nan
    classes = (np.nan_to_num(rows).sum(axis=1) > 0).astype(np.int64)
    trees = HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=2).fit(rows, classes)
    onnx.save(to_onnx(trees, rows[:1], options={"zipmap": False}, target_opset=17), tmp_path / "trees.onnx")
    write(tmp_path / "linear.onnx", "m (float[N, 4] X) => (float[N, 4] y) { y = Relu (X) }")
    np.savez(tmp_path / "data.npz", X=rows, labels=classes)
    data = ["--data", tmp_path / "data.npz", "--repository", repository, "--target", "onnxruntime", "--no-serve"]
    plansmith("build", tmp_path / "trees.onnx", *data, "--samples", tmp_path / "data.npz")
    refused = plansmith("build", tmp_path / "linear.onnx", *data, expect=2)
    assert "holds nan" in refused.stderr
    session = onnxruntime.InferenceSession(repository / "trees" / "1" / "model.onnx")
    label, _ = session.run(None, {"X": rows})
    np.testing.assert_array_equal(np.reshape(label, -1), trees.predict(rows))


def test_random_outputs_are_compared_by_shape_and_that_is_said(built):
    result = built("m (float[N, 2] x) => (float[N, 2] y) { r = RandomNormalLike (x) y = Add (x, r) }", serve=True)
    assert [output.values_compared for output in result.manifest.verification.outputs] == [False]


def test_a_loop_over_rows_that_was_exported_for_one_row_takes_many(built):
    result = built(
        """m (float[1, 2] x) => (float[1, 2] y) <int64 trip = {3}, bool go = {1}> {
             y = Loop (trip, go, x) <
               body = again (int64 i, bool c, float[1, 2] v) => (bool d, float[1, 2] w) {
                 d = Identity (c)
                 w = Add (v, x)
               }
             >
           }"""
    )
    x = np.float32([[1, 2], [3, 4]])
    np.testing.assert_array_equal(answer(result, x=x)[0], 4 * x)


@pytest.mark.parametrize(
    ("model", "advice"),
    [
        ("m (float[N, 3] x) => (seq(float[N, 3]) y) { y = SequenceConstruct (x) }", "tensors only: change the model"),
        ("m (seq(float[N]) x) => (int64 y) { y = SequenceLength (x) }", "input 'x' is a sequence of tensors"),
        ("m () => (float[3] y) <float[3] w = {1, 2, 3}> { y = Relu (w) }", "no input"),
        ("m (complex64[N] x) => (complex64[N] y) { y = Identity (x) }", "COMPLEX64, which Triton does not serve"),
        ("m (float[N] x) => (float[N] y) { }", "empty graph"),
    ],
)
def test_what_triton_cannot_serve_is_refused_with_what_to_do(built, repository, model, advice):
    with pytest.raises(InvalidModel, match=advice):
        built(model)
    assert list(repository.iterdir()) == []


def test_a_classifier_that_answers_with_maps_is_refused_and_its_exporter_option_named(built, repository):
    rng = np.random.default_rng(0)
    features = rng.standard_normal((30, 4)).astype(np.float32)
    classifier = LogisticRegression().fit(features, np.arange(30) % 3)
    with pytest.raises(InvalidModel, match="zipmap"):
        built(to_onnx(classifier, features[:1], target_opset=17))
    plain = built(to_onnx(classifier, features[:1], target_opset=17, options={"zipmap": False}))
    np.testing.assert_array_equal(answer(plain, X=features)[0], classifier.predict(features))
    np.testing.assert_allclose(answer(plain, X=features)[1], classifier.predict_proba(features), rtol=1e-4, atol=1e-6)


def test_weights_too_large_for_one_file_are_streamed_into_a_second_one(built, tmp_path, monkeypatch):
    source = write_external(tmp_path / "large.onnx", rows=100_000)
    for module in (networks, loading):
        monkeypatch.setattr(module, "INLINE_BYTES", 2**20)
    result = built(source, serve=True)
    assert sorted(file.path for file in result.manifest.files) == ["1/model.onnx", "1/model.onnx.data", "config.pbtxt"]
    assert (result.path / "model.onnx").stat().st_size < 10_000
    x = np.random.default_rng(0).standard_normal((2, 100_000)).astype(np.float32)
    reference = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.testing.assert_allclose(answer(result, x=x)[0], reference, rtol=1e-4, atol=1e-2)


def test_a_version_with_a_data_file_can_be_built_from_again(built, tmp_path, monkeypatch):
    source = write_external(tmp_path / "large.onnx", rows=100_000)
    monkeypatch.setattr(networks, "INLINE_BYTES", 2**20)
    monkeypatch.setattr(loading, "INLINE_BYTES", 2**20)
    first = built(source)
    second = built(first.path / "model.onnx")
    assert second.version == 2
    assert (second.path / "model.onnx.data").read_bytes() == (first.path / "model.onnx.data").read_bytes()


def test_the_model_that_was_given_is_not_touched(built, tmp_path):
    source = write(tmp_path / "adder.onnx", ADD)
    before = (source.read_bytes(), source.stat().st_mtime_ns)
    built(source)
    assert (source.read_bytes(), source.stat().st_mtime_ns) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adder.onnx", "model_repository"]
