"""Estimators of scikit-learn become ONNX files that compute what they compute, or are refused with the reason."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from build_models import answers, snapshot
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

from plansmith_build import InvalidOption, VerificationFailed
from plansmith_build.exporting import ExportFailed, UnsuitableModel, export_scikit_learn

RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((80, 4))
CLASSES = (FEATURES[:, 0] + FEATURES[:, 1] > 0).astype(int) + (FEATURES[:, 2] > 1)
NAMES = np.array(["cat", "dog", "emu"])[CLASSES]
NUMBERS = FEATURES @ [1.0, 2.0, -1.0, 0.5]

# It works out the shapes of trees with numpy functions that numpy has renamed.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:skl2onnx.*")


@pytest.mark.parametrize(
    ("estimator", "target"),
    [
        (LogisticRegression(), CLASSES),
        (LogisticRegression(), CLASSES > 0),
        (RandomForestClassifier(5, random_state=0), CLASSES),
        (HistGradientBoostingClassifier(max_iter=5), NAMES),
        (make_pipeline(StandardScaler(), PCA(3), MLPClassifier((8,), max_iter=20, early_stopping=True)), CLASSES),
        (LinearSVC(), CLASSES),
        (make_pipeline(StandardScaler(), SVC()), CLASSES),
        (LinearRegression(), NUMBERS),
        (GradientBoostingRegressor(n_estimators=5), NUMBERS),
        (make_pipeline(StandardScaler(), PCA(2)), None),
        (KMeans(3, n_init=1), None),
        (IsolationForest(n_estimators=5, random_state=0), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseEstimator) else "",
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_an_estimator_becomes_a_file_that_computes_the_same(estimator, target, tmp_path):
    estimator.fit(FEATURES, target)
    result = export_scikit_learn(estimator, tmp_path / "model.onnx")
    assert result.path == tmp_path / "model.onnx"
    assert [(spec.name, spec.datatype, spec.shape) for spec in result.inputs] == [("X", "FP32", (-1, 4))]
    assert all(comparison.passed for comparison in result.comparisons)
    assert result.opsets["ai.onnx"] == 18
    assert {"scikit-learn", "skl2onnx", "onnxruntime"} <= result.versions.keys()
    rows = FEATURES[:7].astype(np.float32)
    answer = answers(result.path, X=rows)
    rows = rows.astype(np.float64)
    if hasattr(estimator, "predict_proba"):
        np.testing.assert_allclose(answer["probabilities"], estimator.predict_proba(rows), atol=1e-5)
        assert answer["label"].tolist() == estimator.predict(rows).tolist()
    elif "variable" in answer:
        wanted = estimator.predict(rows) if hasattr(estimator, "predict") else estimator.transform(rows)
        np.testing.assert_allclose(answer["variable"].reshape(wanted.shape), wanted, rtol=1e-4, atol=1e-5)
    assert list(tmp_path.iterdir()) == [result.path]


def test_probabilities_are_a_plain_tensor_that_a_server_takes(tmp_path):
    result = export_scikit_learn(LogisticRegression().fit(FEATURES, CLASSES), tmp_path / "m.onnx")
    assert [(spec.name, spec.datatype, spec.shape) for spec in result.outputs] == [
        ("label", "INT64", (-1,)),
        ("probabilities", "FP32", (-1, 3)),
    ]


def test_columns_of_numbers_and_of_strings_are_one_input_each(tmp_path):
    cities = np.array(["Ulm", "Köln", "Bonn"], dtype=object)[CLASSES]
    rows = np.empty((80, 3), dtype=object)
    rows[:, 0], rows[:, 1], rows[:, 2] = FEATURES[:, 0], cities, FEATURES[:, 1]
    columns = ColumnTransformer([("numbers", StandardScaler(), [0, 2]), ("city", OneHotEncoder(), [1])])
    pipeline = make_pipeline(columns, LogisticRegression()).fit(rows, NAMES)
    result = export_scikit_learn(pipeline, tmp_path / "m.onnx", example=rows[:20])
    assert [(spec.name, spec.datatype, spec.shape) for spec in result.inputs] == [
        ("x0", "FP32", (-1, 1)),
        ("x1", "BYTES", (-1, 1)),
        ("x2", "FP32", (-1, 1)),
    ]
    assert result.outputs[0].datatype == "BYTES"
    answer = answers(
        result.path,
        x0=rows[:5, :1].astype(np.float32),
        x1=rows[:5, 1:2].astype(str),
        x2=rows[:5, 2:].astype(np.float32),
    )
    assert (
        answer["output_label" if "output_label" in answer else "label"].tolist() == pipeline.predict(rows[:5]).tolist()
    )
    with pytest.raises(Fail, match="Unknown Category"):
        answers(result.path, x0=np.zeros((1, 1), np.float32), x1=np.array([["Rom"]]), x2=np.zeros((1, 1), np.float32))


def test_a_data_frame_names_the_inputs(tmp_path):
    pandas = pytest.importorskip("pandas", reason="pip install pandas to export from data frames")
    frame = pandas.DataFrame({"age": FEATURES[:, 0], "count": CLASSES, "city": NAMES})
    columns = ColumnTransformer([("numbers", StandardScaler(), ["age", "count"]), ("city", OneHotEncoder(), ["city"])])
    pipeline = make_pipeline(columns, LogisticRegression()).fit(frame, CLASSES)
    result = export_scikit_learn(pipeline, tmp_path / "m.onnx", example=frame.head(20))
    assert [(spec.name, spec.datatype) for spec in result.inputs] == [
        ("age", "FP32"),
        ("count", "FP32"),
        ("city", "BYTES"),
    ]
    with pytest.raises(UnsuitableModel, match="was fitted on named columns: give some rows of its data as example"):
        export_scikit_learn(pipeline, tmp_path / "m.onnx")


class OwnClassifier(ClassifierMixin, BaseEstimator):
    def fit(self, features, labels):
        self.classes_, self.n_features_in_ = np.unique(labels), features.shape[1]
        return self

    def predict(self, features):
        return np.zeros(len(features), int)


@pytest.mark.parametrize(
    ("estimator", "error", "sentence"),
    [
        (LogisticRegression(), UnsuitableModel, "the LogisticRegression is not fitted: call its fit first"),
        (LogisticRegression, UnsuitableModel, "is not a scikit-learn estimator"),
        ("model", UnsuitableModel, "a str is not a scikit-learn estimator"),
        (OwnClassifier().fit(FEATURES, CLASSES), ExportFailed, "skl2onnx cannot convert the OwnClassifier"),
        (OneHotEncoder().fit(NAMES[:, np.newaxis]), ExportFailed, "skl2onnx cannot convert the OneHotEncoder"),
    ],
)
def test_what_cannot_be_exported_is_refused_and_nothing_is_written(estimator, error, sentence, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"what was there")
    before = snapshot(tmp_path)
    with pytest.raises(error, match=sentence) as caught:
        export_scikit_learn(estimator, tmp_path / "m.onnx")
    assert caught.value.exit_code == (1 if error is ExportFailed else 2)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        (FEATURES[0], r"the example is \[4\], wanted rows and features"),
        (FEATURES[:0], r"the example is \[0, 4\]"),
        (FEATURES[:5, :2], "does not run on the example rows: ValueError: X has 2 features"),
        (np.array([[1, 2, 3, {}]], dtype=object), "column 'x3' of the example is neither of numbers nor of strings"),
    ],
)
def test_an_example_that_does_not_fit_is_refused(example, sentence, tmp_path):
    with pytest.raises((UnsuitableModel, ExportFailed), match=sentence):
        export_scikit_learn(LinearRegression().fit(FEATURES, NUMBERS), tmp_path / "m.onnx", example=example)


def test_a_file_that_computes_something_else_is_never_written(tmp_path):
    # Weights of both signs that cancel each other in float64, and in float32 do not.
    model = LinearRegression().fit(FEATURES, NUMBERS)
    model.coef_ = np.array([1e8, -1e8, 1.0, 0.0]) + 1
    rows = np.repeat(RNG.standard_normal((50, 1)), 4, axis=1)
    with pytest.raises(VerificationFailed, match=r"output 'variable' is off by .* relative to the estimator") as caught:
        export_scikit_learn(model, tmp_path / "m.onnx", example=rows)
    assert caught.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_export_leaves_is_removed_by_the_next(tmp_path):
    program = """
