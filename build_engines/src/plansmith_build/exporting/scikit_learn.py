"""From a fitted scikit-learn estimator to ONNX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx

from plansmith_build.errors import VerificationFailed
from plansmith_build.exporting.errors import ExportFailed, UnsuitableModel
from plansmith_build.exporting.estimator_answers import answers_of
from plansmith_build.exporting.frameworks import quiet, require
from plansmith_build.exporting.tables import Table, random_table, table_from_example
from plansmith_build.exporting.writing import check_path, export_file, staged

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.exporting.writing import ExportResult

__all__ = ["DEFAULT_OPSET", "export_scikit_learn"]

DEFAULT_OPSET = 18
"""Every container of Triton that is still in use runs it."""

# ONNX Runtime implements version 3 of the operators for classical models in every release that is in use.
_ML_OPSET = 3
_ROWS = 64
_TREES = (
    "Its trees were fitted on float64, and the ONNX graph compares in float32, where rows fall on the other side of a "
    "split: fit it on `features.astype(numpy.float32)` and export again"
)
_PACKAGES = ("scikit-learn", "skl2onnx")


def export_scikit_learn(
    estimator: Any, path: Path | str, *, example: Any = None, opset: int = DEFAULT_OPSET, seed: int = 0
) -> ExportResult:
    """Write a fitted estimator or pipeline as ONNX and check that it computes the same.

    Inputs are FP32 (an estimator that computes in float64 is compared on values rounded to float32), probabilities a
    plain tensor [N, classes]. The file appears whole or not at all; what was at `path` is replaced.

    Args:
        estimator: fitted.
        path: the .onnx file to write.
        example: some rows of what it was fitted on. An array of numbers [N, features], or nothing, gives one input
            `X` FP32 [-1, features]; an array of strings one of BYTES. A data frame, or an array of objects with
            columns of numbers and of strings, gives one input [-1, 1] for each column, named as the column.
        opset: operator set of the standard domain.
        seed: for the random inputs that the file is compared on, where there is no example.

    Raises:
        MissingPackage: scikit-learn or skl2onnx is not installed.
        UnsuitableModel: it is not a fitted estimator, or the example does not fit it.
        ExportFailed: skl2onnx has no converter for it.
        VerificationFailed: the file does not compute what the estimator computes.

    Example:
        ```python
        export_scikit_learn(LogisticRegression().fit(features, labels), "model.onnx", example=features[:100])
        ```
    """
    base = require("sklearn.base", "scikit-learn")
    skl2onnx = require("skl2onnx", "scikit-learn")
    target = check_path(path)
    _check_estimator(base, estimator)
    table = table_from_example(estimator, example) if example is not None else _random_rows(estimator, seed)
    with staged(target) as made, quiet():
        model = _convert(skl2onnx, base, estimator, table, opset)
        onnx.save(model, made)
        answers = answers_of(estimator, table, model)
        samples = [(table.inputs, answers), (_first_row(table.inputs), _first_row(answers))]
        try:
            return export_file(made, target, samples, packages=_PACKAGES, names="the estimator")
        except VerificationFailed as error:
            if any(node.op_type.startswith("TreeEnsemble") for node in model.graph.node):
                raise VerificationFailed(f"{error}. {_TREES}") from error
            raise


def _first_row(arrays: Arrays) -> Arrays:
    return {name: array[:1] for name, array in arrays.items()}


def _check_estimator(base: Any, estimator: Any) -> None:
    if not hasattr(estimator, "fit") or isinstance(estimator, type):
        raise UnsuitableModel(f"a {type(estimator).__name__} is not a scikit-learn estimator: give a fitted one")
    try:
        require("sklearn.utils.validation", "scikit-learn").check_is_fitted(estimator)
    except Exception as error:
        raise UnsuitableModel(f"the {type(estimator).__name__} is not fitted: call its fit first") from error
    if not isinstance(estimator, base.BaseEstimator):
        raise UnsuitableModel(
            f"a {type(estimator).__module__}.{type(estimator).__name__} is not one of scikit-learn's own estimators: "
            "export it with the converter of its own library"
        )


def _random_rows(estimator: Any, seed: int) -> Table:
    names = getattr(estimator, "feature_names_in_", None)
    features = getattr(estimator, "n_features_in_", None)
    if names is not None or features is None:
        why = "was fitted on named columns" if names is not None else "does not say how many features it takes"
        raise UnsuitableModel(f"the {type(estimator).__name__} {why}: give some rows of its data as example")
    return random_table(int(features), _ROWS, seed)


def _convert(skl2onnx: Any, base: Any, estimator: Any, table: Table, opset: int) -> onnx.ModelProto:
    types = require("skl2onnx.common.data_types", "scikit-learn")
    kinds = {"f": types.FloatTensorType, "O": types.StringTensorType}
    declared = [(name, kinds[array.dtype.kind]([None, array.shape[1]])) for name, array in table.inputs.items()]

    def convert(options: dict[str, bool] | None) -> onnx.ModelProto:
        model: onnx.ModelProto = skl2onnx.to_onnx(
            estimator,
            initial_types=declared,
            options=options,
            target_opset={"": opset, "ai.onnx.ml": _ML_OPSET},
            name=type(estimator).__name__.lower(),
        )
        return model

    try:
        try:
            # Without it probabilities are a sequence of maps, which no server takes.
            model = convert({"zipmap": False} if base.is_classifier(estimator) else None)
        except NameError as error:
            # skl2onnx's own: a classifier that gives no such maps does not know the option.
            if "zipmap" not in str(error):
                raise
            model = convert(None)
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise ExportFailed(
            f"skl2onnx cannot convert the {type(estimator).__name__}: {type(error).__name__}: {said}"
        ) from error
    for value in model.graph.output:
        # The converters write a zero where they mean any number of rows.
        shape = value.type.tensor_type.shape
        if shape.dim and not shape.dim[0].dim_param:
            shape.dim[0].Clear()
    return model
