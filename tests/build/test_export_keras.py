"""Keras models become ONNX files that compute what they compute, or are refused with the reason."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
# Chosen once in a process, when Keras is imported.
os.environ["KERAS_BACKEND"] = "torch"
keras = pytest.importorskip("keras", reason="needs Keras: pip install keras")

from build_models import answers  # noqa: E402

from plansmith_build.exporting import UnsuitableModel, export_keras  # noqa: E402

# torch.export and onnxscript use names of Python and of each other that are deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

layers = keras.layers


def convolutional():
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Rescaling(1 / 255)(layers.RandomFlip()(image))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", activation="relu")(x))
    x = layers.DepthwiseConv2D(3)(layers.MaxPooling2D()(x))
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


def recurrent():
    ids = keras.Input((7,), dtype="int32", name="ids")
    return keras.Model(ids, layers.Dense(2)(layers.LSTM(6)(layers.Embedding(50, 8)(ids))))


def attentive():
    sequence = keras.Input((None, 8), name="sequence")
    return keras.Model(sequence, layers.LayerNormalization()(layers.MultiHeadAttention(2, 4)(sequence, sequence)))


def sequential():
    return keras.Sequential([keras.Input((4,)), layers.Dense(3)])


def two_of_each():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    return keras.Model({"a": a, "b": b}, {"sum": layers.Add()([a, b]), "product": layers.Multiply()([a, b])})


@pytest.mark.parametrize(
    ("make", "name", "rows"),
    [
        (convolutional, "image", np.random.default_rng(0).random((5, 16, 16, 3), np.float32) * 255),
        (recurrent, "ids", np.arange(35, dtype=np.int32).reshape(5, 7)),
        (attentive, "sequence", np.random.default_rng(0).random((5, 13, 8), np.float32)),
        # One without a name, which Keras numbers anew in each process.
        (sequential, "input", np.random.default_rng(0).random((5, 4), np.float32)),
    ],
)
def test_a_model_becomes_a_file_with_a_dynamic_batch(make, name, rows, tmp_path):
    keras.utils.set_random_seed(0)
    model = make()
    result = export_keras(model, tmp_path / "m.onnx")
    assert [(spec.name, spec.shape[0]) for spec in result.inputs] == [(name, -1)]
    wanted = model.predict(rows, verbose=0)
    np.testing.assert_allclose(answers(result.path, **{name: rows})["output"], wanted, rtol=1e-4, atol=1e-5)
    assert {"torch", "onnxscript", "keras"} <= result.versions.keys()


def test_inputs_and_outputs_keep_their_names(tmp_path):
    model = two_of_each()
    result = export_keras(model, tmp_path / "m.onnx")
    assert {spec.name for spec in result.inputs} == {"a", "b"}
    a, b = np.full((3, 4), 3, np.float32), np.full((3, 4), 5, np.float32)
    answer = answers(result.path, a=a, b=b)
    assert (answer["sum"] == 8).all()
    assert (answer["product"] == 15).all()


def test_a_file_is_exported_by_the_command(tmp_path, plansmith):
    model = sequential()
    model.save(tmp_path / "dense.keras")
    done = plansmith("export", tmp_path / "dense.keras", "--json", cwd=tmp_path)
    assert '"framework": "keras"' in done.stdout
    rows = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(
        answers(tmp_path / "dense.onnx", input=rows)["output"], model.predict(rows, verbose=0), rtol=1e-5, atol=1e-6
    )


def test_a_file_with_code_in_it_or_that_is_damaged_is_refused(tmp_path, plansmith):
    keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x * 2)]).save(tmp_path / "lambda.keras")
    said = plansmith("export", tmp_path / "lambda.keras", expect=2).stderr
    assert "holds a lambda, which is code; code in a model file is not run" in said
    (tmp_path / "text.keras").write_text("hello")
    said = plansmith("export", tmp_path / "text.keras", expect=2).stderr
    assert "text.keras is not a model that Keras loads safely" in said


def test_a_model_of_another_backend_is_told_the_way(tmp_path):
    program = """
import keras
from plansmith_build.exporting import UnsuitableModel, export_keras
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
try:
    export_keras(model, "m.onnx")
except UnsuitableModel as error:
    print(error)
"""
    environment = {**os.environ, "KERAS_BACKEND": "openvino"}
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert "Keras runs on openvino here, and is exported from PyTorch: save the model as .keras" in done.stdout


def test_what_is_no_built_model_is_refused(tmp_path):
    with pytest.raises(UnsuitableModel, match="does not know its inputs yet: begin it with keras"):
        export_keras(keras.Sequential([layers.Dense(3)]), tmp_path / "m.onnx")
    with pytest.raises(UnsuitableModel, match="a int is not a Keras model"):
        export_keras(3, tmp_path / "m.onnx")
    with pytest.raises(UnsuitableModel, match="has 1 inputs, and 2 examples"):
        export_keras(sequential(), tmp_path / "m.onnx", example_inputs=[np.ones((2, 4)), np.ones((2, 4))])
