"""Inputs in which NaN is a value: it stands for one that is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["inputs_with_missing_values"]

# Trees have a branch for NaN, and these are made to find it.
_TAKING_NAN = {"Imputer", "IsNaN", "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"}
_PASSING = {"ArrayFeatureExtractor", "Cast", "Concat", "FeatureVectorizer", "Flatten", "Gather", "Identity", "Reshape"}
_PASSING |= {"Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}


def inputs_with_missing_values(model: onnx.ModelProto) -> frozenset[str]:
    """The inputs that nodes read which know what to do with NaN: trees, imputers and tests for it."""
    origins = {value.name: {value.name} for value in model.graph.input}
    found: set[str] = set()
    for node in model.graph.node:
        read = set().union(*(origins.get(name, set()) for name in node.input))
        if node.op_type in _TAKING_NAN:
            found |= read
        if node.op_type in _PASSING:
            origins.update((name, read) for name in node.output)
    return frozenset(found)
