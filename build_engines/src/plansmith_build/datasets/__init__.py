"""Calibration and validation data: loaded from what the user names, checked against the model, and kept apart."""

from __future__ import annotations

from plansmith_build.datasets.dataset import Batches, Dataset
from plansmith_build.datasets.errors import (
    DataFunctionFailed,
    InvalidData,
    InvalidLabels,
    InvalidPreprocessing,
    TooFewRows,
)
from plansmith_build.datasets.loading import load_dataset
from plansmith_build.datasets.preprocessing import Preprocessing, read_preprocessing
from plansmith_build.datasets.splitting import split, without_rows_of

__all__ = [
    "Batches",
    "DataFunctionFailed",
    "Dataset",
    "InvalidData",
    "InvalidLabels",
    "InvalidPreprocessing",
    "Preprocessing",
    "TooFewRows",
    "load_dataset",
    "read_preprocessing",
    "split",
    "without_rows_of",
]
