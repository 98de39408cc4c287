"""The user's own inputs for the verification: a few rows of data, each for one run of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_build.datasets.loading import load_dataset
from plansmith_build.portable.sampling import leading_rows

if TYPE_CHECKING:
    from plansmith_build.datasets.preprocessing import Preprocessing
    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.portable.batch_obstacles import BatchAxis
    from plansmith_build.reading.signatures import Signature

__all__ = ["MOST_SAMPLES", "read_samples"]

MOST_SAMPLES = 8
"""How many rows are used, random ones where there are more."""


def read_samples(
    source: str, signature: Signature, *, axis: BatchAxis, preprocessing: Preprocessing | None, seed: int
) -> tuple[Arrays, ...]:
    """Up to `MOST_SAMPLES` inputs.

    Args:
        source: see `load_dataset`.
        signature: the model's.
        axis: the batch dimension, if the user named it.
        preprocessing: how an image becomes a row; for images only.
        seed: chooses the rows.

    Raises:
        InvalidData: the data does not fit the model.
    """
    data = load_dataset(
        source,
        signature,
        preprocessing=preprocessing,
        max_rows=MOST_SAMPLES,
        batched=leading_rows(signature, axis) in {-1, 1},
        seed=seed,
    )
    return tuple(data.batches(1))