import os, pathlib, signal, sys
from plansmith_build.exporting.writing import staged
with staged(pathlib.Path(sys.argv[1])) as made:
    made.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program, tmp_path / "killed.onnx"], check=False)
    assert len(list(tmp_path.rglob("killed.onnx"))) == 1
    (tmp_path / ".plansmith-mykeepok").mkdir()
    export_scikit_learn(LinearRegression().fit(FEATURES, NUMBERS), tmp_path / "m.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".plansmith-mykeepok", "m.onnx"]


def test_trees_that_were_fitted_on_float64_are_refused_with_the_way_out(tmp_path):
    # Neighbours that float32 does not tell apart, in two classes.
    features = np.repeat(1.0 + np.arange(64)[:, None] * 1e-9, 4, axis=1)
    classes = np.arange(64) % 2
    forest = HistGradientBoostingClassifier(min_samples_leaf=1, max_iter=5).fit(features, classes)
    with pytest.raises(VerificationFailed, match=r"float64.*features.astype\(numpy.float32\)"):
        export_scikit_learn(forest, tmp_path / "m.onnx", example=features)
    assert not list(tmp_path.iterdir())
    rounded = FEATURES.astype(np.float32)
    again = HistGradientBoostingClassifier(max_iter=5).fit(rounded, CLASSES)
    export_scikit_learn(again, tmp_path / "m.onnx", example=rounded)


def test_the_output_is_a_file_in_a_folder_that_is_there(tmp_path):
    model = LinearRegression().fit(FEATURES, NUMBERS)
    for path, sentence in (
        (tmp_path / "model.bin", "does not end in .onnx"),
        (tmp_path / "nosuch" / "m.onnx", "nosuch of the output does not exist"),
    ):
        with pytest.raises(InvalidOption, match=sentence):
            export_scikit_learn(model, path)


def test_the_operator_set_can_be_chosen(tmp_path):
    model = LinearRegression().fit(FEATURES, NUMBERS)
    result = export_scikit_learn(model, tmp_path / "m.onnx", opset=15)
    assert {entry.domain: entry.version for entry in onnx.load(result.path).opset_import}[""] == 15
    with pytest.raises(ExportFailed, match="skl2onnx cannot convert"):
        export_scikit_learn(model, tmp_path / "m.onnx", opset=9999)
