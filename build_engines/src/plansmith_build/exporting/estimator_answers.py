"""What a scikit-learn estimator answers, in the form in which its ONNX graph does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from plansmith_build.exporting.errors import UnsuitableModel

if TYPE_CHECKING:
    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.exporting.tables import Table

__all__ = ["answers_of"]

# Which methods give what an output of this name holds, in the order in which they are asked.
_METHODS = {
    "label": ("predict",),
    "variable": ("predict", "transform"),
    "probabilities": ("predict_proba", "decision_function"),
    "scores": ("transform", "decision_function", "score_samples"),
}
_TRANSFORMED = ("transform", "predict")


def answers_of(estimator: Any, table: Table, model: onnx.ModelProto) -> Arrays:
    """An array for each output of the graph that skl2onnx made.

    Args:
        estimator: fitted.
        table: the rows.
        model: the graph.

    Raises:
        UnsuitableModel: the estimator does not run on the rows, or an output has no counterpart among its methods.
    """
    answers: Arrays = {}
    for value in model.graph.output:
        element = value.type.tensor_type.elem_type
        if element == onnx.TensorProto.UNDEFINED:
            raise UnsuitableModel(
                f"output {value.name!r} of the {type(estimator).__name__} is not a tensor: it cannot be served"
            )
        dimensions = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim][1:]
        answers[value.name] = _answer(estimator, table, value.name, element, dimensions)
    return answers


def _answer(
    estimator: Any, table: Table, output: str, element: int, dimensions: list[int]
) -> np.ndarray[Any, np.dtype[Any]]:
    methods = _METHODS.get(output, _TRANSFORMED)
    rows = len(next(iter(table.inputs.values())))
    for method in methods:
        if not hasattr(estimator, method):
            continue
        given = _call(estimator, method, table.rows)
        given = np.asarray(given.toarray() if hasattr(given, "toarray") else given)
        if output == "probabilities" and given.ndim == 1:
            # The decision function of two classes is the second one's.
            given = np.stack([-given, given], axis=1)
        if 0 not in dimensions:
            shape = (rows, *dimensions)
            if given.size != math.prod(shape):
                continue
            given = given.reshape(shape)
        return _typed(given, element)
    raise UnsuitableModel(
        f"output {output!r} of the {type(estimator).__name__} has no counterpart among its methods "
        f"({', '.join(methods)}), so it cannot be compared"
    )


def _call(estimator: Any, method: str, rows: Any) -> Any:
    try:
        return getattr(estimator, method)(rows)
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise UnsuitableModel(
            f"the {type(estimator).__name__} does not run on the example rows: {type(error).__name__}: {said}"
        ) from error


def _typed(array: np.ndarray[Any, np.dtype[Any]], element: int) -> np.ndarray[Any, np.dtype[Any]]:
    if element == onnx.TensorProto.STRING:
        strings = np.empty(array.size, dtype=object)
        strings[:] = [str(entry) for entry in array.reshape(-1).tolist()]
        return strings.reshape(array.shape)
    return array.astype(onnx.helper.tensor_dtype_to_np_dtype(element))
