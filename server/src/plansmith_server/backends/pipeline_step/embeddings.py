"""Vectors of tokens to one vector for each text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_server.backends.signature import TensorInfo

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["EmbeddingStep"]

_SMALLEST = 1e-12


class EmbeddingStep:
    """Pools the vectors of a text's tokens, and scales the result to the length 1.

    Takes `tokens` (FP32, [rows, tokens, size]) and `attention_mask` ([rows, tokens]), or `vector` (FP32,
    [rows, size]) for the pooling `none`. Gives `embedding` (FP32, [rows, size]).

    Args:
        folder: of the version.
        size: of the vectors.
        pooling: `mean` or `max` of the tokens that the mask keeps, `first` for the first token's vector, or `none`
            where the model has pooled them.
        normalize: whether the result is scaled.
        datatype: of the mask.
    """

    def __init__(self, folder: Path, *, size: int, pooling: str, normalize: bool, datatype: str) -> None:
        del folder
        self._pool = {"mean": _mean, "max": _max, "first": _first, "none": None}[pooling]
        self._normalize = normalize
        tokens = TensorInfo("tokens", "TYPE_FP32", (-1, -1, size))
        mask = TensorInfo("attention_mask", f"TYPE_{datatype}", (-1, -1))
        self.inputs = (tokens, mask) if self._pool else (TensorInfo("vector", "TYPE_FP32", (-1, size)),)
        self.outputs = (TensorInfo("embedding", "TYPE_FP32", (-1, size)),)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Step`."""
        vectors = (
            self._pool(inputs["tokens"], inputs["attention_mask"][:, :, np.newaxis].astype(bool))
            if self._pool
            else inputs["vector"]
        )
        if self._normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _SMALLEST)
        return {"embedding": vectors.astype(np.float32)}


def _mean(tokens: NDArray[Any], kept: NDArray[np.bool_]) -> NDArray[Any]:
    sums: NDArray[Any] = (tokens * kept).sum(axis=1) / np.maximum(kept.sum(axis=1), 1)
    return sums


def _max(tokens: NDArray[Any], kept: NDArray[np.bool_]) -> NDArray[Any]:
    greatest: NDArray[Any] = np.where(kept, tokens, -np.inf).max(axis=1)
    return greatest


def _first(tokens: NDArray[Any], kept: NDArray[np.bool_]) -> NDArray[Any]:
    del kept
    first: NDArray[Any] = tokens[:, 0]
    return first
