"""Scoring a Spark data frame: the extra `spark`."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from plansmith_client.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from plansmith_client.bulk import BulkScorer
    from plansmith_client.tensors import TensorSpec

__all__ = ["score"]

# Spark has no unsigned types, and none of half precision: the smallest that holds every value.
_TYPES = {
    "BOOL": "BooleanType",
    "INT8": "ByteType",
    "UINT8": "ShortType",
    "INT16": "ShortType",
    "UINT16": "IntegerType",
    "INT32": "IntegerType",
    "UINT32": "LongType",
    "INT64": "LongType",
    "FP16": "FloatType",
    "BF16": "FloatType",
    "FP32": "FloatType",
    "FP64": "DoubleType",
    "BYTES": "BinaryType",
}


def score(frame: Any, scorer: BulkScorer) -> Any:
    """A Spark data frame with the model's outputs as further columns; nothing runs until an action.

    Each Python worker has one connection, and holds as many rows as `spark.sql.execution.arrow.maxRecordsPerBatch`
    says. Spark runs the task of a lost worker again.

    Args:
        frame: a `pyspark.sql.DataFrame`.
        scorer: what to ask, and how. The server is asked at once for the outputs' types.

    Returns:
        A `pyspark.sql.DataFrame` of as many rows.

    Raises:
        InvalidInput: an output is UINT64, for which Spark has no type.

    Example:
        ```python
        scored = plansmith_client.spark.score(frame, BulkScorer("triton:8001", "digits", columns={"image": "pixels"}))
        ```
    """
    schema = copy.deepcopy(frame.schema)
    for spec in scorer.output_specs():
        schema.add(spec.name, _spark_type(spec))

    def scored(parts: Iterable[Any]) -> Iterator[Any]:
        return map(scorer.with_outputs, parts)

    return frame.mapInPandas(scored, schema)


def _spark_type(spec: TensorSpec) -> Any:
    from pyspark.sql import types  # noqa: PLC0415 - the package stays free of engines

    if spec.datatype not in _TYPES:
        raise InvalidInput(
            f"output {spec.name!r} is {spec.datatype}, for which Spark has no type: leave it out with outputs="
        )
    kind = getattr(types, _TYPES[spec.datatype])()
    for _ in spec.shape[1:] if spec.shape[1:] != (1,) else ():
        kind = types.ArrayType(kind)
    return kind
